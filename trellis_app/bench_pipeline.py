"""Seconds and memory of every stage at the released size, with random weights: the `bench pipeline` command.

The decoders are steered to a synthetic surface (bench_assets), so token and voxel counts are those of real assets, and
the finished mesh is a real one. Weights decide nothing about the time.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import nn

from trellis_app.bench import commit, machine, warnings_heard
from trellis_app.bench_models import RandomBundle, Steering, Target, random_encoder
from trellis_app.image.background import NoMatte
from trellis_app.image.features import ImageEncoder
from trellis_app.manifest import CASCADES
from trellis_app.memory import out_of_memory
from trellis_app.models.flow_transformer import FlowTransformer, plain_path
from trellis_app.models.fp8 import check_fp8
from trellis_app.models.material_vae import MaterialDecoder
from trellis_app.models.shape_vae import ShapeDecoder
from trellis_app.models.structure_vae import StructureDecoder
from trellis_app.pipeline import CASCADE_FLOOR, ImageTo3D, cascade_coords
from trellis_app.progress import RunClock
from trellis_app.residency import Attempt
from trellis_app.run import Run, image_side
from trellis_app.sampling import forward_passes
from trellis_app.settings import FinishOptions, GenerationRequest, SamplerSettings
from trellis_app.types import FinishedAsset, PreparedImage, ShapeLatent, Stage, StageEvent

GB = 1e9
OTHER = 0.98  # part of the radius that gives another number of tokens
TERAFLOPS = 790.0  # bf16 matrix products measured on an H200 (perf/baseline.md)
LINEAR_PARAMETERS, WIDTH, BLOCKS = 1.29e9, 1536, 30
STRUCTURE_TOKENS = 16**3
ERROR_TOKENS = 25_000  # beyond these the plain path takes minutes
DECODERS = (
    ("sparse_structure_decoder", StructureDecoder), ("shape_slat_decoder", ShapeDecoder),
    ("tex_slat_decoder", MaterialDecoder),
)  # fmt: skip
BLANK = PreparedImage(Image.new("RGBA", (8, 8)), Image.new("RGB", (8, 8)))

Value = TypeVar("Value")


@dataclass(frozen=True)
class Case:
    """A preset, and the surface that it is to end with."""

    preset: str
    radius: float = 0.341
    kind: str = "ball"


CASES = {  # 2,264 / 9,176 / 21,000 tokens, and nearly as many as a cascade may have
    "512": Case("512", 0.3408),
    "1024": Case("1024_cascade", 0.3409),
    "1536": Case("1536_cascade", 0.3424),
    "1536_max": Case("1536_cascade", 0.185, "balls"),
}


def case_of(preset: str) -> Case:
    """The first case of a preset."""
    return next((case for case in CASES.values() if case.preset == preset), Case(preset))


@dataclass(frozen=True)
class StageRun:
    """One stage of one run."""

    name: str
    rows: int  # tokens of a flow, voxels of a decoder, triangles of the finished mesh
    seconds: float
    peak_gb: float  # of tensors, weights that stay included
    reserved_gb: float  # of the allocator: tensors, and what it keeps for later
    floor: float | None = None  # seconds below which no bf16 version of a flow can go
    again: bool = False  # memory ran out, and a smaller plan was used from here on


@dataclass
class StageTimer:
    """Measures stage after stage, the device idle before and after each; where memory runs out, both attempts."""

    device: torch.device
    attempts: Callable[[], Iterator[Attempt]]
    runs: list[StageRun] = field(default_factory=list)

    def measure(
        self, name: str, work: Callable[[], Value], rows: Callable[[Value], int], floor: float | None = None
    ) -> Value:
        """The value of `work()`; its time and memory are added to `runs`."""
        settle(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        start, tried = time.perf_counter(), 0
        for attempt in self.attempts():
            with attempt:
                tried += 1
                value = work()
        settle(self.device)
        seconds, peak, reserved = time.perf_counter() - start, 0.0, 0.0
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device) / GB
            reserved = torch.cuda.max_memory_reserved(self.device) / GB
        self.runs.append(StageRun(name, rows(value), seconds, peak, reserved, floor, tried > 1))
        return value


def settle(device: torch.device) -> None:
    """Wait for everything queued on a CUDA device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def flow_floor(tokens: int, picture_tokens: int, sampler: SamplerSettings) -> float:
    """Seconds of arithmetic of one flow (perf/baseline.md): linear layers, self-attention, cross-attention."""
    each = tokens * (2 * LINEAR_PARAMETERS + 4 * WIDTH * BLOCKS * (tokens + picture_tokens))
    return forward_passes(sampler) * each / (TERAFLOPS * 1e12)


class PipelineBench:
    """The released pipeline with random weights on one device."""

    def __init__(
        self, folder: Path, device: torch.device, memory_budget_gb: float | None, encoder: ImageEncoder | None = None
    ) -> None:
        """encoder: a DINOv3 network with random weights where none is given."""
        self.device, self.budget_gb = device, memory_budget_gb
        self.pipeline = ImageTo3D(
            RandomBundle(folder), device, encoder=encoder or random_encoder(device), matte=NoMatte(),
            memory_budget_gb=memory_budget_gb,
        )  # fmt: skip
        self.decoders: Any = tuple(self._decoder(*pair) for pair in DECODERS)
        self.steering = Steering(*self.decoders)

    def _decoder(self, key: str, kind: type[nn.Module]) -> nn.Module:
        with self.pipeline._resident(key, kind) as decoder:
            return decoder

    def targets(self, case: Case) -> tuple[Target, Target | None]:
        """The surface that a case ends with, and the one its coarse pass gives."""
        parked = self.budget_gb is not None and self.device.type == "cuda"
        target = partial(Target.of, device=self.device, radius=case.radius, kind=case.kind, parked=parked)
        if case.preset in CASCADES:
            return target(CASCADES[case.preset]), target(512)
        return target(int(case.preset)), None

    @torch.inference_mode()
    def run(self, preset: str, targets: tuple[Target, Target | None], finish: FinishOptions | None) -> list[StageRun]:
        """All stages once."""
        pipeline, (target, coarse) = self.pipeline, targets
        self.steering.target, self.steering.coarse = targets
        request = pipeline.resolved(GenerationRequest(preset=preset, seed=1))
        run = pipeline.begin(BLANK, request, RunClock())
        timer = StageTimer(self.device, partial(pipeline.attempts, run))
        samplers = pipeline.samplers(request)
        sides = sorted({image_side(run.preset.first), image_side(run.preset.material)})
        timer.measure("picture features", lambda: [run.features(side) for side in sides], lambda _: len(sides))
        timer.measure(
            "structure", lambda: self._structure(run), lambda _: STRUCTURE_TOKENS,
            flow_floor(STRUCTURE_TOKENS, 1029, samplers[Stage.STRUCTURE]),
        )  # fmt: skip
        size, side = run.preset.first, 1029 if run.preset.first == 512 else 4101
        if coarse is not None:
            floor = flow_floor(len(coarse.coords), side, samplers[Stage.SHAPE])
            low = timer.measure(
                "coarse shape flow", lambda: last(pipeline._shape_latent(coarse.coords, size, run)),
                lambda latent: len(latent.coords), floor,
            )  # fmt: skip
            size, side = CASCADE_FLOOR, 4101
            timer.measure("cascade", lambda: self._cascade(low, run), len)
        floor = flow_floor(len(target.coords), side, samplers[Stage.SHAPE])
        latent = timer.measure(
            "shape flow", lambda: last(pipeline._shape_latent(target.coords, size, run)), lambda x: len(x.coords), floor
        )
        shape = ShapeLatent(latent, (target.asset.grid.resolution,))
        grid, guides = timer.measure(
            "shape decoder", lambda: pipeline.decode_shape(shape), lambda found: len(found[0].coords)
        )
        floor = flow_floor(len(target.coords), side, samplers[Stage.MATERIAL])
        material = timer.measure(
            "material flow", lambda: last(pipeline.material(shape, run)), lambda found: len(found.latent.coords), floor
        )
        asset = timer.measure(
            "material decoder", lambda: pipeline.decode_material(material, grid, guides), lambda x: len(x.attributes)
        )
        pipeline.residency.rest()
        if finish is not None:
            del latent, shape, guides, material
            timer.measure("finish", lambda: list(pipeline.finish(asset, finish, RunClock()))[-1], faces)
        return timer.runs

    def whole(self, preset: str, targets: tuple[Target, Target | None], *, finish: bool) -> float:
        """Seconds of `generate` itself, picture features included, with the default finishing options."""
        self.steering.target, self.steering.coarse = targets
        settle(self.device)
        start = time.perf_counter()
        for _ in self.pipeline.generate(BLANK, GenerationRequest(preset=preset, seed=1), finish=finish):
            pass
        settle(self.device)
        return time.perf_counter() - start

    @torch.inference_mode()
    def errors(self, preset: str, targets: tuple[Target, Target | None], precision: str) -> dict[str, float]:
        """Relative error of the latents after all steps: fast against plain path, and fp8 against bf16 where asked."""
        self.steering.target, self.steering.coarse = targets
        self.anew("bf16")
        side = self.pipeline.bundle.presets[preset].material
        flows = [self.pipeline.bundle.model(f"{part}_slat_flow_model_{side}", self.device) for part in ("shape", "tex")]
        fast = self._latents(preset, targets[0])
        with ExitStack() as stack:
            for flow in flows:
                assert isinstance(flow, FlowTransformer)
                stack.enter_context(plain_path(flow))
            plain = self._latents(preset, targets[0])
        found = {f"{name}, fast against plain": error(fast[name], plain[name]) for name in fast}
        if precision == "fp8":
            self.anew(precision)
            rounded = self._latents(preset, targets[0])
            found |= {f"{name}, fp8 against bf16": error(rounded[name], fast[name]) for name in fast}
        return found

    def anew(self, precision: str) -> None:
        """All flows with the same weights again, in a precision: rounded ones cannot be brought back."""
        bundle, self.pipeline.precision = self.pipeline.bundle, precision
        assert isinstance(bundle, RandomBundle)
        for key in bundle.config.models:
            if "flow" in key:
                bundle.drop(key)
                self.pipeline.residency.forget(key)

    def _latents(self, preset: str, target: Target) -> dict[str, torch.Tensor]:
        pipeline = self.pipeline
        run = pipeline.begin(BLANK, pipeline.resolved(GenerationRequest(preset=preset, seed=1)), RunClock())
        shape = last(pipeline._shape_latent(target.coords, run.preset.material, run))
        material = last(pipeline.material(ShapeLatent(shape, (target.asset.grid.resolution,)), run))
        return {"shape": shape.feats, "material": material.latent.feats}

    def _structure(self, run: Run) -> None:
        last(self.pipeline.structure(run))

    def _cascade(self, low: Any, run: Run) -> torch.Tensor:
        with self.pipeline._resident("shape_slat_decoder", ShapeDecoder) as decoder:
            voxels = decoder.upsample(low.fresh(), 4, self.pipeline.residency.plan.space)
        return cascade_coords(voxels, 512, run.preset.resolution, run.request.max_tokens)[0]


def faces(event: StageEvent) -> int:
    """Triangles of the asset that the last event of finishing brings."""
    return len(event.result.faces) if isinstance(event.result, FinishedAsset) else 0


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference by the norm of what is expected."""
    return ((found - expected).norm() / expected.norm()).item()


def last(stage: Generator[Any, None, Value]) -> Value:
    """What a stage returns."""
    while True:
        try:
            next(stage)
        except StopIteration as end:
            return end.value


@contextmanager
def bench_on(device: torch.device, memory_budget_gb: float | None) -> Generator[PipelineBench, None, None]:
    """A bench with weights in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        yield PipelineBench(Path(folder), device, memory_budget_gb)


@dataclass(frozen=True)
class PipelineOptions:
    """What is measured."""

    runs: int = 3
    memory_budget_gb: float | None = None
    finish: FinishOptions | None = None  # None: stop before finishing
    precision: str = "bf16"


def bench_pipeline(
    resolutions: list[str], device: torch.device, options: PipelineOptions, note: Callable[[str], None]
) -> dict[str, Any]:
    """Each resolution `runs` times after a first one, and without a budget once with another number of tokens.

    note: gets the table of each resolution as soon as it is measured, so that a time-out loses only what is left.
    """
    report: dict[str, Any] = {}
    if options.precision == "fp8":
        check_fp8(device)
    with bench_on(device, options.memory_budget_gb) as bench:
        for name in resolutions:
            try:
                report[name] = measured(bench, CASES.get(name) or case_of(name), options)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                report[name] = {"out_of_memory": str(error)}
                torch.cuda.empty_cache()
            note(table({name: report[name]}))
    return {**report, "options": asdict(options), "machine": machine(str(device)), "commit": commit()}


def measured(bench: PipelineBench, case: Case, options: PipelineOptions) -> dict[str, Any]:
    """The report of one case; raises OutOfMemoryError where the smallest plan is too large."""
    preset, errors = case.preset, {}
    targets = bench.targets(case)
    few = options.memory_budget_gb is None and len(targets[0].coords) < ERROR_TOKENS
    if options.precision == "fp8" or few:
        errors = bench.errors(preset, targets, options.precision)
    if bench.pipeline.precision != options.precision:
        bench.anew(options.precision)
    with warnings_heard() as warnings:
        first, *warm = [bench.run(preset, targets, options.finish) for _ in range(options.runs + 1)]
    other: list[StageRun] = []
    if options.memory_budget_gb is None:
        other = bench.run(preset, bench.targets(replace(case, radius=OTHER * case.radius)), None)
    report = summary(first, warm, other)
    memory = memory_taken([first, *warm], bench.device, options.memory_budget_gb)
    return {**report, "memory": memory, "warnings": warnings, "relative_errors": errors}


def memory_taken(runs: list[list[StageRun]], device: torch.device, budget_gb: float | None) -> dict[str, Any]:
    """Peak of several runs: what torch's allocator took, and what the device holds besides (CUDA, other programs)."""
    stages = [stage for run in runs for stage in run]
    reserved, outside = max(stage.reserved_gb for stage in stages), 0.0
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        outside = (total - free - torch.cuda.memory_reserved(device)) / GB
    return {
        "reserved_gb": round(reserved, 2),
        "outside_gb": round(outside, 2),
        "peak_gb": round(reserved + outside, 2),
        "within_budget": None if budget_gb is None else reserved + outside <= budget_gb,
        "tried_again": sorted({stage.name for stage in stages if stage.again}),
    }


def summary(first: list[StageRun], warm: list[list[StageRun]], other: list[StageRun]) -> dict[str, Any]:
    """Medians of each stage, the very first run and the first one with another number of tokens beside them."""
    stages = []
    for index, stage in enumerate(first):
        same = [run[index] for run in warm]
        seconds = statistics.median(run.seconds for run in same)
        stages.append(
            {
                "stage": stage.name,
                "rows": same[0].rows,
                "seconds": round(seconds, 4),
                "share_of_floor": None if stage.floor is None else round(stage.floor / seconds, 3),
                "peak_gb": round(max(run.peak_gb for run in same), 2),
                "first_seconds": round(stage.seconds, 3),
                "other_count_seconds": round(other[index].seconds, 4) if index < len(other) else None,
            }
        )
    total = statistics.median(sum(stage.seconds for stage in run) for run in warm)
    return {"stages": stages, "total_seconds": round(total, 3), "runs": [[asdict(s) for s in run] for run in warm]}


def table(report: dict[str, Any]) -> str:
    """The report for reading."""
    head = f"{'preset':<13} {'stage':<18} {'rows':>9} {'seconds':>8} {'floor':>6} {'GB':>6} {'first':>8} {'other':>8}"
    lines = [head]
    for preset, result in report.items():
        if not isinstance(result, dict) or "stages" not in result:
            lines += [f"{preset:<13} {result['out_of_memory']}"] if "out_of_memory" in result else []
            continue
        for s in result["stages"]:
            share = "" if s["share_of_floor"] is None else f"{s['share_of_floor']:.0%}"
            other = "" if s["other_count_seconds"] is None else f"{s['other_count_seconds']:.3f}"
            lines.append(
                f"{preset:<13} {s['stage']:<18} {s['rows']:>9,} {s['seconds']:>8.3f} {share:>6} {s['peak_gb']:>6.2f} "
                f"{s['first_seconds']:>8.3f} {other:>8}"
            )
        lines.append(f"{preset:<13} {'all stages':<18} {'':>9} {result['total_seconds']:>8.3f}")
        lines.append(f"{preset:<13} memory: {', '.join(f'{k} {v}' for k, v in result.get('memory', {}).items())}")
        lines += [f"{preset:<13} {name}: {value:.1e}" for name, value in result.get("relative_errors", {}).items()]
    return "\n".join(lines)
