"""Several assets in one call: pictures and seeds sampled together, each as its own run would give it.

    samples ──groups that fit the memory──▶ structure ▶ shape ▶ material ──one by one──▶ decoders ──▶ Outcome
                                                                                            │
                                            finishing, beside the sampling of the next ◀────┘
Use:
    samples = [Sample(pipeline.prepare(picture), seed) for picture in pictures for seed in (1, 2, 3)]
    for beat in generate_batch(pipeline, samples, GenerationRequest()):
        if isinstance(beat, Outcome):
            ...  # beat.index, and beat.voxels or beat.error
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

import torch

from trellis_app.devices import on_cpu
from trellis_app.errors import EmptyAssetError, MachineError, TrellisError
from trellis_app.export.sidecar import RunLog
from trellis_app.footprint import footprint
from trellis_app.memory import FINISH_GB, GB, free_gb, out_of_memory
from trellis_app.parallel import parallel_loops_may_meet
from trellis_app.pipeline import ImageTo3D
from trellis_app.progress import RunClock
from trellis_app.run import Run
from trellis_app.settings import GenerationRequest
from trellis_app.types import ImageFeatures, MaterialLatent, OVoxel, PreparedImage, ShapeLatent, Stage, StageEvent

LOG = logging.getLogger(__name__)
MOST_TOGETHER = 4  # more fill no GPU better
MOST_FINISHING = 2
MOST_WAITING = 2  # assets in main memory, to be finished
SAMPLE_GB = 3.0  # of a flow at 49,152 tokens: keys and values of the picture, activations, both latents


@dataclass(frozen=True)
class Sample:
    """One asset of a batch."""

    picture: PreparedImage
    seed: int


@dataclass(frozen=True)
class Outcome:
    """How one sample ended: with an asset in main memory, or with the error that only this one met."""

    index: int  # of the sample
    voxels: OVoxel | None = None
    error: TrellisError | None = None
    seconds: dict[str, float] = field(default_factory=dict)  # by stage, of the pass that the sample was in
    together: int = 1  # samples in that pass


Value = TypeVar("Value")
Beats = Generator[StageEvent | Outcome, None, None]


def generate_batch(
    pipeline: ImageTo3D, samples: Sequence[Sample], request: GenerationRequest, *, together: int | None = None
) -> Beats:
    """Each sample's Outcome as soon as it is known, and an event each sampler step, so closing stops it within one.

    Preset and samplers are those of `request`, whose own seed is not used: each sample draws its noise from its seed.
    together: how many share a pass, `group_size` where None is given; a group for which the memory is too small is
    halved. Samples alone in a group equal `ImageTo3D.generate` exactly, others up to the rounding of a larger matrix
    product. A sample without an object ends with its EmptyAssetError, one that no memory suffices for with its
    MachineError; other errors end the batch.
    """
    request = pipeline.resolved(request)
    left, size = list(range(len(samples))), together or group_size(pipeline)
    while left:
        group = left[:size]
        try:
            with closing(_run(pipeline, [samples[index] for index in group], request)) as beats:
                for beat in beats:
                    if isinstance(beat, Outcome):
                        beat = replace(beat, index=group[beat.index])
                        left.remove(beat.index)
                    yield beat
        except RuntimeError as error:
            if len(group) == 1 or not out_of_memory(error):
                raise
            size = max(1, len(group) // 2)
            LOG.warning("the GPU has no room for %d samples at once; going on with %d", len(group), size)
            torch.cuda.empty_cache()


def group_size(pipeline: ImageTo3D) -> int:
    """How many samples to sample together: on a CPU one, which keeps its cores busy; on a GPU what the memory holds."""
    if pipeline.device.type == "cpu":
        return 1
    return max(1, min(MOST_TOGETHER, int((room_gb(pipeline) - FINISH_GB) // SAMPLE_GB)))


def finishing_lead(pipeline: ImageTo3D) -> int:
    """How many assets may wait to be finished beside the sampling of the next: where a GPU has room for both."""
    beside = pipeline.device.type != "cpu" and room_gb(pipeline) >= FINISH_GB + SAMPLE_GB
    return MOST_WAITING if beside else 0


def finishing_workers(pipeline: ImageTo3D) -> int:
    """How many assets to finish at once: each has times when it needs no GPU, and others when it needs one core."""
    if pipeline.device.type == "cpu" or not parallel_loops_may_meet():
        return 1
    return MOST_FINISHING if room_gb(pipeline) >= MOST_FINISHING * FINISH_GB + SAMPLE_GB else 1


def room_gb(pipeline: ImageTo3D) -> float:
    """What a GPU has beside the models that stay and two that come, whether they are there yet or not."""
    device, stays = pipeline.device, pipeline.plan.stays
    sizes = footprint(pipeline.bundle, {}, device, pipeline.precision)
    staying = sum(size for key, size in sizes.items() if key in stays)
    coming = 2 * max((size for key, size in sizes.items() if key not in stays), default=0)
    taken = torch.cuda.memory_allocated(device)
    return free_gb(device) + (taken - max(staying + coming, taken)) / GB


def _run(pipeline: ImageTo3D, samples: Sequence[Sample], request: GenerationRequest) -> Beats:
    return _group(pipeline, samples, request) if len(samples) > 1 else _alone(pipeline, samples[0], 0, request)


@torch.inference_mode()
def _group(pipeline: ImageTo3D, samples: Sequence[Sample], request: GenerationRequest) -> Beats:
    """Outcomes in the order of the samples, by index. Where one has no object, each runs alone."""
    log, clock = RunLog(), RunClock()
    try:
        shape, material = yield from _noted(_latents(pipeline, samples, request, clock), log)
    except EmptyAssetError:
        for index, sample in enumerate(samples):
            yield from _alone(pipeline, sample, index, request)
        return
    for index, pair in enumerate(zip(shape.items(), material.items(), strict=True)):
        voxels, error = _decoded(pipeline, *pair)
        event = clock.event(Stage.MATERIAL, f"decoded {index + 1} of {len(samples)}", 9, 10)
        log.note(event)
        yield event
        yield Outcome(index, voxels, error, log.rounded(), len(samples))


def _alone(pipeline: ImageTo3D, sample: Sample, index: int, request: GenerationRequest) -> Beats:
    """One sample's run, with all that a run does against want of memory."""
    log, voxels, failure = RunLog(), None, None
    try:
        for event in pipeline.generate(sample.picture, replace(request, seed=sample.seed), finish=False):
            log.note(event)
            yield event
            if isinstance(event.result, OVoxel):
                voxels = event.result
    except (EmptyAssetError, MachineError) as error:
        failure = error
    yield Outcome(index, voxels, failure, log.rounded())


def _noted(events: Generator[StageEvent, None, Value], log: RunLog) -> Generator[StageEvent, None, Value]:
    """The same events, each noted."""
    with closing(events):
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                return cast(Value, end.value)
            log.note(event)
            yield event


def _latents(
    pipeline: ImageTo3D, samples: Sequence[Sample], request: GenerationRequest, clock: RunClock
) -> Generator[StageEvent, None, tuple[ShapeLatent, MaterialLatent]]:
    """The three flows on the rows of all samples; raises EmptyAssetError where one has no object."""
    run = begin(pipeline, samples, request, clock)
    yield from pipeline.fetch(run.preset.models)
    yield clock.event(Stage.STRUCTURE, "starting", 0, 1)
    occupancy = yield from pipeline.structure(run)
    shape = yield from pipeline.shape(occupancy, run)
    material = yield from pipeline.material(shape, run)
    return shape, material


def _decoded(
    pipeline: ImageTo3D, shape: ShapeLatent, material: MaterialLatent
) -> tuple[OVoxel | None, EmptyAssetError | None]:
    """One sample's asset, or the error that it has no surface."""
    try:
        grid, guides = pipeline.decode_shape(shape)
    except EmptyAssetError as error:
        return None, error
    return on_cpu(pipeline.decode_material(material, grid, guides)), None


def begin(pipeline: ImageTo3D, samples: Sequence[Sample], request: GenerationRequest, clock: RunClock) -> Run:
    """What the stages of a group share: a picture that several samples have is encoded once."""

    @functools.cache
    def features(side: int) -> ImageFeatures:
        known: dict[int, torch.Tensor] = {}
        for sample in samples:
            if id(sample.picture) not in known:
                known[id(sample.picture)] = pipeline.features(sample.picture, side).tokens
        return ImageFeatures(torch.cat([known[id(sample.picture)] for sample in samples]))

    assert request.preset is not None
    pipeline.residency.recover()
    randoms = tuple(torch.Generator().manual_seed(sample.seed) for sample in samples)
    return Run(request, pipeline.bundle.presets[request.preset], features, randoms, clock)
