"""Softmax attention over packed batch items: each query of an item looks at all keys of that item, at no other.

Every implementation is exact; which one runs is a matter of speed alone (kernels/benchmarks/attention.py measures it):
"torch" is scaled_dot_product_attention as torch chooses, "cudnn" the same with cuDNN's kernel before all others,
"flash3" the package flash-attn 3 (Shah et al. 2024) where it is installed.
"""

from __future__ import annotations

from typing import Protocol

import torch

from trellis_kernels.attention import flash, reference, sdpa
from trellis_kernels.choice import REFERENCE, TORCH

CUDNN, FLASH3 = "cudnn", "flash3"
OFFERED = (REFERENCE, TORCH, CUDNN, FLASH3)
CUDNN_FIRST = (9, 10)  # major compute capabilities where cuDNN's kernel is the faster one of torch's
FLASH3_FROM, FLASH3_WIDTH = 2048, 128  # rows of an item and width of heads where flash-attn 3 was measured to be faster


class Rows(Protocol):
    """How the rows of batch items lie behind each other, as `trellis_app.sparse.packing.Packing` tells it."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Rows of each item."""

    @property
    def total(self) -> int:
        """Rows of all items."""

    @property
    def longest(self) -> int:
        """Rows of the longest item."""

    @property
    def uniform(self) -> bool:
        """Whether all items have as many rows."""

    @property
    def offsets(self) -> torch.Tensor:
        """int32 [B + 1] first row of each item, then the number of rows."""

    @property
    def padded_slot(self) -> torch.Tensor:
        """int64 [N] place of each row where every item is as long as the longest."""

    @property
    def key_mask(self) -> torch.Tensor:
        """bool [B, 1, 1, longest] which of those places hold a row."""


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, queries: Rows, keys: Rows, *, implementation: str = "auto"
) -> torch.Tensor:
    """Full attention inside each batch item, scale 1 / sqrt(D).

    Args:
        q: [Nq, H, D] packed as `queries`.
        k, v: [Nk, H, D] packed as `keys`, which has the same number of items.

    Returns:
        [Nq, H, D].

    Raises:
        ValueError: the numbers of items differ, or no such implementation is offered.
    """
    if len(queries.lengths) != len(keys.lengths):
        raise ValueError(f"queries have {len(queries.lengths)} batch items, keys have {len(keys.lengths)}")
    chosen = _fastest(q, queries) if implementation == "auto" else implementation
    if chosen not in OFFERED:
        raise ValueError(f"implementation must be auto or one of {', '.join(OFFERED)}, got {chosen!r}")
    if queries.total == 0:
        return torch.zeros_like(q)
    if chosen == REFERENCE:
        return reference.attend(q, k, v, queries.lengths, keys.lengths)
    if chosen == FLASH3:
        return flash.attend(q, k, v, queries, keys)
    return sdpa.attend(q, k, v, queries, keys, cudnn_first=chosen == CUDNN)


def _fastest(q: torch.Tensor, queries: Rows) -> str:
    """What was measured to be the fastest for such queries on their device."""
    if not q.is_cuda or torch.is_grad_enabled():
        return TORCH
    if queries.longest >= FLASH3_FROM and q.shape[2] == FLASH3_WIDTH and flash.usable(q):
        return FLASH3
    return CUDNN if torch.cuda.get_device_capability(q.device)[0] in CUDNN_FIRST else TORCH
