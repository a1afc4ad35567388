"""Which implementation of the arithmetic on single rows (trellis_kernels/row_ops) a model's layers run.

By default the op's own doors choose: Triton on a GPU at inference, plain torch elsewhere. `compiled_row_ops` fuses the
plain functions for training on a GPU; `REFERENCE` is what the others are compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from trellis_kernels.row_ops import op, reference
from trellis_kernels.row_ops.op import Normed
from trellis_kernels.row_ops.reference import HEAD_EPS, Affine

Tensor = torch.Tensor


@dataclass(frozen=True)
class RowOps:
    """One implementation of the functions of trellis_kernels/row_ops."""

    norm: Callable[[Tensor, Affine, Affine, float, torch.dtype], Tensor] = op.norm
    norm_silu: Callable[[Tensor, Affine, Affine, float], Tensor] = op.norm_silu
    modulated_norm: Callable[[Tensor, Tensor, Tensor, float], Normed] = op.modulated_norm
    gated_sum: Callable[[Tensor, Tensor, Tensor], Tensor] = op.gated_sum
    gated_sum_norm: Callable[[Tensor, Tensor, Tensor, Affine, Affine, float], tuple[Tensor, Normed]] = op.gated_sum_norm
    gated_sum_modulated_norm: Callable[..., tuple[Tensor, Normed]] = op.gated_sum_modulated_norm
    sum_modulated_norm: Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Normed]] = op.sum_modulated_norm
    norm_heads: Callable[[Tensor, Tensor], Tensor] = op.norm_heads
    norm_rotate: Callable[[Tensor, Tensor, Tensor], Tensor] = op.norm_rotate
    linear_gelu: Callable[[Tensor, Tensor, Tensor], Tensor] = op.linear_gelu
    add_parents: Callable[[Tensor, Tensor, Tensor], Tensor] = op.add_parents


AUTOMATIC = RowOps()
FP8 = RowOps(  # normed rows as 8-bit floats, for linear layers that take them
    modulated_norm=partial(op.modulated_norm, fp8=True),
    gated_sum_norm=partial(op.gated_sum_norm, fp8=True),
    gated_sum_modulated_norm=partial(op.gated_sum_modulated_norm, fp8=True),
    sum_modulated_norm=partial(op.sum_modulated_norm, fp8=True),
)
REFERENCE = RowOps(**{field.name: getattr(reference, field.name) for field in fields(RowOps)})


def norm_rotate_real(x: Tensor, gamma: Tensor, phases: Tensor) -> Tensor:
    """`norm_rotate` without complex numbers, which the compiler cannot fuse."""
    normed = (F.rms_norm(x.float(), x.shape[-1:], eps=HEAD_EPS) * gamma).unflatten(-1, (-1, 2))
    cos, sin = phases[:, None, None, :, :1], phases[:, None, None, :, 1:]
    turned = normed * cos + normed.flip(-1) * torch.cat([-sin, sin], dim=-1)
    return turned.flatten(-2).to(x.dtype)


def compiled_row_ops(backend: str = "inductor") -> RowOps:
    """The functions fused by torch.compile for any number of rows; compiling takes some seconds at first use."""
    plain = {field.name: getattr(REFERENCE, field.name) for field in fields(RowOps)} | {"norm_rotate": norm_rotate_real}
    left = {"add_parents": plain.pop("add_parents")}  # gathers rows: nothing to fuse
    return RowOps(**{name: torch.compile(op, dynamic=True, backend=backend) for name, op in plain.items()}, **left)


def use_row_ops(model: nn.Module, ops: RowOps) -> None:
    """Make every layer of `model` that works on rows use these functions."""
    for module in model.modules():
        if hasattr(module, "row_ops"):
            module.row_ops = ops  # type: ignore[assignment]
