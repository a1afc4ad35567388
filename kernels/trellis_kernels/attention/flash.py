"""Packed attention by flash-attn 3, where that package (module flash_attn_interface) is installed."""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from trellis_kernels.choice import installed

if TYPE_CHECKING:
    from trellis_kernels.attention.op import Rows

DTYPES = (torch.float16, torch.bfloat16)
GENERATION = 9  # the major compute capability it is written for


@cache
def interface() -> Any:
    """The package's functions, or None where it is not installed or does not load beside this torch."""
    if not installed("flash_attn_interface"):
        return None
    try:
        return importlib.import_module("flash_attn_interface")
    except (ImportError, OSError):
        return None


def usable(q: torch.Tensor) -> bool:
    """Whether it can serve queries of this dtype on their device, without gradients."""
    if not q.is_cuda or q.dtype not in DTYPES or torch.is_grad_enabled():
        return False
    return torch.cuda.get_device_capability(q.device)[0] == GENERATION and interface() is not None


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, queries: Rows, keys: Rows) -> torch.Tensor:
    """Arguments as of `op.attend`; raises ValueError where `usable` says no."""
    if not usable(q):
        raise ValueError(f"flash-attn 3 serves half precision on Hopper GPUs without gradients, got {q.dtype}")
    items = len(queries.lengths)
    if queries.uniform and keys.uniform:
        split = [rows.unflatten(0, (items, len(rows) // items)) for rows in (q, k, v)]
        return _first(interface().flash_attn_func(*split)).flatten(0, 1)
    spans = queries.offsets, keys.offsets, queries.longest, keys.longest
    return _first(interface().flash_attn_varlen_func(q, k, v, *spans))


def _first(result: Any) -> torch.Tensor:
    """The output: earlier releases return the logarithm of the softmax's sums beside it."""
    return result[0] if isinstance(result, tuple) else result
