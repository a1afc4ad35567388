"""Arithmetic on single rows, between the matrix products: norms, modulation, rotary positions.

These functions move much memory and compute little. As they stand, each step is a kernel of its own; `compiled_row_ops`
fuses each function into one or two kernels for training on a GPU. A model runs the plain ones unless `use_row_ops` is
called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import nn

Affine = torch.Tensor | None


def norm(x: torch.Tensor, weight: Affine, bias: Affine, eps: float, dtype: torch.dtype) -> torch.Tensor:
    """Layer norm of rows [N, C] in float32, returned in `dtype`."""
    return F.layer_norm(x.float(), x.shape[-1:], weight, bias, eps).to(dtype)


def norm_silu(x: torch.Tensor, weight: Affine, bias: Affine, eps: float) -> torch.Tensor:
    """Layer norm in float32, cast back, then SiLU."""
    return F.silu(F.layer_norm(x.float(), x.shape[-1:], weight, bias, eps).to(x.dtype))


def modulated_norm(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, eps: float) -> torch.Tensor:
    """Layer norm without parameters, times scale, plus shift ([N or 1, C] each), in the dtype of these."""
    normed = F.layer_norm(x.float(), x.shape[-1:], None, None, eps).to(x.dtype)
    return (normed * scale + shift).to(scale.dtype)


def gated_sum(x: torch.Tensor, gate: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
    """x + gate * update, in the dtype of x."""
    return x + gate * update


def norm_heads(x: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """Vectors [..., H, D] scaled to root mean square 1 in float32, times gamma [H, D]; cast back. Zero stays zero."""
    return (F.rms_norm(x.float(), x.shape[-1:], eps=1e-24) * gamma).to(x.dtype)


def norm_rotate(x: torch.Tensor, gamma: torch.Tensor, phases: torch.Tensor) -> torch.Tensor:
    """`norm_heads` of queries and keys [N, 2, H, D], then adjacent channel pairs turned by phases [N, D / 2, 2]."""
    normed = F.rms_norm(x.float(), x.shape[-1:], eps=1e-24) * gamma
    turned = torch.view_as_complex(normed.unflatten(-1, (-1, 2))) * torch.view_as_complex(phases)[:, None, None]
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def norm_rotate_real(x: torch.Tensor, gamma: torch.Tensor, phases: torch.Tensor) -> torch.Tensor:
    """`norm_rotate` without complex numbers, which the compiler cannot fuse."""
    normed = (F.rms_norm(x.float(), x.shape[-1:], eps=1e-24) * gamma).unflatten(-1, (-1, 2))
    cos, sin = phases[:, None, None, :, :1], phases[:, None, None, :, 1:]
    turned = normed * cos + normed.flip(-1) * torch.cat([-sin, sin], dim=-1)
    return turned.flatten(-2).to(x.dtype)


@dataclass(frozen=True)
class RowOps:
    """One implementation of the functions above."""

    norm: Callable[[torch.Tensor, Affine, Affine, float, torch.dtype], torch.Tensor] = norm
    norm_silu: Callable[[torch.Tensor, Affine, Affine, float], torch.Tensor] = norm_silu
    modulated_norm: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor] = modulated_norm
    gated_sum: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] = gated_sum
    norm_heads: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = norm_heads
    norm_rotate: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] = norm_rotate


PLAIN = RowOps()


def compiled_row_ops(backend: str = "inductor") -> RowOps:
    """The functions fused by torch.compile for any number of rows; compiling takes some seconds at first use."""
    plain = {field.name: getattr(PLAIN, field.name) for field in fields(RowOps)} | {"norm_rotate": norm_rotate_real}
    return RowOps(**{name: torch.compile(op, dynamic=True, backend=backend) for name, op in plain.items()})


def use_row_ops(model: nn.Module, ops: RowOps) -> None:
    """Make every layer of `model` that works on rows use these functions."""
    for module in model.modules():
        if hasattr(module, "row_ops"):
            module.row_ops = ops  # type: ignore[assignment]
