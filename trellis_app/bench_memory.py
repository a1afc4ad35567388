"""What happens where the GPU's memory runs out, stage by stage: `bench pipeline --out-of-memory`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from trellis_app.bench import commit, machine, warnings_heard
from trellis_app.bench_pipeline import BLANK, PipelineBench, bench_on, case_of
from trellis_app.errors import MachineError
from trellis_app.memory import GB
from trellis_app.progress import TITLES
from trellis_app.settings import FinishOptions, GenerationRequest, SamplerSettings
from trellis_app.types import Stage, StageEvent

STEPS = 2  # of each sampler: memory does not depend on them
LITTLE = 32 << 20  # bytes left where memory is made scarce: less than any stage needs
NOTHING = 256 << 20  # bytes allowed in all where it is made hopeless: less than the smallest model
FINISH = FinishOptions(faces=100_000, texture_size=1024)
STARTS = {  # the event before each stage that can run out of memory
    "structure": (Stage.STRUCTURE, "starting"),
    "shape": (Stage.STRUCTURE, "done"),
    "shape decoder": (Stage.SHAPE, "building the surface"),
    "material": (Stage.SHAPE, "done"),
    "material decoder": (Stage.MATERIAL, "colouring the surface"),
    "finishing": (Stage.MATERIAL, "done"),
}


@dataclass(frozen=True)
class Scarcity:
    """What happened where memory was taken away in one stage."""

    stage: str
    allowed_gb: float  # of the allocator, during the stage
    again: bool  # a smaller plan took the place of the first
    ended: str
    warnings: tuple[str, ...]
    next_run: str


def bench_out_of_memory(resolution: str, device: torch.device, memory_budget_gb: float | None) -> dict[str, Any]:
    """Memory made scarce, then hopeless, in each stage of a run: retry, message, and whether the next run works.

    resolution: a preset of one pass (512 or 1024), for in a cascade random weights find voxels of their own.
    Scarce is what the models on the device take and hardly more, so the first attempt fails and one without them has
    room, if there were any.
    """
    with bench_on(device, memory_budget_gb) as bench:
        preset = bench.pipeline.resolved(GenerationRequest(preset=resolution)).preset or resolution
        bench.steering.target, bench.steering.coarse = bench.targets(case_of(preset))
        cases = [_case(bench, preset, stage, hopeless) for stage in STARTS for hopeless in (False, True)]
    return {"cases": [asdict(case) for case in cases], "machine": machine(str(device)), "commit": commit()}


def _case(bench: PipelineBench, preset: str, stage: str, hopeless: bool) -> Scarcity:
    residency, request = bench.pipeline.residency, _short(bench, preset)
    plan = residency.plan
    _run(bench, request)  # so that all models are where the plan has them
    with warnings_heard() as warnings:
        allowed, ended = _scarce_run(bench, request, stage, hopeless)
    again = residency.plan != plan
    next_run = _run(bench, request)
    residency.plan = plan
    return Scarcity(stage, round(allowed / GB, 2), again, ended, tuple(warnings), next_run)


def _short(bench: PipelineBench, preset: str) -> GenerationRequest:
    """A run of few steps."""

    def few(sampler: SamplerSettings) -> SamplerSettings:
        return replace(sampler, steps=STEPS)

    known = bench.pipeline.samplers(GenerationRequest(preset=preset))
    samplers = few(known[Stage.STRUCTURE]), few(known[Stage.SHAPE]), few(known[Stage.MATERIAL])
    return GenerationRequest(preset=preset, seed=1, structure=samplers[0], shape=samplers[1], material=samplers[2])


def _run(bench: PipelineBench, request: GenerationRequest) -> str:
    """How a run to the three stages' end ends."""
    try:
        for _ in bench.pipeline.generate(BLANK, request, finish=False):
            pass
    except (MachineError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "finished"


def _scarce_run(bench: PipelineBench, request: GenerationRequest, stage: str, hopeless: bool) -> tuple[int, str]:
    """Bytes allowed during the stage, and how the run ended."""
    allowed = 0
    total = torch.cuda.get_device_properties(bench.device).total_memory
    usual = torch.cuda.get_per_process_memory_fraction(bench.device.index)
    try:
        for event in bench.pipeline.generate(BLANK, replace(request, finish=FINISH)):
            begun = _begun(event)
            if begun == stage:
                torch.cuda.empty_cache()
                allowed = NOTHING if hopeless else torch.cuda.memory_reserved(bench.device) + LITTLE
                torch.cuda.set_per_process_memory_fraction(allowed / total, bench.device.index)
            elif begun is not None:
                torch.cuda.set_per_process_memory_fraction(usual, bench.device.index)
    except (MachineError, RuntimeError) as error:
        return allowed, f"{type(error).__name__}: {error}"
    finally:
        torch.cuda.set_per_process_memory_fraction(usual, bench.device.index)
    return allowed, "finished"


def _begun(event: StageEvent) -> str | None:
    """The stage that begins after an event."""
    labels = {f"{TITLES[stage]}: {what}": name for name, (stage, what) in STARTS.items()}
    return labels.get(event.label)


def table(report: dict[str, Any]) -> str:
    """The report for reading."""
    lines = [f"{'stage':<17} {'GB':>6} {'again':<6} {'ended':<40} next run"]
    for case in report["cases"]:
        again = "yes" if case["again"] else "no"
        lines.append(
            f"{case['stage']:<17} {case['allowed_gb']:>6.2f} {again:<6} {case['ended'][:40]:<40} {case['next_run']}"
        )
    return "\n".join(lines)
