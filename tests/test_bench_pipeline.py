"""The full-size benchmark at a tiny size: steered decoders give the target, every stage is measured."""

import asyncio
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trellis_app import bench_batch, bench_pipeline, bench_serve, released
from trellis_app.bench_assets import synthetic_asset
from trellis_app.bench_models import RandomTokens, Target
from trellis_app.settings import AppSettings, FinishOptions, GenerationRequest, SamplerSettings
from trellis_app.sparse.tensor import SparseTensor
from trellis_app.types import FinishedAsset, MaterialLatent, OVoxel, ShapeLatent

CPU = torch.device("cpu")
TINY = {"model_channels": 48, "cond_channels": 1024, "num_blocks": 1, "num_heads": 3, "resolution": 8, "mlp_ratio": 2.0}
TINY_DECODER = {"model_channels": [32, 32, 16, 16, 16], "num_blocks": [0, 0, 0, 0, 0]}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The released bundle with narrow models."""

    def shrunk(checkpoint: released.Checkpoint) -> released.Checkpoint:
        if "Flow" in checkpoint.name:
            return replace(checkpoint, args={**checkpoint.args, **TINY})
        if checkpoint.name == "SparseStructureDecoder":
            return replace(checkpoint, args={**checkpoint.args, "channels": [8, 4, 4]})
        return replace(checkpoint, args={**checkpoint.args, **TINY_DECODER})

    monkeypatch.setattr(released, "CHECKPOINTS", {k: shrunk(c) for k, c in released.CHECKPOINTS.items()})


def test_every_stage_is_measured(tiny: None, tmp_path: Path) -> None:
    bench = bench_pipeline.PipelineBench(tmp_path, CPU, None, RandomTokens(CPU))
    target, coarse = (Target.of(side, CPU, radius=0.34) for side in (64, 48))
    runs = [bench.run("1024_cascade", (target, coarse), None) for _ in range(2)]
    assert [stage.name for stage in runs[0]] == [
        "picture features", "structure", "coarse shape flow", "cascade", "shape flow", "shape decoder",
        "material flow", "material decoder",
    ]  # fmt: skip
    rows = {stage.name: stage.rows for stage in runs[1]}
    assert rows["shape decoder"] == rows["material decoder"] == len(target.asset.attributes)
    assert rows["shape flow"] == len(target.coords)
    assert bench.steering._occupancy(torch.zeros(1, 1, 32, 32, 32)).gt(0).sum() == len(coarse.coords)
    summary = bench_pipeline.summary(runs[0], runs[1:], runs[1])
    assert "material decoder" in bench_pipeline.table({"1024_cascade": summary})


def test_errors_of_the_fast_path(tiny: None, tmp_path: Path) -> None:
    bench = bench_pipeline.PipelineBench(tmp_path, CPU, None, RandomTokens(CPU))
    errors = bench.errors("512", (Target.of(64, CPU, radius=0.34), None), "fp8")
    assert errors["shape, fast against plain"] == errors["material, fast against plain"] == 0  # on a CPU they are one
    assert 0 < errors["shape, fp8 against bf16"] < 0.1
    assert bench.errors("512", (Target.of(64, CPU, radius=0.34), None), "fp8") == errors  # bf16 came back between


@torch.inference_mode()
def test_decoders_give_the_target(tiny: None, tmp_path: Path) -> None:
    bench = bench_pipeline.PipelineBench(tmp_path, CPU, None, RandomTokens(CPU))
    target = Target.of(48, CPU, radius=0.34, walls=2)
    bench.steering.target = target
    latent = SparseTensor(torch.zeros(len(target.coords), 32), target.coords)
    grid, guides = bench.pipeline.decode_shape(ShapeLatent(latent, (48,)))
    expected = target.asset.grid
    assert torch.equal(grid.coords, expected.coords[target.rows])
    assert torch.equal(grid.crossed, expected.crossed[target.rows])
    torch.testing.assert_close(grid.dual, expected.dual[target.rows], atol=1e-4, rtol=0)
    asset = bench.pipeline.decode_material(MaterialLatent(latent), grid, guides)
    torch.testing.assert_close(asset.attributes, target.asset.attributes[target.rows], atol=1e-5, rtol=0)


def test_a_preset_is_reported_with_its_memory(tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_pipeline.PipelineBench(tmp_path, CPU, 5.0, RandomTokens(CPU))
    monkeypatch.setattr(bench, "targets", lambda *_: (Target.of(64, CPU, radius=0.34), None))
    options = bench_pipeline.PipelineOptions(runs=1, memory_budget_gb=5.0)
    report = bench_pipeline.measured(bench, bench_pipeline.case_of("512"), options)
    assert report["memory"]["within_budget"]
    assert report["memory"]["tried_again"] == report["warnings"] == []
    text = bench_pipeline.table({"512": report, "1024": {"out_of_memory": "no room"}, "commit": "abc"})
    assert "within_budget True" in text
    assert "no room" in text


def test_cases() -> None:
    """What `--resolution 1024` means is a cascade; other commands name the preset itself, which may have one pass."""
    assert bench_pipeline.CASES["1024"].preset == "1024_cascade"
    assert bench_pipeline.case_of("1024").preset == "1024"
    assert bench_pipeline.case_of("1536_cascade") == bench_pipeline.CASES["1536"]


def test_the_largest_case_has_nearly_as_many_tokens_as_a_cascade_may_have() -> None:
    """Counted on cells of a sixth of the voxels: the number hardly depends on how fine the voxels are."""
    case = bench_pipeline.CASES["1536_max"]
    coords = synthetic_asset(256, kind=case.kind, radius=case.radius).grid.coords
    tokens = len(torch.unique(coords * 96 // 256, dim=0))
    assert 0.9 * GenerationRequest().max_tokens < tokens < GenerationRequest().max_tokens
    octants = torch.unique((coords >= 128).int() @ torch.tensor([1, 2, 4], dtype=torch.int32))
    assert len(octants) == 8


def test_floor() -> None:
    """The baseline's floor of the shape flow at 21,000 tokens, 21 forward passes."""
    sampler = SamplerSettings(guidance_strength=7.5, guidance_rescale=0.5, rescale_t=3.0, guidance_interval=(0.6, 1.0))
    assert bench_pipeline.flow_floor(21_000, 4101, sampler) == pytest.approx(4.0, abs=0.2)


def test_a_batch_is_compared_with_single_runs(tiny: None, tmp_path: Path) -> None:
    bench = bench_pipeline.PipelineBench(tmp_path, CPU, None, RandomTokens(CPU))
    bench.steering.target = Target.of(512, CPU, radius=0.03)
    bench.steering.items = 2
    options = bench_batch.BatchOptions(2, 2, 1, finish=FinishOptions(faces=500, texture_size=64))
    report = bench_batch.measured(bench, "512", options)
    assert len(report["differences"]) == 2
    for row in report["differences"]:
        assert row["structure_cells"] < 0.01
        assert max(row.values()) < 0.01
    assert set(report["seconds"]) == {
        "single_sampled", "batch_sampled", "single_finished", "batch_of_1_finished", "batch_finished"
    }  # fmt: skip
    assert "batch_finished" in bench_batch.table({"512": report})


def test_a_worker_with_random_weights_gives_the_steered_surface(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench_pipeline.CASES, "512", bench_pipeline.Case("512", 0.03))
    monkeypatch.setattr(bench_pipeline, "random_encoder", RandomTokens)
    studio = bench_serve.RandomStudio(AppSettings(device="cpu", bundle="mini"))
    few, small = SamplerSettings(steps=2), FinishOptions(faces=500, texture_size=64)
    request = GenerationRequest("512", structure=few, shape=few, material=few, finish=small)

    async def results() -> list[object]:
        return [event.result async for event in studio.generate(bench_pipeline.BLANK, request)]  # type: ignore[union-attr]

    made = asyncio.run(results())
    (asset,) = (result for result in made if isinstance(result, OVoxel))
    target = studio._bench.steering.target
    assert target is not None
    assert torch.equal(asset.grid.coords, target.asset.grid.coords[target.rows])
    assert isinstance(made[-1], FinishedAsset)


def test_each_resolution_is_told_as_soon_as_it_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(bench: object, case: bench_pipeline.Case, options: object) -> dict[str, object]:
        if case.preset != "512":
            raise RuntimeError("CUDA out of memory")
        return {"stages": [], "total_seconds": 1.5}

    monkeypatch.setattr(bench_pipeline, "measured", measured)
    monkeypatch.setattr(bench_pipeline, "bench_on", lambda *_: nullcontext())
    told: list[str] = []
    report = bench_pipeline.bench_pipeline(["512", "1024"], CPU, bench_pipeline.PipelineOptions(), told.append)
    assert len(told) == 2
    assert "1.500" in told[0]
    assert "out of memory" in told[1]
    assert report["1024"] == {"out_of_memory": "CUDA out of memory"}
