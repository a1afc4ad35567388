"""The kept asset: the one thing that every format is written from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from trellis_app.settings import FileOptions, FinishOptions
from trellis_app.types import FinishedAsset, OVoxel

Record = dict[str, object]
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class ExportSource:
    """A finished asset, the voxels it was made from and how both are to be stored."""

    asset: FinishedAsset
    voxels: OVoxel
    finish: FinishOptions = field(default_factory=FinishOptions)  # how it was made; prints keep its face budget
    options: FileOptions = field(default_factory=FileOptions)
    record: Record = field(default_factory=dict)  # settings, seeds and versions of the run
    _made: dict[str, tuple[tuple[Any, ...], Any]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def settings(self) -> Record:
        """What a file tells of its making; empty where nothing is known."""
        return {**self.record, "file_options": asdict(self.options)} if self.record else {}

    def memo(self, name: str, make: Callable[[], _Made]) -> _Made:
        """What `make` makes of asset, voxels and finish, made once; copies with other options share it."""
        of = (self.asset, self.voxels, self.finish)
        known = self._made.get(name)
        if known is None or any(a is not b for a, b in zip(known[0], of, strict=True)):
            known = self._made[name] = (of, make())
        made: _Made = known[1]
        return made


@dataclass(frozen=True)
class Part:
    """One file of a format, complete in memory."""

    name: str
    chunks: Sequence[bytes]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(len(chunk) for chunk in self.chunks)
