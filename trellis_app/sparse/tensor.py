"""Sparse tensors: features on voxels, and everything that is derived from the voxels' coordinates alone.

Rows are ordered by batch item: the rows of one item are contiguous and items are in order. Coordinates are
int32 (batch, x, y, z), 0 <= x, y, z < 2^16.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from trellis_kernels.neighbour_map.op import child_coords, child_map, neighbour_map
from trellis_kernels.sparse_conv.plan import ConvPlan, plan_conv
from trellis_kernels.sparse_conv.reference import pick_children

from trellis_app.sparse.packing import Packing

T = TypeVar("T")
_KEY_BITS = 16  # bits of one coordinate in a sort key


@dataclass(frozen=True, eq=False)
class Children:
    """Which of the 8 children of each coarse voxel exist, in the row order of the fine voxels.

    Child s of a voxel lies at 2 * parent + (s & 1, s >> 1 & 1, s >> 2 & 1): x is the lowest bit.
    """

    slots: torch.Tensor  # int64 [M] parent_row * 8 + s
    cache: SpatialCache  # of the M fine voxels

    def mask(self, parents: int) -> torch.Tensor:
        """bool [parents, 8]: the child exists."""
        mask = torch.zeros(parents * 8, dtype=torch.bool, device=self.slots.device)
        return mask.index_fill_(0, self.slots, True).view(parents, 8)


class SpatialCache:
    """Memory of one set of voxel coordinates, shared by all tensors that live on them.

    `recorded` holds the children seen when these voxels were made by `coarsen`; an upsampling step uses them instead
    of any predicted mask and so returns to exactly the fine voxels and their row order.
    Everything else is memoised arithmetic on the coordinates.
    """

    def __init__(self, coords: torch.Tensor, *, lengths: tuple[int, ...] | None = None) -> None:
        self.coords = coords
        self.recorded: Children | None = None
        self._lengths = lengths
        self._memo: dict[Hashable, Any] = {}
        self._coarse: weakref.ref[SpatialCache] | None = None  # weak: the coarse side owns the fine side
        self._parents: weakref.ref[SpatialCache] | None = None  # of voxels made by `subdivide`, weak likewise
        self._slots: torch.Tensor | None = None  # int64 [N] parent * 8 + child number

    def remember(self, key: Hashable, build: Callable[[], T]) -> T:
        """The value under `key`, built on first use."""
        if key not in self._memo:
            self._memo[key] = build()
        return self._memo[key]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Rows of each batch item; without lengths given at construction the batch ends at its last filled item."""
        if self._lengths is None:
            items = int(self.coords[-1, 0]) + 1 if len(self.coords) else 0
            ends = torch.arange(items + 1, dtype=torch.int32, device=self.coords.device)
            self._lengths = tuple(torch.searchsorted(self.coords[:, 0].contiguous(), ends).diff().tolist())
        return self._lengths

    @property
    def packing(self) -> Packing:
        return self.remember("packing", lambda: Packing(self.lengths, self.coords.device))

    @property
    def neighbours(self) -> torch.Tensor:
        """int32 [N, 27]: the rows of the 3x3x3 neighbourhood."""
        return self.remember("neighbours", lambda: self._neighbours_of(slice(0, len(self.coords))))

    @property
    def convolution(self) -> ConvPlan:
        """The 3x3x3 neighbourhoods, grouped for the convolution."""
        return self.remember("convolution", lambda: plan_conv(self.neighbours))

    def neighbourhoods(self, most: int) -> Iterator[tuple[slice, ConvPlan]]:
        """`convolution` in stretches of at most `most` rows, each made when it is asked for and kept by nobody."""
        for begin in range(0, len(self.coords), most):
            part = slice(begin, min(begin + most, len(self.coords)))
            yield part, plan_conv(self._neighbours_of(part))

    def _neighbours_of(self, part: slice) -> torch.Tensor:
        """Rows of `neighbours`. On a GPU, children take them from their parents' map: no search."""
        if "neighbours" in self._memo:
            return self.neighbours[part]
        parents = self._parents() if self._parents is not None else None
        if parents is not None and self.coords.is_cuda:
            assert self._slots is not None
            return child_map(parents.neighbours, self._slots, part=part)
        if part.stop - part.start < len(self.coords):
            return self.neighbours[part]
        return neighbour_map(self.coords)

    def forget_neighbours(self) -> None:
        """Free the neighbour maps of these voxels and of all made from them; they are made again when asked for."""
        for key in ("neighbours", "convolution"):
            self._memo.pop(key, None)
        if "subdivision" in self._memo:
            self._memo["subdivision"][1].cache.forget_neighbours()

    def coarsen(self) -> SpatialCache:
        """The voxels of half the resolution in lexicographic order, with `recorded` children leading back here."""
        coarse = self._coarse() if self._coarse is not None else None
        if coarse is None:
            coarse = self._build_coarse()
            self._coarse = weakref.ref(coarse)
        return coarse

    def _build_coarse(self) -> SpatialCache:
        batch, position = self.coords[:, :1].long(), self.coords[:, 1:].long()
        halves = torch.cat([batch, position >> 1], dim=1)
        shifts = torch.arange(3, -1, -1, device=halves.device) * _KEY_BITS
        keys, parent = torch.unique((halves << shifts).sum(dim=1), return_inverse=True)
        coords = (keys[:, None] >> shifts) & ((1 << _KEY_BITS) - 1)
        octant = ((position & 1) << torch.arange(3, device=halves.device)).sum(dim=1)
        coarse = SpatialCache(coords.int())
        coarse.recorded = Children(slots=parent * 8 + octant, cache=self)
        return coarse

    def subdivide(self, mask: torch.Tensor) -> Children:
        """Children by a mask [N, 8]: parents in row order, children ascending inside a parent."""
        known = self._memo.get("subdivision")
        if known is not None and torch.equal(known[0], mask):
            return known[1]
        slots = mask.flatten().nonzero().flatten()
        children = Children(slots=slots, cache=SpatialCache(child_coords(self.coords, slots)))
        children.cache._parents, children.cache._slots = weakref.ref(self), slots
        self._memo["subdivision"] = (mask, children)
        return children


@dataclass(frozen=True, eq=False)
class SparseTensor:
    """Features on voxels.

    Args:
        feats: [N, C].
        coords: int32 [N, 4] (batch, x, y, z), rows of a batch item contiguous, items in order.
        cache: the memory of exactly these coordinates; a new one where none is given.
    """

    feats: torch.Tensor
    coords: torch.Tensor
    cache: SpatialCache = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.coords.ndim != 2 or self.coords.shape[1] != 4 or self.coords.dtype != torch.int32:
            raise ValueError(f"coords are {self.coords.dtype} {list(self.coords.shape)}, expected int32 [N, 4]")
        if self.feats.ndim != 2 or len(self.feats) != len(self.coords):
            raise ValueError(f"feats are {list(self.feats.shape)}, expected [{len(self.coords)}, C]")
        if self.cache is None:
            object.__setattr__(self, "cache", SpatialCache(self.coords))

    @classmethod
    def packed(cls, feats: torch.Tensor, coords: torch.Tensor, lengths: tuple[int, ...]) -> SparseTensor:
        """With the rows of each item known beforehand, which spares the device a synchronisation."""
        return cls(feats, coords, SpatialCache(coords, lengths=tuple(lengths)))

    def replace(self, feats: torch.Tensor) -> SparseTensor:
        """Other features on the same voxels, sharing their cache."""
        return SparseTensor(feats, self.coords, self.cache)

    def fresh(self) -> SparseTensor:
        """The same features with an empty cache: recorded children and neighbour maps are let go."""
        return SparseTensor(self.feats, self.coords)

    def to(self, device: torch.device | str) -> SparseTensor:
        """On another device, with an empty cache unless it is there already."""
        device = torch.device(device)
        if self.feats.device.type == device.type and device.index in (None, self.feats.device.index):
            return self
        return SparseTensor(self.feats.to(device), self.coords.to(device))

    def items(self) -> list[SparseTensor]:
        """One tensor a batch item, each with batch index 0."""
        if len(self.lengths) == 1:
            return [self]
        zero = torch.tensor([0, 1, 1, 1], dtype=torch.int32, device=self.coords.device)
        pairs = zip(self.feats.split(self.lengths), self.coords.split(self.lengths), strict=True)
        return [SparseTensor(feats, coords * zero) for feats, coords in pairs]

    @property
    def lengths(self) -> tuple[int, ...]:
        return self.cache.lengths

    @property
    def batch_size(self) -> int:
        return len(self.cache.lengths)

    @property
    def packing(self) -> Packing:
        return self.cache.packing


def channel_to_space(feats: torch.Tensor, children: Children) -> torch.Tensor:
    """[P, 8 c] on the parents -> [M, c] on their children; child s takes channels s * c to (s + 1) * c."""
    return pick_children(feats, children.slots)


def space_to_channel(feats: torch.Tensor, coarse: SpatialCache) -> torch.Tensor:
    """[M, C] on the voxels that `coarse` was coarsened from -> [P, 8 C]; missing children are zeros."""
    if coarse.recorded is None:
        raise ValueError("these voxels were not made by coarsening, so no children are recorded")
    parents, channels = len(coarse.coords), feats.shape[1]
    children = feats.new_zeros(parents * 8, channels).index_copy(0, coarse.recorded.slots, feats)
    return children.view(parents, 8 * channels)
