"""The kept asset: the one thing that every format is written from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from trellis_app.settings import FileOptions, FinishOptions
from trellis_app.types import FinishedAsset, OVoxel

Record = dict[str, object]


@dataclass(frozen=True)
class ExportSource:
    """A finished asset, the voxels it was made from and how both are to be stored."""

    asset: FinishedAsset
    voxels: OVoxel
    finish: FinishOptions = field(default_factory=FinishOptions)  # how it was made; prints keep its face budget
    options: FileOptions = field(default_factory=FileOptions)
    record: Record = field(default_factory=dict)  # settings, seeds and versions; stored in the GLB


@dataclass(frozen=True)
class Part:
    """One file of a format, complete in memory."""

    name: str
    chunks: Sequence[bytes]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(len(chunk) for chunk in self.chunks)
