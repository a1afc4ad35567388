"""Files appear whole or not at all: written beside their final name, then renamed."""

from __future__ import annotations

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
        raise MachineError(
            f"The file {target} could not be written ({error.strerror or error}).",
            "Free some disk space or choose another output folder.",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return target
