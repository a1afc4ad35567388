"""Packed attention by flash-attn 3, where that package (module flash_attn_interface) is installed."""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from trellis_kernels.choice import installed

if TYPE_CHECKING:
    from trellis_kernels.attention.op import Rows

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
    """Whether it can serve queries [N, H, D] like these, without gradients."""
    return q.is_cuda and not torch.is_grad_enabled() and _serves(q.dtype, q.shape[2], q.device)


@cache
def _serves(dtype: torch.dtype, width: int, device: torch.device) -> bool:
    """Whether the installed build has this dtype and width of heads: tried once, since builds differ in both."""
    if torch.cuda.get_device_capability(device)[0] != GENERATION or interface() is None:
        return False
    row = torch.zeros(1, 1, 1, width, dtype=dtype, device=device)
    try:
        interface().flash_attn_func(row, row, row)
    except RuntimeError:
        return False
    return True


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, queries: Rows, keys: Rows) -> torch.Tensor:
    """Arguments as of `op.attend`; raises ValueError where `usable` says no."""
    if not usable(q):
        raise ValueError(f"no flash-attn 3 is here for {q.dtype} with heads of {q.shape[2]} without gradients")
    items = len(queries.lengths)
    if queries.uniform and keys.uniform:
        split = [rows.unflatten(0, (items, len(rows) // items)) for rows in (q, k, v)]
        return _first(interface().flash_attn_func(*split)).flatten(0, 1)
    spans = queries.offsets, keys.offsets, queries.longest, keys.longest
    return _first(interface().flash_attn_varlen_func(q, k, v, *spans))


def _first(result: Any) -> torch.Tensor:
    """The output: earlier releases return the logarithm of the softmax's sums beside it."""
    return result[0] if isinstance(result, tuple) else result
