"""A batch beside single runs at the released size, with random weights: the `bench batch` command.

The decoders are steered to a synthetic surface as in `bench pipeline`; what the flows sample is compared before that.
"""

from __future__ import annotations

import itertools
import logging
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from trellis_app.batch import Outcome, Sample, finishing_lead, finishing_workers, generate_batch
from trellis_app.bench import commit, machine
from trellis_app.bench_pipeline import BLANK, PipelineBench, bench_on, case_of, error, settle
from trellis_app.beside import Beside, Notify
from trellis_app.models.material_vae import MaterialDecoder
from trellis_app.models.shape_vae import ShapeDecoder
from trellis_app.models.structure_vae import StructureDecoder
from trellis_app.pipeline import ImageTo3D
from trellis_app.progress import Check, RunClock
from trellis_app.settings import FinishOptions, GenerationRequest
from trellis_app.types import FinishedAsset

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchOptions:
    """What is measured."""

    count: int = 4  # samples
    together: int = 4  # of them in a pass
    runs: int = 3
    memory_budget_gb: float | None = None
    finish: FinishOptions = field(default_factory=FinishOptions)


@dataclass(eq=False)
class Seen:
    """What the flows gave, sample after sample."""

    structure: list[torch.Tensor] = field(default_factory=list)  # [C, R, R, R] latents
    occupied: list[torch.Tensor] = field(default_factory=list)  # bool [1, R', R', R'], before the steering
    shape: list[torch.Tensor] = field(default_factory=list)  # [N, C] denormalised
    material: list[torch.Tensor] = field(default_factory=list)  # [N, C] denormalised


@contextmanager
def watched(structure: StructureDecoder, shape: ShapeDecoder, material: MaterialDecoder) -> Iterator[Seen]:
    """Collects what goes into the decoders, and what the structure decoder makes of it, while the block runs."""
    seen = Seen()

    def logits(_module: nn.Module, _inputs: object, out: torch.Tensor) -> None:
        seen.occupied.extend((out > 0).cpu())

    hooks = [
        structure.register_forward_pre_hook(lambda _m, args: seen.structure.extend(args[0].cpu())),
        structure.out_layer.register_forward_hook(logits, prepend=True),
        shape.register_forward_pre_hook(lambda _m, args: seen.shape.append(args[0].feats.cpu())),
        material.register_forward_pre_hook(lambda _m, args: seen.material.append(args[0].feats.cpu())),
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def differences(batch: Seen, single: Seen) -> list[dict[str, float]]:
    """For each sample: relative differences of the latents, and the share of structure cells that differ."""
    found = []
    for index in range(len(single.material)):
        row = {
            "structure_latent": error(batch.structure[index], single.structure[index]),
            "structure_cells": (batch.occupied[index] != single.occupied[index]).float().mean().item(),
            "shape_latent": error(batch.shape[index], single.shape[index]),
            "material_latent": error(batch.material[index], single.material[index]),
        }
        found.append({name: float(f"{value:.3g}") for name, value in row.items()})
    return found


def finished_one_by_one(
    pipeline: ImageTo3D, samples: Sequence[Sample], request: GenerationRequest
) -> Generator[FinishedAsset, None, None]:
    """What users without a batch do: a whole run, then the next."""
    for sample in samples:
        for event in pipeline.generate(sample.picture, replace(request, seed=sample.seed)):
            if isinstance(event.result, FinishedAsset):
                yield event.result


def finished_batch(
    pipeline: ImageTo3D, samples: Sequence[Sample], request: GenerationRequest, together: int
) -> Generator[FinishedAsset, None, None]:
    """A batch whose assets are finished beside the sampling."""

    lead = finishing_lead(pipeline)

    def work(outcome: Outcome, notify: Notify, check: Check) -> FinishedAsset:
        assert outcome.voxels is not None
        for event in pipeline.finish(outcome.voxels, request.finish, RunClock(), alone=not lead):
            check()
            notify(event)
        assert isinstance(event.result, FinishedAsset)
        return event.result

    with Beside(pipeline.device, work, lead=lead, workers=finishing_workers(pipeline)) as finishing:
        for beat in generate_batch(pipeline, samples, request, together=together):
            if isinstance(beat, Outcome):
                yield from (ready for ready in finishing.take(beat) if isinstance(ready, FinishedAsset))
            yield from finishing.ready()
        yield from (ready for ready in finishing.rest() if isinstance(ready, FinishedAsset))


def bench_batch(resolutions: list[str], device: torch.device, options: BatchOptions) -> dict[str, Any]:
    """For each preset without a cascade the differences of a batch from single runs, and the seconds of both ways.

    "sampled": picture to O-Voxel; "finished": picture to textured mesh. Medians of `runs`, all of them warm.
    """
    report: dict[str, Any] = {}
    with bench_on(device, options.memory_budget_gb) as bench:
        for preset in resolutions:
            bench.steering.target, _ = bench.targets(case_of(preset))
            bench.steering.items = options.together
            report[preset] = measured(bench, preset, options)
    return {**report, "count": options.count, "machine": machine(str(device)), "commit": commit()}


def measured(bench: PipelineBench, preset: str, options: BatchOptions) -> dict[str, Any]:
    """Differences and seconds of one preset, the bench's decoders steered already."""
    pipeline, request = bench.pipeline, GenerationRequest(preset, finish=options.finish)
    samples = [Sample(BLANK, seed) for seed in range(1, options.count + 1)]
    seen = []
    for together in (1, options.together):
        with watched(*bench.decoders) as found:
            made = [b for b in generate_batch(pipeline, samples, request, together=together) if isinstance(b, Outcome)]
        assert all(outcome.voxels is not None for outcome in made)
        seen.append(found)
    LOG.info("%s: sampled together and apart", preset)
    ways: dict[str, Callable[[], list[Any]]] = {
        "single_sampled": lambda: list(generate_batch(pipeline, samples, request, together=1)),
        "batch_sampled": lambda: list(generate_batch(pipeline, samples, request, together=options.together)),
        "single_finished": lambda: list(finished_one_by_one(pipeline, samples, request)),
        "batch_of_1_finished": lambda: list(finished_batch(pipeline, samples, request, 1)),
        "batch_finished": lambda: list(finished_batch(pipeline, samples, request, options.together)),
    }
    assert len(list(finished_one_by_one(pipeline, samples[:1], request))) == 1  # compiles what finishing needs
    runs: dict[str, list[float]] = {name: [] for name in ways}
    for name, way in itertools.chain.from_iterable(itertools.repeat(list(ways.items()), options.runs)):
        runs[name].append(round(_seconds(way, options.count, pipeline.device), 3))
        LOG.info("%s: %s took %.3f s", preset, name, runs[name][-1])
    seconds = {name: round(statistics.median(times), 3) for name, times in runs.items()}
    return {"differences": differences(seen[1], seen[0]), "seconds": seconds, "runs": runs}


def _seconds(way: Callable[[], list[Any]], count: int, device: torch.device) -> float:
    """How long one way takes to its end; it must give everything that was asked for."""
    settle(device)
    start = time.perf_counter()
    made = way()
    settle(device)
    assert sum(isinstance(item, (Outcome, FinishedAsset)) for item in made) == count
    return time.perf_counter() - start


def table(report: dict[str, Any]) -> str:
    """The report for reading."""
    lines = []
    for preset, result in report.items():
        if not isinstance(result, dict) or "seconds" not in result:
            continue
        for index, row in enumerate(result["differences"]):
            lines.append(f"{preset:<13} sample {index}: " + ", ".join(f"{k} {v:.1e}" for k, v in row.items()))
        lines += [f"{preset:<13} {name:<20} {value:8.3f} s" for name, value in result["seconds"].items()]
    return "\n".join(lines)
