"""Command line of `python -m trellis_app bench <what>`: thin, and each imports only what it measures."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from trellis_app.cli_flags import settings_of
from trellis_app.settings import PRECISIONS, PROJECT_ROOT, SURFACE_MODES, FinishOptions

Subparsers = Any  # argparse keeps the type of its subparsers private


def add_bench_parser(commands: Subparsers) -> None:
    """Add `bench` with one subcommand a measurement."""
    parser = commands.add_parser("bench", help="measured seconds and memory; the last line is JSON")
    kinds = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    _add_generate(kinds)
    _add_export(kinds)
    _add_surfaces(kinds)
    _add_quality(kinds)
    _add_pipeline(kinds)
    _add_batch(kinds)
    _add_serve(kinds)
    _add_loading(kinds)
    _add_kernels(kinds)


def _add_generate(kinds: Subparsers) -> None:
    generate = kinds.add_parser("generate", help="the whole job, each run in a fresh process")
    generate.add_argument("--picture", type=Path, default=PROJECT_ROOT / "assets" / "examples" / "chair.png")
    generate.add_argument("--runs", type=int, default=3)
    generate.add_argument("arguments", nargs="*", help="after --: options passed on to generate")
    generate.set_defaults(run=_bench_generate)


def _add_export(kinds: Subparsers) -> None:
    export = kinds.add_parser("export", help="finishing alone, on synthetic surfaces")
    export.add_argument("--resolution", default="512", help="comma-separated, e.g. 512,1024,1536")
    export.add_argument("--faces", type=int, default=500_000)
    export.add_argument("--texture-size", type=int, default=2048)
    export.add_argument("--surface", choices=SURFACE_MODES, default="single")
    export.add_argument("--surface-kind", choices=("ball", "noisy", "parts"), default="ball", help="see bench_assets")
    export.add_argument("--walls", type=int, choices=(1, 2), default=1, help="2: a hollow shell")
    export.add_argument("--device", default="auto")
    export.add_argument("--runs", type=int, default=3)
    export.set_defaults(run=_bench_export)


def _add_surfaces(kinds: Subparsers) -> None:
    surfaces = kinds.add_parser("surfaces", help="broken promises of the surface modes, counted over many surfaces")
    surfaces.add_argument("--library", type=Path, help="npz collection of objects, e.g. ../shared/data/dev.npz")
    surfaces.add_argument("--golden", type=Path, help="mesh_to_dual_grid.safetensors of the golden vectors")
    surfaces.add_argument("--random", type=int, default=200, help="random voxel sets")
    surfaces.add_argument("--resolution", type=int, default=256, help="of the objects' O-Voxels")
    surfaces.add_argument("--limit", type=int, help="so many objects of the library only")
    surfaces.add_argument("--jobs", type=int, default=1, help="processes that share the work")
    surfaces.set_defaults(run=_bench_surfaces)


def _add_quality(kinds: Subparsers) -> None:
    quality = kinds.add_parser("quality", help="pictures and UVs of finished objects against their voxels")
    quality.add_argument("--library", type=Path, required=True, help="npz collection, e.g. ../shared/data/dev.npz")
    quality.add_argument("--resolution", type=int, default=256, help="voxels along a side")
    quality.add_argument("--faces", type=int, default=50_000)
    quality.add_argument("--texture-size", type=int, default=1024)
    quality.add_argument("--limit", type=int, help="so many objects only, evenly spread")
    quality.add_argument("--names", default="", help="only objects whose name holds one of these, comma-separated")
    quality.add_argument("--jobs", type=int, default=1, help="processes")
    quality.add_argument("--pictures", type=Path, metavar="DIR", help="sheets of the worst: voxels, then mip 0, 1, 2")
    quality.add_argument("--worst", type=int, default=12, help="so many sheets are kept")
    quality.set_defaults(run=_bench_quality)


def _add_pipeline(kinds: Subparsers) -> None:
    pipeline = kinds.add_parser("pipeline", help="every stage at the size of the released models, on a GPU")
    pipeline.add_argument("--random-weights", action="store_true", required=True, help="nothing is downloaded")
    pipeline.add_argument(
        "--resolution", default="512,1024,1536",
        help="comma-separated; 1024 and 1536 by cascade, 1536_max with as many tokens as it may have (49,000)",
    )  # fmt: skip
    pipeline.add_argument("--memory-budget", type=float, metavar="GB", help="of GPU memory; all of it by default")
    pipeline.add_argument("--precision", choices=PRECISIONS, default="bf16", help="of the flows")
    pipeline.add_argument("--no-finish", action="store_true", help="stop before the mesh is simplified and textured")
    pipeline.add_argument(
        "--out-of-memory", action="store_true",
        help="instead: take the memory away in each stage of the first resolution, and say what happens",
    )  # fmt: skip
    pipeline.add_argument("--device", default="auto")
    pipeline.add_argument("--runs", type=int, default=3)
    pipeline.set_defaults(run=_bench_pipeline)


def _add_batch(kinds: Subparsers) -> None:
    batch = kinds.add_parser("batch", help="a batch beside single runs at the size of the released models, on a GPU")
    batch.add_argument("--random-weights", action="store_true", required=True, help="nothing is downloaded")
    batch.add_argument("--resolution", default="512", help="comma-separated: 512 and 1024, both in one pass")
    batch.add_argument("--count", type=int, default=4, help="assets")
    batch.add_argument("--together", type=int, default=4, help="of them sampled in one pass")
    batch.add_argument("--memory-budget", type=float, metavar="GB", help="of GPU memory; all of it by default")
    batch.add_argument("--device", default="auto")
    batch.add_argument("--runs", type=int, default=3)
    batch.set_defaults(run=_bench_batch)


def _add_serve(kinds: Subparsers) -> None:
    serve = kinds.add_parser("serve", help="several workers beside one (needs pip install 'ray[serve]')")
    serve.add_argument("--workers", type=int, default=2)
    serve.add_argument("--requests", type=int, default=8)
    serve.add_argument("--picture", type=Path, default=PROJECT_ROOT / "assets" / "examples" / "chair.png")
    weights = serve.add_mutually_exclusive_group()
    weights.add_argument("--bundle", help="mini, a folder, or owner/name on the Hugging Face hub")
    weights.add_argument("--random-weights", action="store_true", help="the released models' sizes, steered; on GPUs")
    serve.add_argument("--device", help="auto, cpu or cuda")
    serve.add_argument("--resolution", metavar="PRESET")
    serve.set_defaults(run=_bench_serve)


def _add_loading(kinds: Subparsers) -> None:
    loading = kinds.add_parser("loading", help="strict loading of a preset's checkpoints from cold disk and page cache")
    loading.add_argument("--random-weights", action="store_true", required=True, help="in files of the published sizes")
    loading.add_argument("--preset", default="1024_cascade", help="512, 1024, 1024_cascade or 1536_cascade")
    loading.add_argument("--models", type=lambda names: names.split(","), default=[], help="only these, by their keys")
    loading.add_argument("--folder", type=Path, help="where about 12 GB are written for the time of the run")
    loading.add_argument("--device", default="auto")
    loading.set_defaults(run=_bench_loading)


def _add_kernels(kinds: Subparsers) -> None:
    kernels = kinds.add_parser("kernels", help="every op beside its reference, and other packages where installed")
    kernels.add_argument("--op", help="comma-separated, e.g. sparse_conv,rasterise; all of them by default")
    kernels.add_argument("--resolution", default="512", help="comma-separated, e.g. 512,1024,1536: sets the voxels")
    kernels.add_argument("--device", default="auto")
    kernels.set_defaults(run=_bench_kernels)


def _note(line: str) -> None:
    """Progress, and what is for reading."""
    sys.stderr.write(f"{line}\n")


def _told(report: object, text: str = "") -> int:
    """The report for reading, then as the last line for programs; returns the exit code."""
    if text:
        _note(text)
    sys.stdout.write(f"{json.dumps(report)}\n")
    return 0


def _bench_generate(options: argparse.Namespace) -> int:
    from trellis_app.bench import bench_generate

    return _told(bench_generate(options.picture, options.runs, options.arguments))


def _bench_export(options: argparse.Namespace) -> int:
    from trellis_app.bench_export import bench_export, table
    from trellis_app.devices import choose_device

    finish = FinishOptions(faces=options.faces, texture_size=options.texture_size, surface=options.surface)
    sizes = [int(size) for size in options.resolution.split(",")]
    device = str(choose_device(options.device))
    made = {"walls": options.walls, "kind": options.surface_kind}
    report = bench_export(sizes, finish, runs=options.runs, device=device, **made)
    return _told(report, table(report))


def _bench_surfaces(options: argparse.Namespace) -> int:
    from trellis_app.bench_surfaces import bench_surfaces

    sizes = {"sets": options.random, "resolution": options.resolution, "limit": options.limit, "jobs": options.jobs}
    return _told(bench_surfaces(options.library, options.golden, note=_note, **sizes))


def _bench_quality(options: argparse.Namespace) -> int:
    from trellis_app.bench_quality import QualityOptions, bench_quality

    chosen = QualityOptions(
        options.library, options.resolution, FinishOptions(faces=options.faces, texture_size=options.texture_size),
        options.limit, tuple(filter(None, options.names.split(","))), options.jobs, options.pictures, options.worst,
    )  # fmt: skip
    return _told(bench_quality(chosen, note=_note))


def _bench_kernels(options: argparse.Namespace) -> int:
    from trellis_app.bench_kernels import OPS, bench_kernels
    from trellis_app.devices import choose_device

    ops = options.op.split(",") if options.op else list(OPS)
    sizes = [int(size) for size in options.resolution.split(",")]
    report = bench_kernels(ops, sizes, choose_device(options.device), note=_note)
    _told(report)
    return 1 if any("failed" in row for row in report["rows"]) else 0


def _bench_pipeline(options: argparse.Namespace) -> int:
    if options.out_of_memory:
        return _bench_out_of_memory(options)
    from trellis_app.bench_pipeline import PipelineOptions, bench_pipeline
    from trellis_app.devices import choose_device

    finish = None if options.no_finish else FinishOptions(faces=500_000, texture_size=2048)
    chosen = PipelineOptions(options.runs, options.memory_budget, finish, options.precision)
    return _told(bench_pipeline(options.resolution.split(","), choose_device(options.device), chosen, _note))


def _bench_batch(options: argparse.Namespace) -> int:
    from trellis_app.bench_batch import BatchOptions, bench_batch, table
    from trellis_app.devices import choose_device

    finish = FinishOptions(faces=500_000, texture_size=2048)
    chosen = BatchOptions(options.count, options.together, options.runs, options.memory_budget, finish)
    report = bench_batch(options.resolution.split(","), choose_device(options.device), chosen)
    return _told(report, table(report))


def _bench_serve(options: argparse.Namespace) -> int:
    from trellis_app.bench_serve import ServeOptions, bench_serve

    chosen = ServeOptions(
        options.picture, options.workers, options.requests, options.resolution, options.random_weights
    )
    return _told(bench_serve(settings_of(options), chosen))


def _bench_loading(options: argparse.Namespace) -> int:
    from trellis_app.bench_loading import bench_loading, table
    from trellis_app.devices import choose_device

    device = choose_device(options.device)
    report = bench_loading(options.preset, device, options.folder, only=options.models)
    return _told(report, table(report))


def _bench_out_of_memory(options: argparse.Namespace) -> int:
    from trellis_app.bench_memory import bench_out_of_memory, table
    from trellis_app.devices import choose_device

    resolution, device = options.resolution.split(",")[0], choose_device(options.device)
    report = bench_out_of_memory(resolution, device, options.memory_budget)
    return _told(report, table(report))
