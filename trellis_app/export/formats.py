"""The table of export formats, each built from the one kept asset, and the writing of any of them: all or none."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from trellis_app.errors import SettingsError
from trellis_app.export.archive import zip_chunks
from trellis_app.export.draco import dracopy
from trellis_app.export.files import disk_error
from trellis_app.export.glb import glb_chunks
from trellis_app.export.obj import obj_parts
from trellis_app.export.ply import ply_chunks
from trellis_app.export.printing import print_model, stl_chunks, threemf_chunks
from trellis_app.export.radiance import radiance_chunks, radiance_field
from trellis_app.export.source import ExportSource, Part, Record
from trellis_app.export.splats import splat_chunks
from trellis_app.export.surfels import Surfels, surfels
from trellis_app.export.usdz import usdz_chunks
from trellis_app.ovoxel import vxz
from trellis_app.ovoxel.files import asset_voxels, npz_bytes, ply_bytes
from trellis_app.progress import Check, go_on
from trellis_app.settings import FileOptions

VXZ_OPTIONS = vxz.VxzOptions(compression="zstd", compression_level=9)  # 5 times as fast as the default, 1/4 larger
Builder = Callable[[ExportSource, str, Check], Sequence[Part]]


@dataclass(frozen=True)
class Format:
    """One row of the table."""

    name: str  # what --formats takes
    label: str
    help: str  # one short sentence: what opens it
    extension: str  # of its one download
    build: Builder  # (source, stem, check) -> its files, the main one first
    options: tuple[str, ...] = ()  # fields of FileOptions that it heeds


def _glb(source: ExportSource, stem: str, check: Check) -> list[Part]:
    chunks = glb_chunks(source.asset, extras=source.settings, options=source.options, check=check)
    return [Part(f"{stem}.glb", chunks)]


def _ply(source: ExportSource, stem: str, check: Check) -> list[Part]:
    return [Part(f"{stem}.ply", ply_chunks(source.asset))]


def _splat(source: ExportSource, stem: str, check: Check) -> list[Part]:
    return [Part(f"{stem}.splat.ply", splat_chunks(_discs(source, check)))]


def _npz(source: ExportSource, stem: str, check: Check) -> list[Part]:
    return [Part(f"{stem}.npz", radiance_chunks(radiance_field(_discs(source, check)), check))]


def _discs(source: ExportSource, check: Check) -> Surfels:
    discs = source.memo("discs", lambda: surfels(source.voxels))
    check()
    return discs


def _obj(source: ExportSource, stem: str, check: Check) -> list[Part]:
    return obj_parts(source.asset, stem, check)


def _stl(source: ExportSource, stem: str, check: Check) -> list[Part]:
    return [Part(f"{stem}.stl", stl_chunks(print_model(source, check)))]


def _threemf(source: ExportSource, stem: str, check: Check) -> list[Part]:
    return [Part(f"{stem}.3mf", threemf_chunks(print_model(source, check), check))]


def _usdz(source: ExportSource, stem: str, check: Check) -> list[Part]:
    return [Part(f"{stem}.usdz", usdz_chunks(source, check))]


def _vxz(source: ExportSource, stem: str, check: Check) -> list[Part]:
    stored = asset_voxels(source.voxels)
    check()
    return [Part(f"{stem}.vxz", [vxz.encode(stored.coords, stored.attributes, VXZ_OPTIONS)])]


def _voxels_npz(source: ExportSource, stem: str, check: Check) -> list[Part]:
    stored = asset_voxels(source.voxels)
    check()
    return [Part(f"{stem}.voxels.npz", [npz_bytes(stored)])]


def _voxels_ply(source: ExportSource, stem: str, check: Check) -> list[Part]:
    return [Part(f"{stem}.voxels.ply", [ply_bytes(asset_voxels(source.voxels))])]


_ROWS = (
    Format(
        "glb", "GLB", "Mesh with textures for Blender, Unity, Unreal, Godot and the web.", "glb", _glb,
        ("texture_format", "draco"),
    ),
    Format("ply", "PLY mesh", "Mesh with a colour at every vertex, for MeshLab and scripts.", "ply", _ply),
    Format("obj", "OBJ", "Mesh with textures that every 3D program opens; several files.", "obj.zip", _obj),
    Format("usdz", "USDZ", "Mesh with textures for iPhone, iPad, Vision Pro and macOS.", "usdz", _usdz),
    Format("stl", "STL", "Closed shape for 3D printing, without colour, in millimetres.", "stl", _stl, ("size_mm",)),
    Format("3mf", "3MF", "Closed shape with colours for 3D printing, in millimetres.", "3mf", _threemf, ("size_mm",)),
    Format("splat", "Gaussian splats", "A soft disc for each voxel, for splat viewers.", "splat.ply", _splat),
    Format("npz", "Radiance field", "Density and colour on a sparse grid, for NumPy and renderers.", "npz", _npz),
    Format("vxz", "O-Voxel", "The voxels themselves, compact, for TRELLIS.2's own tools.", "vxz", _vxz),
    Format("voxels-npz", "Voxels, NPZ", "The voxels as arrays for NumPy.", "voxels.npz", _voxels_npz),
    Format("voxels-ply", "Voxels, PLY", "The voxels as points for point cloud tools.", "voxels.ply", _voxels_ply),
)  # fmt: skip
FORMATS: dict[str, Format] = {row.name: row for row in _ROWS}


def check_formats(names: Sequence[str], options: FileOptions | None = None) -> None:
    """Raise SettingsError for an unknown format or none at all, MachineError where a package for one is missing."""
    for name in names:
        if name not in FORMATS:
            raise SettingsError(f"There is no format {name!r}.", f"Choose from {', '.join(FORMATS)}.")
    if not names:
        raise SettingsError("No format was chosen.", f"Choose from {', '.join(FORMATS)}.")
    if options is not None and options.draco and "glb" in names:
        dracopy()


def write_all(
    source: ExportSource,
    folder: Path,
    stem: str,
    names: Sequence[str],
    *,
    sidecar: Record | None = None,
    packed: bool = False,
    check: Check = go_on,
) -> dict[str, tuple[Path, ...]]:
    """Write every named format, and `<stem>.json` where there is a sidecar: all or none. The same source, same bytes.

    A format of several files is written side by side, or as one zip if `packed`. The result has the paths of each
    format, the main file first, and the sidecar's under "json". The sidecar is told what the asset counts, its health
    and notes, and sizes and seconds of the files.
    Raises SettingsError for an unknown format, MachineError when the disk is full or the folder cannot be written.
    """
    check_formats(names, source.options)
    seconds: dict[str, float] = {}
    sizes: dict[str, int] = {}
    with _Batch(folder) as batch:
        written = {}
        for name in dict.fromkeys(names):
            start = time.monotonic()
            parts = build(FORMATS[name], source, stem, packed=packed, check=check)
            written[name] = tuple(batch.add(part) for part in parts)
            sizes |= {part.name: part.size for part in parts}
            seconds[f"writing: {name}"] = round(time.monotonic() - start, 3)
            del parts
            check()
        if sidecar is not None:
            text = json.dumps(_full_record(source, sidecar, seconds, sizes), indent=2) + "\n"
            written["json"] = (batch.add(Part(f"{stem}.json", [text.encode()])),)
        batch.publish()
    return written


def _full_record(source: ExportSource, sidecar: Record, seconds: dict[str, float], sizes: dict[str, int]) -> Record:
    """The sidecar with what is known once the files are written."""
    asset, spent = source.asset, sidecar.get("seconds")
    health = asset.health and {**asdict(asset.health), "file_bytes": next(iter(sizes.values()))}
    return {
        **sidecar,
        "file_options": asdict(source.options),
        "notes": asset.notes,
        "counts": asset.counts,
        "health": health,
        "seconds": {**(spent if isinstance(spent, dict) else {}), **seconds},
        "files": sizes,
    }


def build(row: Format, source: ExportSource, stem: str, *, packed: bool = False, check: Check = go_on) -> list[Part]:
    """The files of one format in memory; one zip of them if `packed` and there are several."""
    parts = list(row.build(source, stem, check))
    if packed and len(parts) > 1:
        return [Part(f"{stem}.{row.extension}", zip_chunks(parts, check=check))]
    return parts


class _Batch(ExitStack):
    """Files that appear in a folder together: written under hidden names, then renamed."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._hidden: dict[Path, Path] = {}  # by final path

    def add(self, part: Part) -> Path:
        """Write one file under its hidden name; returns the final path."""
        final = self._folder / part.name
        hidden = final.with_name(f".{part.name}.{os.getpid()}.part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if final.is_dir():
                raise IsADirectoryError(f"{final.name} is a folder")
            self.callback(hidden.unlink, missing_ok=True)
            with hidden.open("wb") as stream:
                stream.writelines(part.chunks)
        except OSError as error:
            raise disk_error(error, self._folder) from error
        self._hidden[final] = hidden
        return final

    def publish(self) -> None:
        """Give all files their names; on failure those of this batch are removed."""
        named: list[Path] = []
        try:
            for final, hidden in self._hidden.items():
                hidden.replace(final)
                named.append(final)
        except OSError as error:
            for final in named:
                final.unlink(missing_ok=True)
            raise disk_error(error, self._folder) from error
