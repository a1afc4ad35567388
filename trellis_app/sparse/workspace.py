"""How much memory temporary results may take: long work on rows is done part by part, with the same result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Workspace:
    """Memory for what one layer needs besides its input and its output."""

    size: int = 2 << 30  # bytes; more makes the released decoders no faster

    def rows(self, row_bytes: int) -> int:
        """How many rows fit, at least one."""
        return max(1, self.size // row_bytes)

    def parts(self, count: int, row_bytes: int) -> list[slice]:
        """All of `count` rows in stretches that fit."""
        step = self.rows(row_bytes)
        return [slice(begin, min(begin + step, count)) for begin in range(0, count, step)]

    def overwritten(self, rows: torch.Tensor, work: Callable[[torch.Tensor, slice], torch.Tensor]) -> torch.Tensor:
        """All new rows, which `work(stretch, where)` gives for a stretch of `rows` [N, C] from that stretch alone.

        They take the place of the old ones where they do not fit beside them and no gradient is asked for.
        """
        parts = self.parts(len(rows), rows.shape[1] * rows.element_size())
        if len(parts) <= 1 or torch.is_grad_enabled():
            return work(rows, slice(0, len(rows)))
        for part in parts:
            rows[part] = work(rows[part], part)
        return rows


AMPLE = Workspace()
