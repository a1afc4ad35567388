"""Seconds that one and several workers take for the same requests: the `bench serve` command."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from trellis_app.bench import commit, machine
from trellis_app.devices import choose_device
from trellis_app.image.cutout import CutoutOptions
from trellis_app.image.reading import read_picture
from trellis_app.serve import Share, Workers, cluster, deployed
from trellis_app.settings import AppSettings, FinishOptions, GenerationRequest
from trellis_app.types import OVoxel


@dataclass(frozen=True)
class ServeOptions:
    """What is measured."""

    picture: Path
    workers: int = 2
    requests: int = 8
    preset: str | None = None
    finish: FinishOptions = field(default_factory=FinishOptions)


def bench_serve(settings: AppSettings, options: ServeOptions) -> dict[str, Any]:
    """The requests to one worker, then to several, after one request each to warm them up.

    They wait in a queue that lets through as many as there are workers, as the page's does.

    On a CPU the cores are divided as they will be for the several, so that the ratio tells what more workers bring.
    `same` says that every asset came out alike, to the bit.
    """
    settings = replace(settings, workers=options.workers)
    share = Share.of(settings)
    seconds: dict[str, float] = {}
    made: dict[str, list[OVoxel]] = {}
    with cluster(share):
        for count in (1, options.workers):
            with deployed(settings, share, count) as workers:
                _all(workers, options, count, range(count))
                begun = time.perf_counter()
                made[str(count)] = _all(workers, options, count, range(options.requests))
                seconds[str(count)] = round(time.perf_counter() - begun, 2)
    one, several = made["1"], made[str(options.workers)]
    return {
        "requests": options.requests,
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
