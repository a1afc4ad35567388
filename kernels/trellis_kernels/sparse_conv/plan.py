"""How the rows of a neighbour map are grouped for the fast kernels; made once for a map, used by every layer on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch

from trellis_kernels.neighbour_map.op import neighbour_mask, neighbour_table
from trellis_kernels.neighbour_map.reference import block_offsets, gray_to_binary, visited

ROW_PAD = 256  # the table is padded to whole blocks of up to this many rows


@dataclass(frozen=True, eq=False)
class ChildRows:
    """Children to compute, in blocks of one child number each; the blocks of a number may end with absent rows."""

    target: torch.Tensor  # int32 [L] row of the child, -1 = absent
    column: torch.Tensor  # int32 [L] column of its parent in the plan's table, 0 where absent
    slot: torch.Tensor  # int32 [blocks] child number 0..7
    offsets: torch.Tensor  # int32 [T] kernel offsets that the blocks visit
    starts: torch.Tensor  # int32 [blocks + 1] where each block's begin


@dataclass(frozen=True, eq=False)
class ConvPlan:
    """A neighbour map and the groupings of its rows, each computed at its first use."""

    neighbours: torch.Tensor  # int32 [N, V], -1 = none, symmetric: row j at offset v of row i has i at offset V-1-v
    lists: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict, repr=False)
    child_rows: dict[int, tuple[torch.Tensor, ChildRows]] = field(default_factory=dict, repr=False)

    @cached_property
    def mask(self) -> torch.Tensor:
        """int32 [N]: bit v is set where neighbour v exists; V <= 31."""
        return neighbour_mask(self.neighbours)

    @cached_property
    def order(self) -> torch.Tensor:
        """int32 [N]: rows sorted by the Gray code rank of their masks, so that like neighbourhoods are together."""
        return torch.sort(gray_to_binary(self.mask), stable=True).indices.to(torch.int32)

    @cached_property
    def local_order(self) -> torch.Tensor:
        """int32 [N]: on the CPU, rows sorted in the same way but only within short runs, near each other in memory."""
        from trellis_kernels.sparse_conv import cpu

        return torch.from_numpy(cpu.local_order(self.neighbours.contiguous().numpy()))

    @cached_property
    def table(self) -> torch.Tensor:
        """int32 [V, N padded to ROW_PAD]: the map in plan order, offsets outermost; -1 = none."""
        return neighbour_table(self.neighbours, self.order, -(-self.neighbours.shape[0] // ROW_PAD) * ROW_PAD)

    def offsets(self, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The kernel offsets that blocks of rows visit, int32 [T], and where each list begins, int32 [blocks + 1]."""
        if block not in self.lists:
            self.lists[block] = block_offsets(self.mask, self.order.to(torch.int64), block)
        return self.lists[block]

    def children(self, slots: torch.Tensor, block: int) -> ChildRows:
        """Rows for children `slots` (int64 [M] parent * 8 + child): by number, then by their parents' plan order."""
        known = self.child_rows.get(block)
        if known is None or known[0] is not slots:
            known = self.child_rows[block] = slots, self._group_children(slots, block)
        return known[1]

    def _group_children(self, slots: torch.Tensor, block: int) -> ChildRows:
        parents, count, device = self.neighbours.shape[0], slots.shape[0], slots.device
        row = torch.full((8 * parents,), -1, dtype=torch.int32, device=device)
        row[slots] = torch.arange(count, dtype=torch.int32, device=device)
        by_number = row.view(parents, 8)[self.order.to(torch.int64)].T.flatten()
        found = torch.nonzero(by_number >= 0)[:, 0]  # child number * parents + column, ascending
        number, column = found // parents, found % parents
        counts = torch.searchsorted(found, torch.arange(9, device=device) * parents).diff()
        sizes = (counts + block - 1) // block * block
        shift = (sizes.cumsum(0) - sizes) - (counts.cumsum(0) - counts)
        place = torch.arange(count, device=device) + shift[number]
        blocks = -(-count // block) + 8
        target = torch.full((blocks * block,), -1, dtype=torch.int32, device=device)
        columns, masks = torch.zeros_like(target), torch.zeros_like(target)
        target[place] = by_number[found]
        columns[place] = column.to(torch.int32)
        masks[place] = self.mask[self.order[column].to(torch.int64)]
        first = torch.arange(blocks, device=device) * block
        slot = torch.searchsorted(sizes.cumsum(0), first, right=True).clamp_max(7).to(torch.int32)
        return ChildRows(target, columns, slot, *visited(masks.view(blocks, block)))

    @cached_property
    def pairs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Source rows and target rows int32 [P] of all pairs by offset, and where each offset begins, int32 [V + 1]."""
        columns = self.neighbours.T.contiguous()
        exists = columns >= 0
        starts = torch.zeros(columns.shape[0] + 1, dtype=torch.int32, device=columns.device)
        starts[1:] = exists.sum(dim=1).cumsum(0)
        targets = exists.nonzero()[:, 1].to(torch.int32)
        return columns[exists], targets, starts


def plan_conv(neighbours: torch.Tensor) -> ConvPlan:
    """The plan of a neighbour map int32 [N, V]; keep it beside the map, its groupings are computed once."""
    return ConvPlan(neighbours)
