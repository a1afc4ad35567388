"""Files appear whole or not at all: written beside their final name, then renamed."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from trellis_app.errors import MachineError


def write_atomically(path: str | Path, parts: Iterable[bytes]) -> Path:
    """Write `parts` one after the other to `path`; on any failure nothing is left behind.

    Raises MachineError when the folder cannot be made or written (full disk, no permission).
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as stream:
            stream.writelines(parts)
        temporary.chmod(0o644)
        temporary.replace(target)
        temporary = None
    except OSError as error:
        raise disk_error(error, target.parent) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return target


def check_folder(folder: Path) -> None:
    """Raise MachineError where a folder, existing or still to be made, cannot take files; nothing is made."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise disk_error(NotADirectoryError(errno.ENOTDIR, f"{there} is a file"), folder)
    if not os.access(there, os.W_OK | os.X_OK):
        raise disk_error(PermissionError(errno.EACCES, os.strerror(errno.EACCES)), folder)


def disk_error(error: OSError, folder: Path) -> MachineError:
    """The sentence for a file system that refuses to write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MachineError(f"The disk that holds {folder} is full.", "Free some space or choose another folder.")
    reason = error.strerror or str(error)
    return MachineError(f"The folder {folder} cannot be written ({reason}).", "Choose another folder.")
