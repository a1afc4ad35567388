"""Several assets in one call: each equals its single run, and what befalls one does not harm the others."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from tests.tiny_bundle import write_tiny_bundle
from trellis_app import batch
from trellis_app.batch import Outcome, Sample, finishing_lead, finishing_workers, generate_batch, group_size
from trellis_app.errors import BundleError, EmptyAssetError
from trellis_app.memory import MemoryPlan
from trellis_app.pipeline import ImageTo3D
from trellis_app.settings import GenerationRequest
from trellis_app.types import OVoxel, StageEvent
from trellis_app.weights import load_bundle

REQUEST = GenerationRequest()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> ImageTo3D:
    return ImageTo3D(load_bundle(write_tiny_bundle(tmp_path_factory.mktemp("tiny"))), torch.device("cpu"))


@pytest.fixture(scope="module")
def samples(tiny) -> list[Sample]:
    image = Image.new("RGBA", (96, 96), (0, 0, 0, 0))
    image.paste((200, 60, 20, 255), (20, 20, 76, 76))
    pictures = [tiny.prepare(image), tiny.prepare(image.rotate(20))]
    return [Sample(pictures[0], 3), Sample(pictures[1], 4), Sample(pictures[0], 5)]


def outcomes(beats) -> list[Outcome]:
    return [beat for beat in beats if isinstance(beat, Outcome)]


def alone(pipeline: ImageTo3D, sample: Sample) -> OVoxel:
    run = pipeline.generate(sample.picture, GenerationRequest(seed=sample.seed), finish=False)
    return next(event.result for event in run if isinstance(event.result, OVoxel))


def same(found: OVoxel | None, expected: OVoxel, tolerance: float) -> bool:
    assert found is not None
    assert torch.equal(found.grid.coords, expected.grid.coords)
    torch.testing.assert_close(found.attributes, expected.attributes, atol=tolerance, rtol=0)
    torch.testing.assert_close(found.grid.dual, expected.grid.dual, atol=tolerance, rtol=0)
    return True


@pytest.mark.parametrize(("together", "tolerance"), [(3, 1e-4), (2, 1e-4), (1, 0.0), (None, 0.0)])
def test_each_sample_equals_its_single_run(tiny, samples, together, tolerance):
    made = outcomes(generate_batch(tiny, samples, REQUEST, together=together))
    assert [outcome.index for outcome in made] == [0, 1, 2]
    for sample, outcome in zip(samples, made, strict=True):
        assert same(outcome.voxels, alone(tiny, sample), tolerance)


def test_one_picture_is_encoded_once_a_group(tiny, samples, monkeypatch):
    encoded = []
    features = tiny.features
    monkeypatch.setattr(tiny, "features", lambda picture, side: encoded.append(side) or features(picture, side))
    assert len(outcomes(generate_batch(tiny, samples, REQUEST, together=3))) == 3
    assert len(encoded) == 2


def test_a_sample_without_an_object_loses_only_itself(tiny, samples, monkeypatch):
    """The structure of seed 4 is empty, whether it is sampled alone or with others."""
    decoder = tiny.bundle.model("sparse_structure_decoder")
    decode, structure, expected = decoder.forward, tiny.structure, [alone(tiny, sample) for sample in samples]
    fourth, states = torch.Generator().manual_seed(4).get_state(), []

    def spied(run):
        states[:] = [random.get_state() for random in run.randoms]
        return structure(run)

    def empty_for_seed_4(latent: torch.Tensor) -> torch.Tensor:
        logits = decode(latent)
        for item, state in enumerate(states):
            if torch.equal(state, fourth):
                logits[item] = -1.0
        return logits

    monkeypatch.setattr(tiny, "structure", spied)
    monkeypatch.setattr(decoder, "forward", empty_for_seed_4)
    for together in (3, 1):
        made = outcomes(generate_batch(tiny, samples, REQUEST, together=together))
        assert isinstance(made[1].error, EmptyAssetError)
        assert made[1].voxels is None
        assert same(made[0].voxels, expected[0], 1e-4)
        assert same(made[2].voxels, expected[2], 1e-4)


def test_a_shape_without_a_surface_loses_only_itself(tiny, samples, monkeypatch):
    decode, calls = tiny.decode_shape, []

    def second_is_empty(shape):
        calls.append(shape)
        if len(calls) == 2:
            raise EmptyAssetError("The shape stage produced no surface.", "Try another seed or picture.")
        return decode(shape)

    monkeypatch.setattr(tiny, "decode_shape", second_is_empty)
    made = outcomes(generate_batch(tiny, samples, REQUEST, together=3))
    assert [outcome.index for outcome in made if outcome.voxels is not None] == [0, 2]
    assert isinstance(made[1].error, EmptyAssetError)


def test_too_little_memory_halves_the_group(tiny, samples, monkeypatch):
    """Four at once do not fit, two do; an asset that was made before the memory ran out is not made again."""
    shape, decode, groups = tiny.shape, tiny.decode_shape, []

    def small(occupancy, run):
        groups.append(len(run.randoms))
        if len(run.randoms) > 2:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return (yield from shape(occupancy, run))

    def once(latent):
        if groups == [4, 2] and not failed:
            failed.append(True)
            return decode(latent)
        if failed == [True]:
            failed.append(True)
            raise torch.cuda.OutOfMemoryError("out of memory")
        return decode(latent)

    failed: list[bool] = []
    four = [*samples, Sample(samples[1].picture, 6)]
    expected = [alone(tiny, sample) for sample in four]
    monkeypatch.setattr(tiny, "shape", small)
    monkeypatch.setattr(tiny, "decode_shape", once)
    made = outcomes(generate_batch(tiny, four, REQUEST, together=4))
    assert [outcome.index for outcome in made] == [0, 1, 2, 3]
    assert groups == [4, 2, 1, 1, 1]
    for outcome, single in zip(made, expected, strict=True):
        assert same(outcome.voxels, single, 1e-4)


def test_an_error_of_the_bundle_ends_the_batch(tiny, samples, monkeypatch):
    def broken(latent):
        raise BundleError("The bundle is broken.", "Get another.")

    monkeypatch.setattr(tiny, "decode_shape", broken)
    with pytest.raises(BundleError, match="broken"):
        list(generate_batch(tiny, samples, REQUEST, together=2))


def test_closing_stops_the_batch_within_a_step(tiny, samples):
    beats = generate_batch(tiny, samples, REQUEST, together=3)
    assert isinstance(next(beats), StageEvent)
    beats.close()
    with pytest.raises(StopIteration):
        next(beats)
    assert len(outcomes(generate_batch(tiny, samples[:1], REQUEST))) == 1


def test_nothing_is_made_of_nothing(tiny):
    assert list(generate_batch(tiny, [], REQUEST)) == []


def test_on_a_cpu_samples_run_alone_unless_asked_otherwise(tiny):
    assert group_size(tiny) == 1
    assert finishing_lead(tiny) == 0
    assert finishing_workers(tiny) == 1


@pytest.mark.parametrize(
    ("free", "taken", "stays", "size", "lead"),
    [
        (140, 0, "abc", 4, 2),  # nothing is loaded yet: the models will take 10
        (23, 0, "abc", 2, 2),
        (13, 10, "abc", 2, 2),  # all are loaded
        (11, 6, "abc", 1, 0),
        (11, 0, "a", 1, 0),  # 2 stay, two of 4 come and go
        (19, 0, "a", 1, 2),
    ],
)
def test_what_the_memory_holds(monkeypatch, free, taken, stays, size, lead):
    """GB: models of 2, 4 and 4, a sample of 3, finishing of 4.8."""
    sizes = {"a": 2, "b": 4, "c": 4}
    bundle = SimpleNamespace(config=SimpleNamespace(models=sizes), weight_bytes=lambda key, *_: sizes[key] * 10**9)
    device, stay = torch.device("cuda"), MemoryPlan(frozenset(stays))
    pipeline = SimpleNamespace(device=device, bundle=bundle, plan=stay, precision="bf16")
    monkeypatch.setattr(batch, "free_gb", lambda device: free)
    monkeypatch.setattr(batch, "parallel_loops_may_meet", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: taken * 10**9)
    assert (group_size(pipeline), finishing_lead(pipeline)) == (size, lead)
    assert finishing_workers(pipeline) == min(size, 2)
    monkeypatch.setattr(batch, "parallel_loops_may_meet", lambda: False)
    assert finishing_workers(pipeline) == 1
