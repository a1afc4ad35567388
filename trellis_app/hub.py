"""Files of the Hugging Face hub: pinned, resumed where a download broke off, checked by size and hash.

The hub's own client keeps the cache and honours HF_ENDPOINT (a mirror), HF_HOME, HF_TOKEN and HF_HUB_OFFLINE. Since its
version 1 it throws away what arrived of a file when a download ends early, so weights are written here, into the place
in its cache where it finds them.
"""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import (
    constants,
    errors,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers, disable_progress_bars

from trellis_app.errors import BundleError, MachineError, TrellisError
from trellis_app.released import CHECKPOINTS, STRUCTURE_REPOSITORY

LOG = logging.getLogger(__name__)
FULL_BUNDLE = "microsoft/TRELLIS.2-4B"
DINOV3, MATTE = "facebook/dinov3-vitl16-pretrain-lvd1689m", "briaai/RMBG-2.0"  # gated; their open twins:
OPEN_DINOV3, OPEN_MATTE = "timm/vit_large_patch16_dinov3.lvd1689m", "ZhengPeng7/BiRefNet"
PINNED = {
    FULL_BUNDLE: "af44b45f2e35a493886929c6d786e563ec68364d",
    STRUCTURE_REPOSITORY: "25e0d31ffbebe4b5a97464dd851910efc3002d96",
    DINOV3: "ea8dc2863c51be0a264bab82070e3e8836b02d51",
    MATTE: "5df4c9c76d8170882c34f6986e848ee07fd0ba43",
    OPEN_DINOV3: "30c1109559f65dea34316b0d4842d35c5771fe11",
    OPEN_MATTE: "e2bf8e4460fc8fa32bba5ea4d94b3233d367b0e4",
}
WEIGHTS = ".safetensors"
MODEL_FILE = f"model{WEIGHTS}"  # of repositories that hold one model
_ENCODER_BYTES = {OPEN_DINOV3: 1_212_347_640, OPEN_MATTE: 444_473_596}
_TRIES = 3
_SHA256 = re.compile("[0-9a-f]{64}")
_READ = 2**24  # bytes at a time
Note = Callable[[int], None]  # told how many bytes of a file are here; may raise to end the download


@dataclass(frozen=True)
class HubFile:
    """A file of a repository, at a commit: the one given, else the pinned one where this program knows one."""

    repository: str
    name: str
    commit: str | None = None

    @property
    def revision(self) -> str | None:
        return self.commit or PINNED.get(self.repository)

    @property
    def known_bytes(self) -> int | None:
        """Published size of the weights that this program pins."""
        if self.revision != PINNED.get(self.repository, ""):
            return None
        sizes = {f"{checkpoint.stem}{WEIGHTS}": checkpoint.file_bytes for checkpoint in CHECKPOINTS.values()}
        here = sizes.get(self.name, sizes.get(f"{self.repository}/{self.name}"))
        return here or (_ENCODER_BYTES.get(self.repository) if self.name == MODEL_FILE else None)


@dataclass(frozen=True)
class Remote:
    """What the hub says of a file before it sends it."""

    url: str
    size: int
    blob: Path  # where the cache keeps it
    sha256: str | None  # of large files

    @property
    def unfinished(self) -> Path:
        """Where it grows."""
        return self.blob.with_name(f"{self.blob.name}.incomplete")

    @property
    def here(self) -> int:
        """Bytes that have arrived."""
        path = next((path for path in (self.blob, self.unfinished) if path.exists()), None)
        return path.stat().st_size if path else 0


def cached(file: HubFile) -> Path | None:
    """Where the file lies in the local cache, if it does."""
    path = try_to_load_from_cache(file.repository, file.name, revision=file.revision)
    return Path(path) if isinstance(path, str) else None


def remote(file: HubFile) -> Remote:
    """Ask the hub for a file's size and place. Raises BundleError: gated, not found, offline, no hub."""
    with _in_sentences(file):
        url = hf_hub_url(file.repository, file.name, revision=file.revision)
        for last in [*([False] * (_TRIES - 1)), True]:
            try:
                found = get_hf_file_metadata(url)
                break
            except (OSError, errors.HTTPError) as error:
                if last or not _passing(error):
                    raise
                time.sleep(1)
        if not (found.commit_hash and found.etag and found.size is not None):
            raise errors.FileMetadataError(f"{constants.ENDPOINT} names no commit, tag or size of {file.name}")
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=file.repository, repo_type="model")
    sha256 = found.etag if _SHA256.fullmatch(found.etag) else None
    return Remote(url, found.size, folder / "blobs" / found.etag, sha256)


def download(file: HubFile, note: Note = lambda _: None) -> Path:
    """The file's local path, downloaded where it is not cached; broken off, weights go on where they stopped.

    Raises BundleError or MachineError with what to do: gated, not found, offline, no space, wrong size or hash.
    """
    if file.name.endswith(WEIGHTS) and cached(file) is None:
        _bring(file, remote(file), note)
    with _in_sentences(file):
        path = Path(hf_hub_download(file.repository, file.name, revision=file.revision))
    _check_size(file, path.stat().st_size, str(path))
    return path


def _bring(file: HubFile, found: Remote, note: Note) -> None:
    """Write the file's blob into the client's cache, under the client's lock, from where it broke off before."""
    _check_size(file, found.size, f"{file.name} on {constants.ENDPOINT}")
    repository = found.blob.parent.parent
    lock = repository.parent / ".locks" / repository.name / f"{found.blob.name}.lock"
    with _in_sentences(file, begun=True):
        for folder in (lock.parent, found.blob.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            if found.blob.exists():
                return
            if found.here > found.size:
                found.unfinished.unlink()
            while not _grow(found, note):
                continue
            _check_bytes(file, found)
            found.unfinished.replace(found.blob)


def _grow(found: Remote, note: Note) -> bool:
    """Add to the unfinished file; False where the connection broke but brought something. Else raises its error."""
    begin = found.here
    disable_progress_bars("huggingface_hub.http_get")  # this program tells the progress itself
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # packed bytes cannot be resumed
    try:
        with _Growing(found.unfinished, note) as stream:
            http_get(found.url, stream, resume_size=begin, headers=headers, expected_size=found.size)
    except (OSError, errors.HTTPError) as error:
        if found.here == begin or not _passing(error):
            raise
        return found.here >= found.size
    return True


class _Growing(io.FileIO):
    """An unfinished file, written at its end, that tells its size after each piece."""

    def __init__(self, path: Path, note: Note) -> None:
        super().__init__(path, "a")
        self._note = note

    def write(self, piece: bytes) -> int:  # type: ignore[override]
        rest = memoryview(piece)
        while rest:  # a raw file may take a part
            rest = rest[super().write(rest) :]
        self._note(self.tell())
        return len(piece)


def _check_size(file: HubFile, size: int, where: str) -> None:
    if file.known_bytes not in (None, size):
        raise BundleError(
            f"{where} has {size:,} bytes instead of {file.known_bytes:,}.",
            "Delete it and download again, or use another mirror.",
        )


def _check_bytes(file: HubFile, found: Remote) -> None:
    """Weights of the right size with wrong bytes would load and give nonsense."""
    digest = hashlib.sha256()
    with found.unfinished.open("rb") as stream:
        while piece := stream.read(_READ):
            digest.update(piece)
    if found.here != found.size or found.sha256 not in (None, digest.hexdigest()):
        found.unfinished.unlink()
        raise BundleError(f"{file.name} of {file.repository} arrived damaged.", "Download it again.")


@contextmanager
def _in_sentences(file: HubFile, *, begun: bool = False) -> Iterator[None]:
    """Turn what the client raises into the errors of this program; begun: some of the file may have arrived."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, errors.EntryNotFoundError, errors.HTTPError) as error:
        LOG.debug("%s of %s", file.name, file.repository, exc_info=error)
        raise explained(error, file, begun=begun) from error


def explained(error: BaseException, file: HubFile, *, begun: bool = False) -> TrellisError:
    """The sentences for what stopped a download."""
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
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return BundleError(f"{file.repository} has no file {file.name}.", "Check the bundle's name.")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MachineError(
            f"The disk is full: {what} does not fit.",
            "Free some space, or set HF_HOME to another disk; what arrived is kept.",
        )
    return _trouble(_cause(error), file, begun)


def _trouble(error: BaseException, file: HubFile, begun: bool) -> TrellisError:
    """The sentences where neither the file nor this machine is to blame."""
    what, answer = f"{file.name} of {file.repository}", getattr(error, "response", None)
    if isinstance(error, errors.FileMetadataError):
        return BundleError(
            f"{constants.ENDPOINT} does not answer as the hub does.",
            "Check HF_ENDPOINT and the proxy, or unset HF_ENDPOINT.",
        )
    if answer is not None and answer.status_code in (401, 403):
        return BundleError(
            f"The hub refuses this login for {what} ({answer.status_code}).",
            "Log in again with `hf auth login`, or remove HF_TOKEN.",
        )
    if answer is not None:
        return BundleError(
            f"The hub could not send {what} (it answered {answer.status_code}).",
            "Try again later: what arrived is kept. Or set HF_ENDPOINT to a mirror.",
        )
    if isinstance(error, errors.OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        return BundleError(
            f"{what} is not on this machine, and HF_HUB_OFFLINE forbids to download it.",
            "Unset HF_HUB_OFFLINE, name a folder that holds the bundle, or choose the bundle mini.",
        )
    if begun:
        return BundleError(
            f"{what} could not be downloaded ({type(error).__name__}).", "Try again: what arrived is kept."
        )
    return BundleError(
        f"{what} is not on this machine, and the hub cannot be reached: it could not be downloaded.",
        "Check the network, set HF_ENDPOINT to a mirror, or choose the bundle mini.",
    )


def _cause(error: BaseException) -> BaseException:
    """What the client itself met: it wraps that for files that are not in the cache."""
    return error.__cause__ or error if isinstance(error, errors.LocalEntryNotFoundError) else error


def _passing(error: BaseException) -> bool:
    """Whether asking again may help: broken connections, a hub that is busy."""
    answer = getattr(error, "response", None)
    if answer is not None:
        return answer.status_code == 429 or answer.status_code >= 500
    return not isinstance(error, errors.OfflineModeIsEnabled) and getattr(error, "errno", None) is None
