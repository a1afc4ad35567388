"""How the rows of a neighbour map are grouped for the fast kernels; made once for a map, used by every layer on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch

from trellis_kernels.neighbour_map.op import OrderedMap, block_lists, blocks_by_offset, order_rows

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
    groupings: dict[int, Blocks] = field(default_factory=dict, repr=False)  # by rows a block
    child_rows: dict[int, tuple[torch.Tensor, ChildRows]] = field(default_factory=dict, repr=False)  # by rows a block

    def blocks(self, rows: int) -> Blocks:
        """The blocks of so many rows, a power of two up to ROW_PAD, part after part."""
        if rows not in self.groupings:
            self.groupings[rows] = Blocks(*block_lists(self.map.masks, rows))
        return self.groupings[rows]

    @cached_property
    def visits(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Blocks of VISIT_ROWS rows that have each kernel offset, and how many they are: see `blocks_by_offset`."""
        blocks = self.blocks(VISIT_ROWS)
        return blocks_by_offset(blocks.offsets, blocks.counts, self.map.order.shape[0], self.map.table.shape[0])


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

    def parts(self, count: int, block: int) -> Parts:
        """The rows in an order for each of `count` parts of the offsets; 1 where these cannot be parted equally.

        The first call with a count also groups them in blocks of so many rows, which costs nothing then.
        """
        count = count if self.neighbours.shape[1] % count == 0 else 1
        if count not in self.known:
            ordered = order_rows(self.neighbours, count, block)
            self.known[count] = Parts(ordered, {block: Blocks(ordered.offsets, ordered.counts)})
        return self.known[count]


def plan_conv(neighbours: torch.Tensor) -> ConvPlan:
    """The plan of a neighbour map int32 [N, V]; keep it beside the map, its groupings are computed once."""
    return ConvPlan(neighbours)
