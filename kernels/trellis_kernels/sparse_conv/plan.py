"""How the rows of a neighbour map are grouped for the fast kernels; made once for a map, used by every layer on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch

from trellis_kernels.neighbour_map.op import block_lists, neighbour_mask, neighbour_table, part_ranks

ROW_PAD = 256  # tables are padded to whole blocks of up to this many rows
VISIT_ROWS = 64  # rows of a block where the weight gradient sums over blocks
EVEN_OUT = 2048  # blocks up to which it pays to start the longest ones first


@dataclass(frozen=True, eq=False)
class Blocks:
    """The kernel offsets that blocks of rows visit, and the order in which to start the blocks."""

    offsets: torch.Tensor  # int32 [blocks, 32] as `block_lists` makes them
    counts: torch.Tensor  # int32 [blocks] entries of each list
    sequence: torch.Tensor  # int32 [blocks]


@dataclass(frozen=True, eq=False)
class ChildRows:
    """Children to compute, in blocks of one child number each; the blocks of a number may end with absent rows."""

    target: torch.Tensor  # int32 [G, L] row of the child, -1 = absent
    column: torch.Tensor  # int32 [G, L] column of its parent in the part's table, 0 where absent
    slot: torch.Tensor  # int32 [L / block] child number 0..7, the same for every part
    blocks: Blocks  # of all parts, part after part


@dataclass(frozen=True, eq=False)
class Parts:
    """Rows of a map in one order for each of G equal parts of the kernel offsets.

    Rows that are next to each other in an order are alike in its part of the offsets. Sums over the parts are added up
    at the end: more parts, less of the work in a block is for neighbours that do not exist, but more to add up.
    """

    neighbours: torch.Tensor  # int32 [N, V]
    mask: torch.Tensor  # int32 [N]: bit v is set where neighbour v exists
    order: torch.Tensor  # int32 [G, N]
    groupings: dict[int, Blocks] = field(default_factory=dict, repr=False)
    child_rows: dict[int, tuple[torch.Tensor, ChildRows]] = field(default_factory=dict, repr=False)  # by rows a block

    @cached_property
    def table(self) -> torch.Tensor:
        """int32 [V, N padded to ROW_PAD]: the map, offsets outermost, columns in the order of the offset's part."""
        return neighbour_table(self.neighbours, self.order, -(-self.neighbours.shape[0] // ROW_PAD) * ROW_PAD)

    @cached_property
    def ordered_mask(self) -> torch.Tensor:
        """int32 [G, N]: the part's bits of the masks in its order."""
        parts, bits = self.order.shape[0], self.neighbours.shape[1] // self.order.shape[0]
        ordered = self.mask.index_select(0, self.order.flatten()).view(self.order.shape)
        if parts == 1:
            return ordered
        shifts = bits * torch.arange(parts, dtype=torch.int32, device=ordered.device)
        return ordered & (((1 << bits) - 1) << shifts)[:, None]

    def blocks(self, rows: int) -> Blocks:
        """The blocks of so many rows, a power of two up to ROW_PAD, part after part."""
        if rows not in self.groupings:
            self.groupings[rows] = sequenced(*block_lists(padded(self.ordered_mask, rows), rows))
        return self.groupings[rows]

    @cached_property
    def visits(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Blocks of VISIT_ROWS rows that have each kernel offset, int32 [V, blocks], and how many they are, int32 [V].

        Blocks are numbered in the order of the offset's part, ascending; what follows the last one are the others.
        """
        parts, volume, blocks = self.order.shape[0], self.neighbours.shape[1], self.blocks(VISIT_ROWS)
        entry = torch.arange(blocks.offsets.shape[1], device=self.neighbours.device)
        numbers = torch.where(entry < blocks.counts[:, None], blocks.offsets, len(entry) - 1).long()
        used = torch.zeros(blocks.offsets.shape, dtype=torch.uint8, device=numbers.device).scatter_(1, numbers, 1)
        by_offset = used[:, :volume].view(parts, -1, volume).sum(dim=0, dtype=torch.uint8).T.contiguous()
        order = torch.sort(by_offset, dim=1, descending=True, stable=True).indices
        return order.to(torch.int32), by_offset.sum(dim=1, dtype=torch.int32)


@dataclass(frozen=True, eq=False)
class ConvPlan:
    """A neighbour map and the groupings of its rows, each computed at its first use."""

    neighbours: torch.Tensor  # int32 [N, V], -1 = none, symmetric: row j at offset v of row i has i at offset V-1-v
    known: dict[int, Parts] = field(default_factory=dict, repr=False)

    @cached_property
    def mask(self) -> torch.Tensor:
        """int32 [N]: bit v is set where neighbour v exists; V <= 31."""
        return neighbour_mask(self.neighbours)

    @cached_property
    def local_order(self) -> torch.Tensor:
        """int32 [N]: on the CPU, rows sorted in the same way but only within short runs, near each other in memory."""
        from trellis_kernels.sparse_conv import cpu

        return torch.from_numpy(cpu.local_order(self.neighbours.contiguous().numpy()))

    def parts(self, count: int) -> Parts:
        """The rows in an order for each of `count` parts of the offsets; 1 where these cannot be parted equally."""
        count = count if self.neighbours.shape[1] % count == 0 else 1
        if count not in self.known:
            self.known[count] = Parts(self.neighbours, self.mask, self._order(count))
        return self.known[count]

    def _order(self, parts: int) -> torch.Tensor:
        """int32 [parts, N]: one sort of all ranks, those of a part together."""
        count, volume = self.neighbours.shape
        ranks = part_ranks(self.mask, parts, volume)
        order = torch.sort(ranks.flatten(), stable=True).indices.view(parts, count)
        if parts > 1:
            order = order - torch.arange(parts, device=order.device)[:, None] * count
        return order.to(torch.int32)


def padded(masks: torch.Tensor, block: int) -> torch.Tensor:
    """int32 [G, N] -> int32 [G * (N up to whole blocks)]: no block holds rows of two parts."""
    return torch.nn.functional.pad(masks, (0, -masks.shape[1] % block)).flatten() if len(masks) > 1 else masks[0]


def sequenced(offsets: torch.Tensor, counts: torch.Tensor) -> Blocks:
    """Blocks with their sequence: few ones start with the longest, so that they end together."""
    if counts.shape[0] <= EVEN_OUT:
        sequence = torch.argsort(counts, descending=True, stable=True).to(torch.int32)
    else:
        sequence = torch.arange(counts.shape[0], dtype=torch.int32, device=counts.device)
    return Blocks(offsets, counts, sequence)


def plan_conv(neighbours: torch.Tensor) -> ConvPlan:
    """The plan of a neighbour map int32 [N, V]; keep it beside the map, its groupings are computed once."""
    return ConvPlan(neighbours)
