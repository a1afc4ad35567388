"""Seconds that one and several workers take for the same requests: the `bench serve` command.

With random weights the workers hold the released models at their full size, whose decoders are steered to a synthetic
surface as in `bench pipeline`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from trellis_app.bench import commit, machine
from trellis_app.bench_pipeline import PipelineBench, case_of
from trellis_app.devices import choose_device
from trellis_app.image.cutout import CutoutOptions
from trellis_app.image.reading import read_picture
from trellis_app.serve import Share, Workers, cluster, deployed
from trellis_app.serve_replica import Events, Stream, Studio
from trellis_app.settings import AppSettings, FinishOptions, GenerationRequest
from trellis_app.types import OVoxel, PreparedImage


@dataclass(frozen=True)
class ServeOptions:
    """What is measured."""

    picture: Path
    workers: int = 2
    requests: int = 8
    preset: str | None = None
    random_weights: bool = False
    finish: FinishOptions = field(default_factory=FinishOptions)


class RandomStudio(Studio):
    """A worker with the released models at random weights, on a GPU."""

    def _load(self, settings: AppSettings) -> None:
        self._folder = tempfile.TemporaryDirectory()
        device = choose_device(settings.device)
        self._bench = PipelineBench(Path(self._folder.name), device, settings.memory_budget_gb)
        self._pipeline = self._bench.pipeline
        self._preset: str | None = None

    async def generate(self, prepared: PreparedImage, request: GenerationRequest) -> Stream:
        """As of a Studio, the decoders steered to the surface of the preset."""
        async for item in self._stream(lambda: self._steered(prepared, request)):
            yield item

    def _steered(self, prepared: PreparedImage, request: GenerationRequest) -> Events:
        preset = self._pipeline.resolved(request).preset
        assert preset is not None
        if preset != self._preset:
            self._preset, steering = preset, self._bench.steering
            steering.target, steering.coarse = self._bench.targets(case_of(preset))
        return self._pipeline.generate(prepared, request)


def bench_serve(settings: AppSettings, options: ServeOptions) -> dict[str, Any]:
    """The requests to one worker, then to several, after one request each to warm them up.

    They wait in a queue that lets through as many as there are workers, as the page's does.

    On a CPU the cores are divided as they will be for the several, so that the ratio tells what more workers bring.
    `same` says that every asset came out alike, to the bit; assets of random weights are the steered surface.
    """
    settings, kind = replace(settings, workers=options.workers), Studio
    if options.random_weights:
        settings, kind = replace(settings, bundle="mini"), RandomStudio  # mini cuts the picture out
    share = Share.of(settings)
    seconds: dict[str, float] = {}
    made: dict[str, list[OVoxel]] = {}
    with cluster(share):
        for count in (1, options.workers):
            with deployed(settings, share, count, kind) as workers:
                _all(workers, options, count, range(count))
                begun = time.perf_counter()
                made[str(count)] = _all(workers, options, count, range(options.requests))
                seconds[str(count)] = round(time.perf_counter() - begun, 2)
    one, several = made["1"], made[str(options.workers)]
    return {
        "requests": options.requests,
        "preset": options.preset,
        "seconds": seconds,
        "ratio": round(seconds[str(options.workers)] / seconds["1"], 3),
        "same": all(_alike(a, b) for a, b in zip(one, several, strict=True)),
        "machine": machine(str(choose_device(settings.device))),
        "commit": commit(),
    }


def _all(workers: Workers, options: ServeOptions, at_once: int, seeds: Sequence[int]) -> list[OVoxel]:
    """The assets of all seeds."""
    prepared = workers.prepare(read_picture(options.picture), CutoutOptions())

    def visit(seed: int) -> OVoxel:
        request = GenerationRequest(options.preset, seed, finish=options.finish)
        events = list(workers.generate(prepared, request))
        return next(event.result for event in events if isinstance(event.result, OVoxel))

    with ThreadPoolExecutor(at_once) as visitors:
        return list(visitors.map(visit, seeds))


def _alike(one: OVoxel, other: OVoxel) -> bool:
    return torch.equal(one.grid.coords, other.grid.coords) and torch.equal(one.attributes, other.attributes)
