"""Downloading several files with progress: events for the page and the command line, lines for the log."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from huggingface_hub import constants

from trellis_app.errors import MachineError
from trellis_app.heartbeat import BEAT, StopSignal, beating
from trellis_app.hub import HubFile, cached, download, remote

LOG = logging.getLogger(__name__)
GB = 1e9
SPARE_BYTES = 500_000_000  # to leave free on the disk
LOG_EVERY = 5.0  # seconds


@dataclass(frozen=True)
class Fetching:
    """How far a download of several files is."""

    name: str
    index: int  # of `count` files, from 1
    count: int
    done_bytes: int
    total_bytes: int  # 0 until the hub has said it

    @property
    def sentence(self) -> str:
        """A few words for a progress line."""
        if not self.total_bytes:
            return "asking the hub for the model"
        unit, name = (GB, "GB") if self.total_bytes >= GB / 10 else (1e6, "MB")
        amount = f"{self.done_bytes / unit:.1f} of {self.total_bytes / unit:.1f} {name}"
        return f"downloading the model, {amount} (file {self.index} of {self.count}: {Path(self.name).name})"


def fetching(files: Sequence[HubFile], *, every: float = BEAT) -> Generator[Fetching, None, None]:
    """Download the files one after another, reporting about every half second.

    Closing the generator ends the download at its next piece and leaves what has arrived; the next call goes on from
    there. Raises what `download` raises, and MachineError where the disk is too small.
    """
    if not files:
        return
    begun = yield from _ask(files, every)
    total, done = sum(file.size for file in begun), 0
    room_for(total - sum(file.here for file in begun))
    for index, file in enumerate(begun, start=1):
        yield Fetching(file.file.name, index, len(files), done + file.here, total)
        for arrived in _arriving(file, every):
            yield Fetching(file.file.name, index, len(files), done + arrived, total)
        done += file.size
    yield Fetching(files[-1].name, len(files), len(files), done, total)


@dataclass(frozen=True)
class _Begun:
    """A file before its download: its bytes, and how many of them arrived earlier; none where it is in the cache."""

    file: HubFile
    size: int
    here: int

    @classmethod
    def of(cls, file: HubFile) -> _Begun:
        if cached(file):
            return cls(file, 0, 0)
        found = remote(file)
        return cls(file, found.size, found.here)


def _ask(files: Sequence[HubFile], every: float) -> Generator[Fetching, None, list[_Begun]]:
    """Ask the hub for all sizes before anything is sent: what is refused is refused at once."""
    with closing(beating(lambda: [_Begun.of(file) for file in files], StopSignal(), every=every)) as asking:
        while True:
            yield Fetching(files[0].name, 1, len(files), 0, 0)
            try:
                next(asking)
            except StopIteration as end:
                return cast("list[_Begun]", end.value)


def _arriving(begun: _Begun, every: float) -> Generator[int, None, None]:
    """Download one file in a thread; the bytes that are here at every beat."""
    signal, arrived = StopSignal(), begun.here

    def note(size: int) -> None:
        nonlocal arrived
        signal()
        arrived = size

    with closing(beating(lambda: download(begun.file, note), signal, every=every)) as beats:
        for _ in beats:
            yield arrived


def fetched(file: HubFile) -> Path:
    """The local path of a file that is downloaded where nobody watches events: the log tells how far it is."""
    told = -LOG_EVERY
    for state in fetching([] if cached(file) else [file]):
        if state.total_bytes and time.monotonic() - told >= LOG_EVERY:
            LOG.info("%s: %s", file.repository, state.sentence)
            told = time.monotonic()
    return download(file)


def room_for(wanted: int) -> None:
    """Raises MachineError where the cache's disk is too small for so many bytes."""
    folder = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(p for p in (folder, *folder.absolute().parents) if p.exists())).free
    if wanted and wanted + SPARE_BYTES > free:
        raise MachineError(
            f"The model needs {wanted / GB:.1f} GB on the disk of {folder}, where {free / GB:.1f} GB are free.",
            "Free some space, or set HF_HOME to a folder on another disk.",
        )
