"""Flags that several commands share: how an asset is finished and which files it becomes."""

from __future__ import annotations

import argparse
from dataclasses import replace

from trellis_app.settings import (
    ALPHA_MODES,
    SURFACE_MODES,
    TEXTURE_FORMATS,
    AppSettings,
    FileOptions,
    FinishOptions,
    app_settings,
)

DEFAULT_FORMATS = "glb,ply"


def add_finish_flags(parser: argparse.ArgumentParser, *, own_mesh: bool = False) -> None:
    """Add what `finish_options`, `file_options` and `format_names` read; own_mesh: the user's triangles stay."""
    finish, files = FinishOptions(), FileOptions()
    group = parser.add_argument_group("the asset")
    if own_mesh:
        parser.set_defaults(surface=finish.surface, faces=finish.faces)
    else:
        group.add_argument(
            "--surface", choices=SURFACE_MODES, default=finish.surface,
            help="single: one sheet, no inner walls; watertight: closed, for printing; decoded: as the model made it",
        )  # fmt: skip
        group.add_argument("--faces", type=int, default=finish.faces, metavar="N", help="triangles at most")
    group.add_argument("--texture-size", type=int, default=finish.texture_size, metavar="N", help="side in pixels")
    group.add_argument("--alpha", choices=ALPHA_MODES, default=finish.alpha, help="auto: as the material asks")
    group.add_argument("--no-normal-map", action="store_true", help="leave out the fine relief of the full surface")
    group = parser.add_argument_group("the files")
    group.add_argument(
        "--formats", default=DEFAULT_FORMATS, metavar="LIST",
        help="comma-separated: glb, ply, splat, npz, obj, stl, 3mf, usdz, vxz (also voxels-npz, voxels-ply)",
    )  # fmt: skip
    group.add_argument("--texture-format", choices=TEXTURE_FORMATS, default=files.texture_format, help="in the GLB")
    group.add_argument("--draco", action="store_true", help="compress the GLB's triangles (needs pip install DracoPy)")
    group.add_argument("--size-mm", type=float, default=files.size_mm, metavar="MM", help="longest side of stl and 3mf")


def finish_options(options: argparse.Namespace) -> FinishOptions:
    """The finishing that the flags ask for. Raises SettingsError."""
    return FinishOptions(
        faces=options.faces,
        texture_size=options.texture_size,
        alpha=options.alpha,
        surface=options.surface,
        normal_map=not options.no_normal_map,
    )


def file_options(options: argparse.Namespace) -> FileOptions:
    """How the flags ask for files to be stored. Raises SettingsError."""
    return FileOptions(texture_format=options.texture_format, draco=options.draco, size_mm=options.size_mm)


def seed_list(text: str) -> tuple[int, ...]:
    """'1,2,3' -> each seed once, for argparse."""
    return tuple(dict.fromkeys(int(seed) for seed in text.split(",")))


def format_names(options: argparse.Namespace) -> tuple[str, ...]:
    """The formats in the order given, each once."""
    return tuple(dict.fromkeys(name.strip() for name in options.formats.split(",") if name.strip()))


def settings_of(options: argparse.Namespace) -> AppSettings:
    """The environment's settings with the bundle and device of the flags."""
    chosen = {name: value for name in ("bundle", "device") if (value := getattr(options, name)) is not None}
    return replace(app_settings(), **chosen)
