"""How rows of batch items of different lengths lie behind each other in one tensor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch


class _SpreadRows(torch.autograd.Function):
    """values[item]; the gradient is summed per item by one matrix product instead of colliding atomic additions."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(item)
        ctx.items = len(values)
        return values.index_select(0, item)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (item,) = ctx.saved_tensors
        member = torch.arange(ctx.items, device=item.device)[:, None] == item
        return member.to(grad.dtype) @ grad, None


@dataclass(frozen=True)
class Packing:
    """Lengths of the batch items as Python numbers, and the index tensors made from them, each built once.

    No property reads from the device, so using them never waits for it.
    """

    lengths: tuple[int, ...]
    device: torch.device

    @cached_property
    def total(self) -> int:
        return sum(self.lengths)

    @cached_property
    def longest(self) -> int:
        return max(self.lengths, default=0)

    @cached_property
    def uniform(self) -> bool:
        return len(set(self.lengths)) <= 1

    @cached_property
    def offsets(self) -> torch.Tensor:
        """int32 [B + 1] first row of each item, then the number of rows."""
        return torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32).to(self.device, non_blocking=True)

    @cached_property
    def item(self) -> torch.Tensor:
        """int64 [N] batch item of each row."""
        lengths = self.offsets.diff()
        items = torch.arange(len(self.lengths), device=self.device)
        return torch.repeat_interleave(items, lengths, output_size=self.total)

    @cached_property
    def padded_slot(self) -> torch.Tensor:
        """int64 [N] row of each row in the padded layout [B * longest]."""
        position = torch.arange(self.total, device=self.device) - self.offsets.long()[self.item]
        return self.item * self.longest + position

    @cached_property
    def key_mask(self) -> torch.Tensor:
        """bool [B, 1, 1, longest] True where the padded layout holds a row."""
        inside = torch.arange(self.longest, device=self.device) < self.offsets.diff()[:, None]
        return inside[:, None, None]

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """[B, K] values of the items -> [N, K] (or [1, K], which broadcasts, for a single item)."""
        if len(self.lengths) == 1:
            return values
        if self.uniform:
            return values[:, None].expand(-1, self.longest, -1).reshape(self.total, -1)
        return _SpreadRows.apply(values, self.item)

    def share(self, values: torch.Tensor) -> torch.Tensor:
        """[B, K] values of the items -> [n, K] that serve N / n rows each; items of equal length keep theirs."""
        return values if self.uniform and self.longest else self.spread(values)

    def mean(self, rows: torch.Tensor) -> torch.Tensor:
        """[N, K] -> [B, K] mean of each item's rows."""
        sums = rows.new_zeros(len(self.lengths), rows.shape[1]).index_add(0, self.item, rows)
        return sums / self.offsets.diff().to(rows.dtype)[:, None]
