"""How the rows of a neighbour map are grouped for the GPU kernels; made once for a map, used by every layer on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from trellis_kernels.neighbour_map.reference import gray_to_binary, neighbour_mask

ROW_BLOCK = 128  # rows that share one list of kernel offsets


@dataclass(frozen=True)
class ConvPlan:
    """A neighbour map and, computed at first use, the groupings of its rows."""

    neighbours: torch.Tensor  # int32 [N, V], -1 = none, symmetric: row j at offset v of row i has i at offset V-1-v

    @cached_property
    def order(self) -> torch.Tensor:
        """int32 [N]: rows sorted so that neighbouring rows have like neighbourhoods (Gray code order of their masks)."""
        mask = neighbour_mask(self.neighbours)
        return torch.sort(gray_to_binary(mask), stable=True).indices.to(torch.int32)


def plan_conv(neighbours: torch.Tensor) -> ConvPlan:
    """The plan of a neighbour map int32 [N, V]; keep it beside the map, its groupings are computed once."""
    return ConvPlan(neighbours)
