"""Softmax attention over packed batch items, and rotary positions of voxels."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn

from trellis_app.sparse.packing import Packing

_FLASH_DTYPES = (torch.float16, torch.bfloat16)
_ALONE = 2048  # rows from which an item of its own fills the GPU, where cuDNN's kernel beats the packed one
_CUDNN_FIRST = (9, 10)  # major compute capabilities
_FASTEST_FIRST = [
    SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH
]  # fmt: skip


def fastest_attention(rows: torch.Tensor) -> AbstractContextManager[Any]:
    """At inference on a Hopper or Blackwell GPU: attention inside prefers cuDNN's kernel, twice as fast there."""
    if not rows.is_cuda or torch.is_grad_enabled():
        return nullcontext()
    if torch.cuda.get_device_capability(rows.device)[0] not in _CUDNN_FIRST:
        return nullcontext()
    return sdpa_kernel(_FASTEST_FIRST, set_priority=True)


def rotary_phases(
    positions: torch.Tensor, head_dim: int, frequencies: tuple[float, float] = (1.0, 10000.0)
) -> torch.Tensor:
    """Angles that rotate channel pairs (RoFormer, one third of the pairs per axis).

    Args:
        positions: [N, 3] integer x, y, z.
        head_dim: channels of a head; pairs beyond 3 * (head_dim // 6) do not rotate.
        frequencies: (f0, f1): pair j of n turns by f0 / f1^(j / n) per voxel.

    Returns:
        float32 [N, head_dim / 2, 2], cosine and sine.
    """
    pairs = head_dim // 6
    exponent = torch.arange(pairs, dtype=torch.float32, device=positions.device) / pairs
    speed = frequencies[0] / frequencies[1] ** exponent
    angles = (positions.float()[:, :, None] * speed).flatten(1)
    angles = F.pad(angles, (0, head_dim // 2 - 3 * pairs))
    return torch.stack([angles.cos(), angles.sin()], dim=2)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, queries: Packing, keys: Packing) -> torch.Tensor:
    """Full attention inside each batch item, scale 1 / sqrt(D).

    Args:
        q: [Nq, H, D] packed as `queries`.
        k, v: [Nk, H, D] packed as `keys`, which has the same number of items.

    Returns:
        [Nq, H, D].
    """
    if len(queries.lengths) != len(keys.lengths):
        raise ValueError(f"queries have {len(queries.lengths)} batch items, keys have {len(keys.lengths)}")
    if queries.total == 0:
        return torch.zeros_like(q)
    if queries.uniform and keys.uniform:
        return _uniform(q, k, v, len(queries.lengths))
    if q.is_cuda and (torch.is_grad_enabled() or queries.longest < _ALONE):
        if q.dtype in _FLASH_DTYPES and torch.cuda.get_device_capability(q.device) >= (8, 0):
            return varlen_attn(q, k, v, queries.offsets, keys.offsets, queries.longest, keys.longest)  # type: ignore[return-value]
        return _padded(q, k, v, queries, keys)
    parts = zip(q.split(queries.lengths), k.split(keys.lengths), v.split(keys.lengths), strict=True)
    return torch.cat([_uniform(*part, 1) for part in parts])


def _uniform(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, items: int) -> torch.Tensor:
    """Items of equal lengths: plain batched attention."""
    split = [rows.unflatten(0, (items, len(rows) // items)).transpose(1, 2) for rows in (q, k, v)]
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(0, 1)


def _padded(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, queries: Packing, keys: Packing) -> torch.Tensor:
    """Items of different lengths where no packed kernel serves: pad to the longest and mask the keys."""

    def pad(rows: torch.Tensor, packing: Packing) -> torch.Tensor:
        items, longest = len(packing.lengths), packing.longest
        padded = rows.new_zeros(items * longest, *rows.shape[1:]).index_copy(0, packing.padded_slot, rows)
        return padded.unflatten(0, (items, longest)).transpose(1, 2)

    out = F.scaled_dot_product_attention(pad(q, queries), pad(k, keys), pad(v, keys), attn_mask=keys.key_mask)
    return out.transpose(1, 2).flatten(0, 1).index_select(0, queries.padded_slot)
