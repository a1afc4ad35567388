"""Arithmetic on single rows between the matrix products of a transformer or a U-net: norms, modulation, rotary turns.

These functions move much memory and compute little, so on a GPU each is one kernel (Triton) wherever no gradient is
asked for; the reference is differentiable and runs everywhere else. Rows are x [N, C]; values that rows share are
[n, C] where n divides N: each serves N / n consecutive rows (n = 1: all of them).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from trellis_kernels.choice import REFERENCE, TORCH, TRITON, choose
from trellis_kernels.row_ops import reference
from trellis_kernels.row_ops.reference import Affine, Fp8Rows, Modulation

if TYPE_CHECKING:
    from trellis_kernels.row_ops.triton import RowTask

Normed = torch.Tensor | Fp8Rows


def norm(
    x: torch.Tensor, weight: Affine, bias: Affine, eps: float, dtype: torch.dtype, *, implementation: str = "auto"
) -> torch.Tensor:
    """Layer norm of rows [N, C] in float32, returned in `dtype`; weight and bias [C], both or none."""
    if _chosen(implementation, x, weight) == REFERENCE:
        return reference.norm(x, weight, bias, eps, dtype)
    from trellis_kernels.row_ops import triton

    task = triton.RowTask(scale=weight, shift=bias, out_dtype=dtype, eps=eps)
    return triton.run_rows(x.contiguous(), task)[1]


def norm_silu(
    x: torch.Tensor, weight: Affine, bias: Affine, eps: float, *, implementation: str = "auto"
) -> torch.Tensor:
    """Layer norm in float32, cast back, then SiLU."""
    if _chosen(implementation, x, weight) == REFERENCE:
        return reference.norm_silu(x, weight, bias, eps)
    from trellis_kernels.row_ops import triton

    task = triton.RowTask(scale=weight, shift=bias, out_dtype=x.dtype, eps=eps, silu=True)
    return triton.run_rows(x.contiguous(), task)[1]


def modulated_norm(
    x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, eps: float,
    *, fp8: bool = False, implementation: str = "auto",
) -> Normed:  # fmt: skip
    """Layer norm without parameters, times scale, plus shift ([n, C] each), in the dtype of these or in float8."""
    if _chosen(implementation, x, scale, shift) == REFERENCE:
        return _rounded(reference.modulated_norm(x, scale, shift, eps), fp8)
    from trellis_kernels.row_ops import triton

    return _run(x, triton.RowTask(scale=scale, shift=shift, out_dtype=scale.dtype, eps=eps), fp8)[1]


def gated_sum(
    x: torch.Tensor, gate: torch.Tensor, update: torch.Tensor, *, implementation: str = "auto"
) -> torch.Tensor:
    """x + gate * update for gate [n, C], in the dtype of x."""
    if _chosen(implementation, x, gate, update) == REFERENCE:
        return reference.gated_sum(x, gate, update)
    from trellis_kernels.row_ops import triton

    return triton.run_rows(x.contiguous(), triton.RowTask(update=update, gate=gate))[0]


def gated_sum_norm(
    x: torch.Tensor, gate: torch.Tensor, update: torch.Tensor, weight: Affine, bias: Affine, eps: float,
    *, fp8: bool = False, implementation: str = "auto",
) -> tuple[torch.Tensor, Normed]:  # fmt: skip
    """`gated_sum`, and its layer norm in the dtype of the gate or in float8."""
    if _chosen(implementation, x, gate, update, weight) == REFERENCE:
        total, normed = reference.gated_sum_norm(x, gate, update, weight, bias, eps)
        return total, _rounded(normed, fp8)
    from trellis_kernels.row_ops import triton

    task = triton.RowTask(update=update, gate=gate, scale=weight, shift=bias, out_dtype=gate.dtype, eps=eps)
    return _run(x, task, fp8)


def gated_sum_modulated_norm(
    x: torch.Tensor, gate: torch.Tensor, update: torch.Tensor, modulation: Modulation, eps: float,
    offset: torch.Tensor | None = None, *, fp8: bool = False, implementation: str = "auto",
) -> tuple[torch.Tensor, Normed]:  # fmt: skip
    """x + gate * update + offset ([n, C], if there is one), and its `modulated_norm` by (scale, shift)."""
    scale, shift = modulation
    if _chosen(implementation, x, gate, update, scale, shift, offset) == REFERENCE:
        total, normed = reference.gated_sum_modulated_norm(x, gate, update, modulation, eps, offset)
        return total, _rounded(normed, fp8)
    from trellis_kernels.row_ops import triton

    task = triton.RowTask(update=update, gate=gate, offset=offset, scale=scale, shift=shift, eps=eps)
    return _run(x, replace(task, out_dtype=scale.dtype), fp8)


def sum_modulated_norm(
    x: torch.Tensor, update: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, eps: float,
    *, fp8: bool = False, implementation: str = "auto",
) -> tuple[torch.Tensor, Normed]:  # fmt: skip
    """x + update [n, C], and its `modulated_norm`."""
    if _chosen(implementation, x, update, scale, shift) == REFERENCE:
        total, normed = reference.sum_modulated_norm(x, update, scale, shift, eps)
        return total, _rounded(normed, fp8)
    from trellis_kernels.row_ops import triton

    return _run(x, triton.RowTask(update=update, scale=scale, shift=shift, out_dtype=scale.dtype, eps=eps), fp8)


def norm_heads(x: torch.Tensor, gamma: torch.Tensor, *, implementation: str = "auto") -> torch.Tensor:
    """Vectors [N, H, D] scaled to root mean square 1 in float32, times gamma [H, D]; cast back. Zero stays zero."""
    if _chosen_for_heads(implementation, x, gamma) == REFERENCE:
        return reference.norm_heads(x, gamma)
    from trellis_kernels.row_ops import triton

    return triton.norm_heads(x, gamma.contiguous(), None, reference.HEAD_EPS)


def norm_rotate(
    x: torch.Tensor, gamma: torch.Tensor, phases: torch.Tensor, *, implementation: str = "auto"
) -> torch.Tensor:
    """`norm_heads` of queries and keys [N, 2, H, D] with gamma [2, H, D], then adjacent channel pairs turned.

    phases: float32 [N, D / 2, 2], cosine and sine of each pair's angle.
    """
    if _chosen_for_heads(implementation, x, gamma) == REFERENCE:
        return reference.norm_rotate(x, gamma, phases)
    from trellis_kernels.row_ops import triton

    return triton.norm_heads(x, gamma.contiguous(), phases.contiguous(), reference.HEAD_EPS)


def linear_gelu(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, implementation: str = "auto"
) -> torch.Tensor:
    """GELU (tanh form) of x weight^T + bias: rows [N, Ci], weight [Co, Ci], bias [Co] -> [N, Co].

    On a GPU the matrix product itself applies the GELU as it stores its result.
    """
    plain = implementation == "auto" and (_differentiated(x, weight) or torch.is_autocast_enabled(x.device.type))
    if plain or choose(implementation, x.device, (REFERENCE, TRITON, TORCH)) == REFERENCE or not x.is_cuda:
        return reference.linear_gelu(x, weight, bias)
    return torch._addmm_activation(bias, x, weight.t(), use_gelu=True)


def add_parents(h: torch.Tensor, x: torch.Tensor, slots: torch.Tensor, *, implementation: str = "auto") -> torch.Tensor:
    """h [M, C] of children plus the share of their parents x [P, W]: W / 8 channels, each repeated 8 C / W times.

    slots: int64 [M] parent row * 8 + child number s, whose channels in x are s * W / 8 to (s + 1) * W / 8.
    """
    if _chosen(implementation, h, x) == REFERENCE:
        return reference.add_parents(h, x, slots)
    from trellis_kernels.row_ops import triton

    return triton.add_parents(h.contiguous(), x.contiguous(), slots)


def quantise_rows(x: torch.Tensor, *, implementation: str = "auto") -> Fp8Rows:
    """Rows [N, C] as float8 (e4m3), each with the factor that restores it."""
    if choose(implementation, x.device, (REFERENCE, TRITON)) == REFERENCE:
        return reference.quantise_rows(x)
    from trellis_kernels.row_ops import triton

    return Fp8Rows(*triton.quantise_rows(x.contiguous(), reference.FP8_MAX, gelu=False))


def quantise_gelu(x: torch.Tensor, *, implementation: str = "auto") -> Fp8Rows:
    """`quantise_rows` of the GELU (tanh form) of x [N, C]."""
    if choose(implementation, x.device, (REFERENCE, TRITON)) == REFERENCE:
        return reference.quantise_gelu(x)
    from trellis_kernels.row_ops import triton

    return Fp8Rows(*triton.quantise_rows(x.contiguous(), reference.FP8_MAX, gelu=True))


def _run(x: torch.Tensor, task: RowTask, fp8: bool) -> tuple[torch.Tensor, Normed]:
    """The sum and the normed rows of one launch."""
    from trellis_kernels.row_ops import triton

    if not fp8:
        return triton.run_rows(x.contiguous(), task)[:2]
    task = replace(task, out_dtype=torch.float8_e4m3fn, most=reference.FP8_MAX)
    total, values, factor = triton.run_rows(x.contiguous(), task)
    return total, Fp8Rows(values, factor)


def _rounded(normed: torch.Tensor, fp8: bool) -> Normed:
    return reference.quantise_rows(normed) if fp8 else normed


def _differentiated(*tensors: torch.Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _chosen(implementation: str, *tensors: torch.Tensor | None) -> str:
    """The reference where a gradient is asked for; `tensors` starts with x."""
    if implementation == "auto" and _differentiated(*tensors):
        return REFERENCE
    assert tensors[0] is not None
    return choose(implementation, tensors[0].device, (REFERENCE, TRITON))


def _chosen_for_heads(implementation: str, x: torch.Tensor, gamma: torch.Tensor) -> str:
    """Like `_chosen`; the kernel needs a power of two of channels and rows without gaps."""
    width = x.shape[-1]
    if implementation == "auto" and (width & (width - 1) or width < 16 or (len(x) and not x[0].is_contiguous())):
        return REFERENCE
    return _chosen(implementation, x, gamma)
