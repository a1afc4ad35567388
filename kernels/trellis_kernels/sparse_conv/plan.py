"""How the rows of a neighbour map are grouped for the fast kernels; made once for a map, used by every layer on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch

from trellis_kernels.neighbour_map.reference import block_offsets, gray_to_binary, neighbour_mask

ROW_PAD = 256  # the table is padded to whole blocks of up to this many rows


@dataclass(frozen=True, eq=False)
class ConvPlan:
    """A neighbour map and the groupings of its rows, each computed at its first use."""

    neighbours: torch.Tensor  # int32 [N, V], -1 = none, symmetric: row j at offset v of row i has i at offset V-1-v
    lists: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict, repr=False)

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
        count, volume = self.neighbours.shape
        padded = -(-count // ROW_PAD) * ROW_PAD
        table = torch.full((volume, padded), -1, dtype=torch.int32, device=self.neighbours.device)
        table[:, :count] = self.neighbours[self.order.to(torch.int64)].T
        return table

    def offsets(self, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The kernel offsets that blocks of rows visit, int32 [T], and where each list begins, int32 [blocks + 1]."""
        if block not in self.lists:
            self.lists[block] = block_offsets(self.mask, self.order.to(torch.int64), block)
        return self.lists[block]

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
