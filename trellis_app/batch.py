"""Several assets at once: pictures or seeds of one preset sampled together, each as its own run would give it."""

from __future__ import annotations

import functools
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch

from trellis_app.devices import memory_told
from trellis_app.pipeline import ImageTo3D, Run
from trellis_app.progress import RunClock
from trellis_app.settings import GenerationRequest
from trellis_app.types import (
    ImageFeatures,
    MaterialLatent,
    OVoxel,
    PreparedImage,
    ShapeLatent,
    Stage,
    StageEvent,
)


@dataclass(frozen=True)
class Sample:
    """One asset of a batch."""

    picture: PreparedImage
    seed: int


@torch.inference_mode()
def generate_batch(
    pipeline: ImageTo3D, samples: Sequence[Sample], request: GenerationRequest
) -> Generator[StageEvent, None, list[OVoxel]]:
    """The assets of `samples` with the preset and samplers of `request`, an event each sampler step.

    Each sample draws its own noise from its own seed. In a cascade that lowers its resolution to keep the token limit,
    all take the lowest resolution that one of them needs. Raises EmptyAssetError if any sample has no object.
    """
    request = pipeline.resolved(request)
    clock = RunClock()
    run = begin(pipeline, samples, request, clock)
    with memory_told():
        occupancy = yield from pipeline.structure(run)
        shape = yield from pipeline.shape(occupancy, run)
        material = yield from pipeline.material(shape, run)
        pairs = zip(shape.latent.items(), material.latent.items(), strict=True)
        assets = []
        for index, (geometry, colours) in enumerate(pairs):
            yield clock.event(Stage.MATERIAL, f"decoding {index + 1} of {len(samples)}", index, len(samples))
            grid, guides = pipeline.decode_shape(ShapeLatent(geometry, shape.resolution))
            assets.append(pipeline.decode_material(MaterialLatent(colours, shape.resolution), grid, guides))
    return assets


def begin(pipeline: ImageTo3D, samples: Sequence[Sample], request: GenerationRequest, clock: RunClock) -> Run:
    """What the stages of the batch share: a picture that several samples have is encoded once."""

    @functools.cache
    def features(side: int) -> ImageFeatures:
        known: dict[int, torch.Tensor] = {}
        for sample in samples:
            if id(sample.picture) not in known:
                known[id(sample.picture)] = pipeline.features(sample.picture, side).tokens
        return ImageFeatures(torch.cat([known[id(sample.picture)] for sample in samples]))

    assert request.preset is not None
    randoms = tuple(torch.Generator().manual_seed(sample.seed) for sample in samples)
    return Run(request, pipeline.bundle.presets[request.preset], features, randoms, clock)
