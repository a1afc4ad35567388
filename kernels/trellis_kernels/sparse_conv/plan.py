"""How the rows of a neighbour map are grouped for the fast kernels; made once for a map, used by every layer on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch

from trellis_kernels.neighbour_map.op import block_lists, gray_rank, neighbour_mask, neighbour_table

ROW_PAD = 256  # the table is padded to whole blocks of up to this many rows
VISIT_ROWS = 64  # rows of a block where the weight gradient sums over blocks


@dataclass(frozen=True, eq=False)
class Blocks:
    """The kernel offsets that blocks of rows visit, and the order in which to start the blocks."""

    offsets: torch.Tensor  # int32 [blocks, 32] as `block_lists` makes them
    counts: torch.Tensor  # int32 [blocks] entries of each list
    sequence: torch.Tensor  # int32 [blocks] the blocks, those with most to do first


@dataclass(frozen=True, eq=False)
class ChildRows:
    """Children to compute, in blocks of one child number each; the blocks of a number may end with absent rows."""

    target: torch.Tensor  # int32 [L] row of the child, -1 = absent
    column: torch.Tensor  # int32 [L] column of its parent in the plan's table, 0 where absent
    slot: torch.Tensor  # int32 [blocks] child number 0..7
    blocks: Blocks


@dataclass(frozen=True, eq=False)
class ConvPlan:
    """A neighbour map and the groupings of its rows, each computed at its first use."""

    neighbours: torch.Tensor  # int32 [N, V], -1 = none, symmetric: row j at offset v of row i has i at offset V-1-v
    groupings: dict[int, Blocks] = field(default_factory=dict, repr=False)
    child_rows: dict[int, tuple[torch.Tensor, ChildRows]] = field(default_factory=dict, repr=False)

    @cached_property
    def mask(self) -> torch.Tensor:
        """int32 [N]: bit v is set where neighbour v exists; V <= 31."""
        return neighbour_mask(self.neighbours)

    @cached_property
    def order(self) -> torch.Tensor:
        """int32 [N]: rows sorted by the Gray code rank of their masks, so that like neighbourhoods are together."""
        return torch.sort(gray_rank(self.mask), stable=True).indices.to(torch.int32)

    @cached_property
    def local_order(self) -> torch.Tensor:
        """int32 [N]: on the CPU, rows sorted in the same way but only within short runs, near each other in memory."""
        from trellis_kernels.sparse_conv import cpu

        return torch.from_numpy(cpu.local_order(self.neighbours.contiguous().numpy()))

    @cached_property
    def table(self) -> torch.Tensor:
        """int32 [V, N padded to ROW_PAD]: the map in plan order, offsets outermost; -1 = none."""
        return neighbour_table(self.neighbours, self.order, -(-self.neighbours.shape[0] // ROW_PAD) * ROW_PAD)

    @cached_property
    def ordered_mask(self) -> torch.Tensor:
        """int32 [N]: the masks in plan order."""
        return self.mask.index_select(0, self.order)

    def blocks(self, rows: int) -> Blocks:
        """The blocks of so many rows, a power of two up to ROW_PAD, in plan order."""
        if rows not in self.groupings:
            self.groupings[rows] = sequenced(*block_lists(self.ordered_mask, rows))
        return self.groupings[rows]

    def children(self, slots: torch.Tensor, block: int) -> ChildRows:
        """Rows for children `slots` (int64 [M] parent * 8 + child): by number, then by their parents' plan order."""
        known = self.child_rows.get(block)
        if known is None or known[0] is not slots:
            known = self.child_rows[block] = slots, self._group_children(slots, block)
        return known[1]

    def _group_children(self, slots: torch.Tensor, block: int) -> ChildRows:
        """Nothing here waits for the device: absent children go to a place behind the last row."""
        parents, count, device = self.neighbours.shape[0], slots.shape[0], slots.device
        row = torch.full((8 * parents,), -1, dtype=torch.int32, device=device)
        row[slots] = torch.arange(count, dtype=torch.int32, device=device)
        by_number = row.view(parents, 8).index_select(0, self.order).T.contiguous()  # [8, parents]
        exists = by_number >= 0
        ends = exists.sum(dim=1).cumsum(0)
        sizes = (ends.diff(prepend=ends.new_zeros(1)) + block - 1) // block * block
        shift = (sizes.cumsum(0) - sizes) - (ends - ends.diff(prepend=ends.new_zeros(1)))
        blocks = -(-count // block) + 8
        place = (exists.flatten().cumsum(0) - 1).view(8, parents) + shift[:, None]
        place = torch.where(exists, place, blocks * block)
        target = torch.full((blocks * block + 1,), -1, dtype=torch.int32, device=device)
        columns, masks = torch.zeros_like(target), torch.zeros_like(target)
        target[place] = by_number
        columns[place] = torch.arange(parents, dtype=torch.int32, device=device).expand(8, -1)
        masks[place] = self.ordered_mask.expand(8, -1)
        first = torch.arange(blocks, device=device) * block
        slot = torch.searchsorted(sizes.cumsum(0), first, right=True).clamp_max(7).to(torch.int32)
        return ChildRows(target[:-1], columns[:-1], slot, sequenced(*block_lists(masks[:-1], block)))

    @cached_property
    def visits(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Blocks of VISIT_ROWS rows that have each kernel offset, int32 [V, blocks], and how many they are, int32 [V].

        Ascending; what follows the last of an offset's blocks are the others.
        """
        volume, blocks = self.neighbours.shape[1], self.blocks(VISIT_ROWS)
        entry = torch.arange(blocks.offsets.shape[1], device=self.neighbours.device)
        numbers = torch.where(entry < blocks.counts[:, None], blocks.offsets & 255, len(entry) - 1).long()
        used = torch.zeros(blocks.offsets.shape, dtype=torch.uint8, device=numbers.device).scatter_(1, numbers, 1)
        by_offset = used[:, :volume].T.contiguous()
        order = torch.sort(by_offset, dim=1, descending=True, stable=True).indices
        return order.to(torch.int32), by_offset.sum(dim=1, dtype=torch.int32)


def sequenced(offsets: torch.Tensor, counts: torch.Tensor) -> Blocks:
    """Blocks with their sequence: the last ones to start are short, so that they end together."""
    sequence = torch.argsort(counts, descending=True, stable=True).to(torch.int32)
    return Blocks(offsets, counts, sequence)


def plan_conv(neighbours: torch.Tensor) -> ConvPlan:
    """The plan of a neighbour map int32 [N, V]; keep it beside the map, its groupings are computed once."""
    return ConvPlan(neighbours)
