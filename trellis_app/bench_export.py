"""Seconds and memory of finishing alone, step by step, on synthetic surfaces of known size: `bench export`."""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from trellis_app.bench import commit, machine
from trellis_app.bench_assets import synthetic_asset
from trellis_app.errors import EmptyAssetError
from trellis_app.export.finish import finish
from trellis_app.export.glb import write_glb
from trellis_app.settings import FinishOptions
from trellis_app.types import FinishedAsset, OVoxel

GLB_STEP = "Write the GLB"


@dataclass(frozen=True)
class ExportRun:
    """One finish of one asset."""

    seconds: float
    steps: dict[str, float]
    peak_memory_gb: float  # of the GPU's allocator, the asset included; of the process on a CPU
    counts: dict[str, int]
    file_mb: float


def bench_export(
    resolutions: list[int], options: FinishOptions, *, runs: int, device: str, walls: int, kind: str = "ball"
) -> dict:
    """Finish a synthetic asset of every resolution `runs` times after one warm-up; medians and every run."""
    report: dict[str, object] = {}
    for resolution in resolutions:
        asset = synthetic_asset(resolution, kind=kind, walls=walls, device=device)
        first, *measured = [measure_export(asset, options) for _ in range(runs + 1)]
        names = measured[0].steps
        report[str(resolution)] = {
            "voxels": len(asset.grid.coords),
            "decoded_faces": measured[0].counts["decoded_faces"],
            "median_seconds": round(statistics.median(run.seconds for run in measured), 3),
            "median_steps": {n: round(statistics.median(run.steps[n] for run in measured), 3) for n in names},
            "peak_memory_gb": round(max(run.peak_memory_gb for run in measured), 2),
            "first_seconds": round(first.seconds, 2),
            "runs": [asdict(run) for run in measured],
        }
        del asset
    made = {"kind": kind, "walls": walls, "options": asdict(options)}
    return {**made, **report, "machine": machine(device), "commit": commit()}


def measure_export(asset: OVoxel, options: FinishOptions) -> ExportRun:
    """Finish `asset` and write its GLB to a temporary folder."""
    on_gpu = asset.attributes.is_cuda
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    steps: dict[str, float] = {}
    start = last = time.perf_counter()
    finished: FinishedAsset | None = None
    for step in finish(asset, options):
        if on_gpu:
            torch.cuda.synchronize()
        now = time.perf_counter()
        steps[step.name], last = now - last, now
        finished = step.asset
    if finished is None:
        raise EmptyAssetError("The finish ended without an asset.", "Choose a larger resolution.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "asset.glb"
        write_glb(finished, path, extras=None)
        steps[GLB_STEP] = time.perf_counter() - last
        size = path.stat().st_size / 1e6
    return ExportRun(time.perf_counter() - start, steps, _peak_gb(on_gpu=on_gpu), finished.counts, size)


def _peak_gb(*, on_gpu: bool) -> float:
    if on_gpu:
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def table(report: dict) -> str:
    """The medians as text, a column a resolution."""
    sizes = [key for key in report if key.isdigit()]
    names = [*report[sizes[0]]["median_steps"]]
    rows = [["", *(f"{size}³" for size in sizes)], ["faces", *(str(report[s]["decoded_faces"]) for s in sizes)]]
    rows += [[name, *(f"{report[s]['median_steps'][name]:.3f}" for s in sizes)] for name in names]
    rows += [["seconds", *(f"{report[s]['median_seconds']:.3f}" for s in sizes)]]
    rows += [["peak GB", *(f"{report[s]['peak_memory_gb']:.2f}" for s in sizes)]]
    return os.linesep.join("  ".join(f"{cell:>20}" for cell in row) for row in rows)
