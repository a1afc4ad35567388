"""python -m trellis_app generate | texture | health | doctor | bench | train | evaluate: thin commands.

Exit codes: 0 done, 1 the machine cannot do it (doctor), 2 bad input or settings, or an asset that came to nothing,
130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from trellis_app.cli_flags import add_finish_flags, file_options, finish_options, format_names, seed_list
from trellis_app.errors import TrellisError
from trellis_app.settings import (
    PROJECT_ROOT,
    SURFACE_MODES,
    AppSettings,
    FinishOptions,
    GenerationRequest,
    app_settings,
)
from trellis_app.types import StageEvent

TELL_EVERY = 5.0  # seconds


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trellis_app", description="Picture to textured 3D asset.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_generate(commands)
    _add_texture(commands)
    _add_health(commands)
    _add_doctor(commands)
    _add_bench(commands)
    _add_training(commands, arguments if arguments is not None else sys.argv[1:])
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)  # else a line for every request to the hub
    try:
        return int(options.run(options) or 0)
    except TrellisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _add_generate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("generate", help="pictures -> 3D files and a JSON record each")
    parser.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    _add_model_flags(parser)
    parser.add_argument(
        "--seeds", type=seed_list, metavar="LIST",
        help="comma-separated, instead of --seed: every picture with every seed, as PICTURE-seedN",
    )  # fmt: skip
    add_finish_flags(parser)
    parser.set_defaults(run=_generate)


def _settings(options: argparse.Namespace) -> AppSettings:
    chosen = {name: value for name in ("bundle", "device") if (value := getattr(options, name)) is not None}
    return replace(app_settings(), **chosen)


def _generate(options: argparse.Namespace) -> int:
    from trellis_app.image.cutout import CutoutOptions
    from trellis_app.job import JobOptions, Product, run_job

    show = _teller()

    def tell(beat: StageEvent | Product) -> None:
        if isinstance(beat, StageEvent):
            return show(beat)
        if beat.error is not None:
            print(f"error: {beat.name}: {beat.error}", file=sys.stderr)
        for path in beat.paths:
            print(path, flush=True)

    request = GenerationRequest(preset=options.resolution, seed=options.seed, finish=finish_options(options))
    job = JobOptions(
        pictures=tuple(options.pictures),
        folder=options.out,
        seeds=options.seeds or (options.seed,),
        formats=format_names(options),
        files=file_options(options),
        cutout=CutoutOptions(keep_alpha=not options.ignore_alpha, foreground_ratio=options.foreground_ratio),
    )
    products = run_job(_settings(options), request, job, tell)
    return 2 if any(product.error for product in products) else 0


def _add_texture(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "texture",
        help="mesh + picture -> the same mesh with a texture",
        description="Gives a mesh the material that a picture shows. The side seen in the picture is taken to face +Z "
        "of a mesh with Y up (-Y with Z up); --yaw turns the mesh to the picture's view first. Vertices, triangles, "
        "place and usable UVs come back as they were. Another seed gives another variation.",
    )
    parser.add_argument("mesh", type=Path, metavar="MESH", help=".glb, .gltf, .obj, .ply, .stl or .off")
    parser.add_argument("picture", type=Path, metavar="PICTURE")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--yaw", type=float, default=0.0, metavar="DEGREES", help="about the upward axis, see above")
    parser.add_argument("--up", choices=("y", "z"), default="y", help="the mesh's upward axis")
    parser.add_argument(
        "--uv", choices=("auto", "keep", "new"), default="auto",
        help="auto: the mesh's own UVs where they can carry a texture, else new ones; keep: its own in any case",
    )  # fmt: skip
    _add_model_flags(parser)
    add_finish_flags(parser, own_mesh=True)
    parser.set_defaults(run=_texture)


def _texture(options: argparse.Namespace) -> int:
    from trellis_app.image.cutout import CutoutOptions
    from trellis_app.mesh.user_mesh import Stance
    from trellis_app.texture_job import TextureJob, run_texture_job
    from trellis_app.texturing import TextureOptions

    request = GenerationRequest(preset=options.resolution, seed=options.seed, finish=finish_options(options))
    job = TextureJob(
        mesh=options.mesh,
        picture=options.picture,
        folder=options.out,
        formats=format_names(options),
        texture=TextureOptions(Stance(options.up, options.yaw), options.uv),
        cutout=CutoutOptions(keep_alpha=not options.ignore_alpha, foreground_ratio=options.foreground_ratio),
        files=file_options(options),
    )
    for path in run_texture_job(_settings(options), request, job, _teller()):
        print(path)
    return 0


def _add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Which model runs where, and how the picture is read."""
    parser.add_argument("--bundle", help="mini, a folder, or owner/name on the Hugging Face hub")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--resolution", metavar="PRESET", help="what the bundle offers, e.g. 256 or 1024_cascade")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--foreground-ratio", type=float, metavar="0.3..1")
    parser.add_argument("--ignore-alpha", action="store_true", help="cut the object out even if the picture has alpha")


def _teller() -> Callable[[StageEvent], None]:
    """Prints events: each that says something new, and one every few seconds while nothing does."""
    label, told = "", 0.0

    def show(event: StageEvent) -> None:
        nonlocal label, told
        if event.label == label and 0 <= event.elapsed - told < TELL_EVERY:
            return
        label, told = event.label, event.elapsed
        left = "" if event.remaining is None else f", about {event.remaining:.0f} s left"
        print(f"[{event.elapsed:6.1f} s{left}] {event.label}", file=sys.stderr)

    return show


def _add_health(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("health", help="what shape a mesh file is in: holes, flips, crossings, UVs")
    parser.add_argument("mesh", type=Path, metavar="FILE", help="GLB, glTF, OBJ, PLY, STL or OFF")
    parser.add_argument("--texture-size", type=int, default=2048, help="texels a side, for texels per triangle")
    parser.add_argument("--json", action="store_true", help="machine-readable report")
    parser.set_defaults(run=_health)


def _health(options: argparse.Namespace) -> int:
    from trellis_app.mesh.health_command import examine, text

    found = examine(options.mesh, texture_size=options.texture_size)
    print(json.dumps(found.record()) if options.json else text(found))
    return 0


def _add_doctor(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("doctor", help="what this machine can run and what is missing")
    parser.add_argument("--bundle")
    parser.add_argument("--device")
    parser.add_argument("--no-probe", action="store_true", help="skip the fixed-seed test run")
    parser.add_argument("--json", action="store_true", help="machine-readable report")
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from trellis_app.doctor import examine, render_json, render_text

    report = examine(_settings(options), probe=not options.no_probe)
    print(render_json(report) if options.json else render_text(report))
    return 0 if report.usable else 1


def _add_bench(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("bench", help="measured seconds and memory; the last line is JSON")
    kinds = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    generate = kinds.add_parser("generate", help="the whole job, each run in a fresh process")
    generate.add_argument("--picture", type=Path, default=PROJECT_ROOT / "assets" / "examples" / "chair.png")
    generate.add_argument("--runs", type=int, default=3)
    generate.add_argument("arguments", nargs="*", help="after --: options passed on to generate")
    generate.set_defaults(run=_bench_generate)
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
    surfaces = kinds.add_parser("surfaces", help="broken promises of the surface modes, counted over many surfaces")
    surfaces.add_argument("--library", type=Path, help="npz collection of objects, e.g. ../shared/data/dev.npz")
    surfaces.add_argument("--golden", type=Path, help="mesh_to_dual_grid.safetensors of the golden vectors")
    surfaces.add_argument("--random", type=int, default=200, help="random voxel sets")
    surfaces.add_argument("--resolution", type=int, default=256, help="of the objects' O-Voxels")
    surfaces.add_argument("--limit", type=int, help="so many objects of the library only")
    surfaces.add_argument("--jobs", type=int, default=1, help="processes that share the work")
    surfaces.set_defaults(run=_bench_surfaces)
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
    pipeline = kinds.add_parser("pipeline", help="every stage at the size of the released models, on a GPU")
    pipeline.add_argument("--random-weights", action="store_true", required=True, help="nothing is downloaded")
    pipeline.add_argument("--resolution", default="512,1024,1536", help="comma-separated; 1024 and 1536 by cascade")
    pipeline.add_argument("--memory-budget", type=float, metavar="GB", help="of GPU memory; all of it by default")
    pipeline.add_argument("--precision", choices=("bf16", "fp8"), default="bf16", help="of the flows")
    pipeline.add_argument("--no-finish", action="store_true", help="stop before the mesh is simplified and textured")
    pipeline.add_argument(
        "--out-of-memory", action="store_true",
        help="instead: take the memory away in each stage of the first resolution, and say what happens",
    )  # fmt: skip
    pipeline.add_argument("--device", default="auto")
    pipeline.add_argument("--runs", type=int, default=3)
    pipeline.set_defaults(run=_bench_pipeline)
    batch = kinds.add_parser("batch", help="a batch beside single runs at the size of the released models, on a GPU")
    batch.add_argument("--random-weights", action="store_true", required=True, help="nothing is downloaded")
    batch.add_argument("--resolution", default="512", help="comma-separated: 512 and 1024, both in one pass")
    batch.add_argument("--count", type=int, default=4, help="assets")
    batch.add_argument("--together", type=int, default=4, help="of them sampled in one pass")
    batch.add_argument("--memory-budget", type=float, metavar="GB", help="of GPU memory; all of it by default")
    batch.add_argument("--device", default="auto")
    batch.add_argument("--runs", type=int, default=3)
    batch.set_defaults(run=_bench_batch)
    serve = kinds.add_parser("serve", help="several workers beside one (needs pip install 'ray[serve]')")
    serve.add_argument("--workers", type=int, default=2)
    serve.add_argument("--requests", type=int, default=8)
    serve.add_argument("--picture", type=Path, default=PROJECT_ROOT / "assets" / "examples" / "chair.png")
    serve.add_argument("--bundle", help="mini, a folder, or owner/name on the Hugging Face hub")
    serve.add_argument("--device", help="auto, cpu or cuda")
    serve.add_argument("--resolution", metavar="PRESET")
    serve.set_defaults(run=_bench_serve)
    loading = kinds.add_parser("loading", help="strict loading of a preset's checkpoints from cold disk and page cache")
    loading.add_argument("--random-weights", action="store_true", required=True, help="in files of the published sizes")
    loading.add_argument("--preset", default="1024_cascade", help="512, 1024, 1024_cascade or 1536_cascade")
    loading.add_argument("--folder", type=Path, help="where about 11 GB are written for the time of the run")
    loading.add_argument("--device", default="auto")
    loading.set_defaults(run=_bench_loading)
    kernels = kinds.add_parser("kernels", help="every op beside its reference, and other packages where installed")
    kernels.add_argument("--op", help="comma-separated, e.g. sparse_conv,rasterise; all of them by default")
    kernels.add_argument("--resolution", default="512", help="comma-separated, e.g. 512,1024,1536: sets the voxels")
    kernels.add_argument("--device", default="auto")
    kernels.set_defaults(run=_bench_kernels)


def _bench_generate(options: argparse.Namespace) -> int:
    from trellis_app.bench import bench_generate

    print(json.dumps(bench_generate(options.picture, options.runs, options.arguments)))
    return 0


def _bench_export(options: argparse.Namespace) -> int:
    from trellis_app.bench_export import bench_export, table
    from trellis_app.devices import choose_device

    finish = FinishOptions(faces=options.faces, texture_size=options.texture_size, surface=options.surface)
    sizes = [int(size) for size in options.resolution.split(",")]
    device = str(choose_device(options.device))
    made = {"walls": options.walls, "kind": options.surface_kind}
    report = bench_export(sizes, finish, runs=options.runs, device=device, **made)
    print(table(report), file=sys.stderr)
    print(json.dumps(report))
    return 0


def _bench_surfaces(options: argparse.Namespace) -> int:
    from trellis_app.bench_surfaces import bench_surfaces

    def note(line: str) -> None:
        print(line, file=sys.stderr)

    sizes = {"sets": options.random, "resolution": options.resolution, "limit": options.limit, "jobs": options.jobs}
    print(json.dumps(bench_surfaces(options.library, options.golden, note=note, **sizes)))
    return 0


def _bench_quality(options: argparse.Namespace) -> int:
    from trellis_app.bench_quality import QualityOptions, bench_quality

    chosen = QualityOptions(
        options.library, options.resolution, FinishOptions(faces=options.faces, texture_size=options.texture_size),
        options.limit, tuple(filter(None, options.names.split(","))), options.jobs, options.pictures, options.worst,
    )  # fmt: skip
    print(json.dumps(bench_quality(chosen, note=print)))
    return 0


def _bench_kernels(options: argparse.Namespace) -> int:
    from trellis_app.bench_kernels import OPS, bench_kernels
    from trellis_app.devices import choose_device

    ops = options.op.split(",") if options.op else list(OPS)
    sizes = [int(size) for size in options.resolution.split(",")]
    report = bench_kernels(ops, sizes, choose_device(options.device), note=lambda text: print(text, file=sys.stderr))
    print(json.dumps(report))
    return 1 if any("failed" in row for row in report["rows"]) else 0


def _bench_pipeline(options: argparse.Namespace) -> int:
    if options.out_of_memory:
        return _bench_out_of_memory(options)
    from trellis_app.bench_pipeline import PipelineOptions, bench_pipeline, table
    from trellis_app.devices import choose_device

    finish = None if options.no_finish else FinishOptions(faces=500_000, texture_size=2048)
    chosen = PipelineOptions(options.runs, options.memory_budget, finish, options.precision)
    report = bench_pipeline(options.resolution.split(","), choose_device(options.device), chosen)
    print(table(report), file=sys.stderr)
    print(json.dumps(report))
    return 0


def _bench_batch(options: argparse.Namespace) -> int:
    from trellis_app.bench_batch import BatchOptions, bench_batch, table
    from trellis_app.devices import choose_device

    finish = FinishOptions(faces=500_000, texture_size=2048)
    chosen = BatchOptions(options.count, options.together, options.runs, options.memory_budget, finish)
    report = bench_batch(options.resolution.split(","), choose_device(options.device), chosen)
    print(table(report), file=sys.stderr)
    print(json.dumps(report))
    return 0


def _bench_serve(options: argparse.Namespace) -> int:
    from trellis_app.bench_serve import ServeOptions, bench_serve

    chosen = ServeOptions(options.picture, options.workers, options.requests, options.resolution)
    print(json.dumps(bench_serve(_settings(options), chosen)))
    return 0


def _bench_loading(options: argparse.Namespace) -> int:
    from trellis_app.bench_loading import bench_loading, table
    from trellis_app.devices import choose_device

    report = bench_loading(options.preset, choose_device(options.device), options.folder)
    print(table(report), file=sys.stderr)
    print(json.dumps(report))
    return 0


def _bench_out_of_memory(options: argparse.Namespace) -> int:
    from trellis_app.bench_memory import bench_out_of_memory, table
    from trellis_app.devices import choose_device

    resolution, device = options.resolution.split(",")[0], choose_device(options.device)
    report = bench_out_of_memory(resolution, device, options.memory_budget)
    print(table(report), file=sys.stderr)
    print(json.dumps(report))
    return 0


def _add_training(commands: argparse._SubParsersAction, arguments: list[str]) -> None:
    """The training commands import torch and more, so they are only built when asked for (or for --help)."""
    if arguments and arguments[0] not in ("train", "evaluate", "-h", "--help"):
        return
    from trellis_app.training import commands as training

    training.add_train_parser(commands)
    training.add_evaluate_parser(commands)


if __name__ == "__main__":
    sys.exit(main())
