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
from pathlib import Path

from trellis_app.bench_commands import add_bench_parser
from trellis_app.cli_flags import add_finish_flags, file_options, finish_options, format_names, seed_list, settings_of
from trellis_app.errors import TrellisError
from trellis_app.settings import (
    GenerationRequest,
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
    add_bench_parser(commands)
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
    products = run_job(settings_of(options), request, job, tell)
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
    for path in run_texture_job(settings_of(options), request, job, _teller()):
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

    report = examine(settings_of(options), probe=not options.no_probe)
    print(render_json(report) if options.json else render_text(report))
    return 0 if report.usable else 1


def _add_training(commands: argparse._SubParsersAction, arguments: list[str]) -> None:
    """The training commands import torch and more, so they are only built when asked for (or for --help)."""
    if arguments and arguments[0] not in ("train", "evaluate", "-h", "--help"):
        return
    from trellis_app.training import commands as training

    training.add_train_parser(commands)
    training.add_evaluate_parser(commands)


if __name__ == "__main__":
    sys.exit(main())
