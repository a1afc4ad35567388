"""How the rows of a neighbour map are grouped for the fast kernels; made once for a map, used by every layer on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch

from trellis_kernels.neighbour_map.op import OrderedMap, block_lists, neighbour_table, row_ranks

ROW_PAD = 256  # tables are padded to whole blocks of up to this many rows
VISIT_ROWS = 64  # rows of a block where the weight gradient sums over blocks


@dataclass(frozen=True, eq=False)
class Blocks:
    """The kernel offsets that blocks of rows visit."""

    offsets: torch.Tensor  # int32 [blocks, 32] as `block_lists` makes them
    counts: torch.Tensor  # int32 [blocks] entries of each list


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

    map: OrderedMap
    mask: torch.Tensor  # int32 [N]: bit v is set where neighbour v of a row exists
    groupings: dict[int, Blocks] = field(default_factory=dict, repr=False)
    child_rows: dict[int, tuple[torch.Tensor, ChildRows]] = field(default_factory=dict, repr=False)  # by rows a block

    def blocks(self, rows: int) -> Blocks:
        """The blocks of so many rows, a power of two up to ROW_PAD, part after part."""
        if rows not in self.groupings:
            self.groupings[rows] = Blocks(*block_lists(self.map.masks, rows))
        return self.groupings[rows]

    @cached_property
    def visits(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Blocks of VISIT_ROWS rows that have each kernel offset, int32 [V, blocks], and how many they are, int32 [V].

        Blocks are numbered in the order of the offset's part, ascending; what follows the last one are the others.
        """
        parts, volume, blocks = self.map.order.shape[0], self.map.table.shape[0], self.blocks(VISIT_ROWS)
        entry = torch.arange(blocks.offsets.shape[1], device=self.mask.device)
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
    def local_order(self) -> torch.Tensor:
        """int32 [N]: on the CPU, rows sorted in the same way but only within short runs, near each other in memory."""
        from trellis_kernels.sparse_conv import cpu

        return torch.from_numpy(cpu.local_order(self.neighbours.contiguous().numpy()))

    def parts(self, count: int) -> Parts:
        """The rows in an order for each of `count` parts of the offsets; 1 where these cannot be parted equally."""
        count = count if self.neighbours.shape[1] % count == 0 else 1
        if count not in self.known:
            mask, ranks = row_ranks(self.neighbours, count)
            order = torch.sort(ranks.flatten(), stable=True).indices.view(ranks.shape)  # the parts one after another
            columns = -(-len(mask) // ROW_PAD) * ROW_PAD
            self.known[count] = Parts(neighbour_table(self.neighbours, mask, order, columns), mask)
        return self.known[count]


def plan_conv(neighbours: torch.Tensor) -> ConvPlan:
    """The plan of a neighbour map int32 [N, V]; keep it beside the map, its groupings are computed once."""
    return ConvPlan(neighbours)
