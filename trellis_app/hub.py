"""Files of the Hugging Face hub: pinned, resumed where a download broke off, checked by size, failures in sentences.

The hub's own client keeps the cache, resumes, and honours HF_ENDPOINT (a mirror), HF_HOME and HF_HUB_OFFLINE.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trellis_app.errors import BundleError, MachineError, TrellisError
from trellis_app.heartbeat import StopSignal, beating
from trellis_app.released import CHECKPOINTS, STRUCTURE_REPOSITORY

GB = 1e9
FULL_BUNDLE = "microsoft/TRELLIS.2-4B"
PINNED = {
    FULL_BUNDLE: "af44b45f2e35a493886929c6d786e563ec68364d",
    STRUCTURE_REPOSITORY: "25e0d31ffbebe4b5a97464dd851910efc3002d96",
}
SPARE_BYTES = 500_000_000  # to leave free on the disk


@dataclass(frozen=True)
class HubFile:
    """A file of a repository, at the pinned revision where this program knows one."""

    repository: str
    name: str

    @property
    def revision(self) -> str | None:
        return PINNED.get(self.repository)

    @property
    def known_bytes(self) -> int | None:
        """Published size of a released checkpoint's weights."""
        places = (self.name, f"{self.repository}/{self.name}")
        sizes = {f"{checkpoint.stem}.safetensors": checkpoint.file_bytes for checkpoint in CHECKPOINTS.values()}
        return next((sizes[place] for place in places if place in sizes and self.repository in PINNED), None)


@dataclass(frozen=True)
class Fetching:
    """How far a download of several files is."""

    name: str
    index: int  # of `count` files, from 1
    count: int
    done_bytes: int
    total_bytes: int | None  # None where a size is not known

    @property
    def sentence(self) -> str:
        """A few words for a progress line."""
        amount = f"{self.done_bytes / GB:.1f} GB"
        if self.total_bytes:
            amount = f"{self.done_bytes / GB:.1f} of {self.total_bytes / GB:.1f} GB"
        return f"downloading the model, {amount} (file {self.index} of {self.count}: {Path(self.name).name})"


def cached(file: HubFile) -> Path | None:
    """Where the file lies in the local cache, if it does."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    path = try_to_load_from_cache(file.repository, file.name, revision=file.revision)
    return Path(path) if isinstance(path, str) else None


def download(file: HubFile) -> Path:
    """The file's local path, downloaded where it is not cached; a broken download goes on where it stopped.

    Raises BundleError or MachineError with what to do: gated, not found, offline, no space, no client, wrong size.
    """
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError as error:
        raise MachineError(
            f"The bundle {file.repository} needs the package huggingface_hub.", "Run pip install huggingface_hub."
        ) from error
    try:
        path = Path(hf_hub_download(file.repository, file.name, revision=file.revision))
    except (OSError, ValueError, RuntimeError, EntryNotFoundError) as error:
        raise explained(error, file) from error
    if file.known_bytes is not None and path.stat().st_size != file.known_bytes:
        raise BundleError(
            f"{path} has {path.stat().st_size:,} bytes instead of {file.known_bytes:,}.",
            "Delete it and download again.",
        )
    return path


def explained(error: BaseException, file: HubFile) -> TrellisError:
    """The sentences for what stopped a download."""
    from huggingface_hub import errors

    what, page = f"{file.name} of {file.repository}", f"https://huggingface.co/{file.repository}"
    if isinstance(error, errors.GatedRepoError):
        return BundleError(
            f"{file.repository} asks you to accept its licence first.",
            f"Accept it on {page}, log in with `hf auth login`, and try again.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return BundleError(
            f"{file.repository} has no revision {file.revision}.", "Update this program, or use another bundle."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return BundleError(
            f"There is no repository {file.repository} on the hub, or it is private.",
            "Check the name, or log in with `hf auth login` if it is yours.",
        )
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError)):
        return BundleError(
            f"{what} is not on this machine, and the hub cannot be reached: it could not be downloaded.",
            "Check the network (or unset HF_HUB_OFFLINE), set HF_ENDPOINT to a mirror, or choose the bundle mini.",
        )
    if isinstance(error, errors.EntryNotFoundError):
        return BundleError(f"{file.repository} has no file {file.name}.", "Check the bundle's name.")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MachineError(
            f"The disk is full: {what} does not fit.", "Free some space, or set HF_HOME to another disk."
        )
    return BundleError(
        f"{what} could not be downloaded ({type(error).__name__}).",
        "Try again: what arrived is kept. Or choose the bundle mini, which needs no download.",
    )


def fetching(files: Sequence[HubFile], *, every: float = 0.5) -> Generator[Fetching, None, None]:
    """Download the files one after another, reporting about every half second.

    Closing the generator leaves what has arrived; the next call goes on from there.
    """
    sizes = [file.known_bytes for file in files]
    total = sum(size for size in sizes if size) if all(sizes) else None
    room_for(files, total)
    done = 0
    for index, file in enumerate(files, start=1):
        arrived = 0
        work = beating(lambda file=file: download(file), StopSignal(), every=every)  # type: ignore[misc]
        while True:
            yield Fetching(file.name, index, len(files), done + arrived, total)
            try:
                next(work)
            except StopIteration as end:
                done += Path(end.value).stat().st_size
                break
            arrived = max(arrived, _arrived_bytes(file))


def room_for(files: Sequence[HubFile], total: int | None) -> None:
    """Raises MachineError where the cache's disk is too small for what is to come."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(p for p in (folder, *folder.absolute().parents) if p.exists())).free
    wanted = (total or 0) - sum(_arrived_bytes(file) for file in files)
    if total is not None and wanted + SPARE_BYTES > free:
        raise MachineError(
            f"The model needs {wanted / GB:.1f} GB on the disk of {folder}, where {free / GB:.1f} GB are free.",
            "Free some space, or set HF_HOME to a folder on another disk.",
        )


def _arrived_bytes(file: HubFile) -> int:
    """Size of the unfinished file that the client is writing for this repository."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{file.repository.replace('/', '--')}" / "blobs"
    sizes = []
    for path in folder.glob("*.incomplete"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # finished meanwhile
            continue
    return max(sizes, default=0)
