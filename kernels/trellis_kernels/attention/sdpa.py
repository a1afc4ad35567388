"""Packed attention by the kernels that come with torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

if TYPE_CHECKING:
    from trellis_kernels.attention.op import Rows

PACKED_DTYPES = (torch.float16, torch.bfloat16)
PACKED_FROM = (8, 0)  # compute capability of the packed kernel
ALONE = 2048  # rows from which an item of its own fills the GPU, where cuDNN's kernel beats the packed one
CUDNN_FIRST = [
    SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH
]  # fmt: skip


@cache
def packed_kernel() -> Callable[..., torch.Tensor] | None:
    """torch's kernel for packed items; None before torch 2.10. Found at first use: it imports torch's compiler."""
    try:
        return importlib.import_module("torch.nn.attention.varlen").varlen_attn
    except ImportError:
        return None


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, queries: Rows, keys: Rows, *, cudnn_first: bool
) -> torch.Tensor:
    """Arguments as of `op.attend`."""
    with sdpa_kernel(CUDNN_FIRST, set_priority=True) if cudnn_first else nullcontext():
        if queries.uniform and keys.uniform:
            return uniform(q, k, v, len(queries.lengths))
        if q.is_cuda and (torch.is_grad_enabled() or queries.longest < ALONE):
            packed = packed_kernel() if packable(q) else None
            if packed is not None:
                return packed(q, k, v, queries.offsets, keys.offsets, queries.longest, keys.longest)
            return padded(q, k, v, queries, keys)
        parts = zip(q.split(queries.lengths), k.split(keys.lengths), v.split(keys.lengths), strict=True)
        return torch.cat([uniform(*part, 1) for part in parts])


def packable(q: torch.Tensor) -> bool:
    """Whether the packed kernel has queries like these."""
    return q.dtype in PACKED_DTYPES and torch.cuda.get_device_capability(q.device) >= PACKED_FROM


def uniform(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, items: int) -> torch.Tensor:
    """Items of equal lengths: plain batched attention."""
    split = [rows.unflatten(0, (items, len(rows) // items)).transpose(1, 2) for rows in (q, k, v)]
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(0, 1)


def padded(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, queries: Rows, keys: Rows) -> torch.Tensor:
    """Items of different lengths where no packed kernel serves: pad to the longest and mask the keys."""

    def pad(rows: torch.Tensor, packing: Rows) -> torch.Tensor:
        items, longest = len(packing.lengths), packing.longest
        padded = rows.new_zeros(items * longest, *rows.shape[1:]).index_copy(0, packing.padded_slot, rows)
        return padded.unflatten(0, (items, longest)).transpose(1, 2)

    out = F.scaled_dot_product_attention(pad(q, queries), pad(k, keys), pad(v, keys), attn_mask=keys.key_mask)
    return out.transpose(1, 2).flatten(0, 1).index_select(0, queries.padded_slot)
