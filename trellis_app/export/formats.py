"""The table of export formats: one row a format, each from the same kept asset."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from trellis_app.errors import MachineError, SettingsError
from trellis_app.export.glb import write_glb
from trellis_app.export.ply import write_ply
from trellis_app.types import FinishedAsset

Record = dict[str, object]
Writer = Callable[[FinishedAsset, Path, Record], None]


def _glb(asset: FinishedAsset, path: Path, record: Record) -> None:
    write_glb(asset, path, extras=record)


def _ply(asset: FinishedAsset, path: Path, record: Record) -> None:
    write_ply(asset, path)


FORMATS: dict[str, Writer] = {"glb": _glb, "ply": _ply}


def check_formats(names: tuple[str, ...]) -> None:
    """Raise SettingsError naming the first unknown format."""
    for name in names:
        if name not in FORMATS:
            raise SettingsError(f"There is no format {name!r}.", f"Choose from {', '.join(FORMATS)}.")


def write_all(asset: FinishedAsset, folder: Path, stem: str, names: tuple[str, ...], record: Record) -> dict[str, Path]:
    """Write `<stem>.<format>` for every name, all or none: files of this call are removed when one fails.

    Raises MachineError when the disk is full or the folder cannot be written.
    """
    check_formats(names)
    written: dict[str, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        parts = {name: folder / f".{stem}.{os.getpid()}.part.{name}" for name in names}
        try:
            for name, part in parts.items():
                FORMATS[name](asset, part, record)
            for name, part in parts.items():
                written[name] = part.replace(folder / f"{stem}.{name}")
        finally:
            for part in parts.values():
                part.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, folder) from error
    return written


def disk_error(error: OSError, folder: Path) -> MachineError:
    """The sentence for a file system that refuses to write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MachineError(f"The disk that holds {folder} is full.", "Free some space or choose another folder.")
    reason = error.strerror or str(error)
    return MachineError(f"The folder {folder} cannot be written ({reason}).", "Choose another folder.")
