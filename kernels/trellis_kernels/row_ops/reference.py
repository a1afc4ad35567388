"""Arithmetic on single rows, step by step in plain torch; differentiable, on any device.

Norms are computed in float32. A tensor of per-row values may have fewer rows than x: each then serves as many
consecutive rows of x as it takes (1 row serves all).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from trellis_kernels.sparse_conv.reference import pick_children

Affine = torch.Tensor | None
Modulation = tuple[torch.Tensor, torch.Tensor]  # scale and shift, [n, C] each
FP8_MAX = 448.0  # largest number of e4m3
HEAD_EPS = 1e-24  # added to the mean square: a zero vector stays zero


class Fp8Rows(NamedTuple):
    """Rows as 8-bit floats and what restores each of them: x = values * factor."""

    values: torch.Tensor  # float8 (e4m3) [N, C]
    factor: torch.Tensor  # float32 [N, 1]


def serve(values: torch.Tensor, count: int) -> torch.Tensor:
    """[n, C] values that serve `count` rows -> [count, C], or [1, C], which broadcasts."""
    if len(values) in (1, count):
        return values
    return values[:, None].expand(-1, count // len(values), -1).reshape(count, -1)


def norm(x: torch.Tensor, weight: Affine, bias: Affine, eps: float, dtype: torch.dtype) -> torch.Tensor:
    """Layer norm of rows [N, C] in float32, returned in `dtype`."""
    return F.layer_norm(x.float(), x.shape[-1:], weight, bias, eps).to(dtype)


def norm_silu(x: torch.Tensor, weight: Affine, bias: Affine, eps: float) -> torch.Tensor:
    """Layer norm in float32, cast back, then SiLU."""
    return F.silu(F.layer_norm(x.float(), x.shape[-1:], weight, bias, eps).to(x.dtype))


def modulated_norm(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, eps: float) -> torch.Tensor:
    """Layer norm without parameters, times scale, plus shift ([n, C] each), in the dtype of these."""
    normed = F.layer_norm(x.float(), x.shape[-1:], None, None, eps).to(x.dtype)
    return (normed * serve(scale, len(x)) + serve(shift, len(x))).to(scale.dtype)


def gated_sum(x: torch.Tensor, gate: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
    """x + gate * update for gate [n, C], in the dtype of x."""
    return x + serve(gate, len(x)) * update


def gated_sum_norm(
    x: torch.Tensor, gate: torch.Tensor, update: torch.Tensor, weight: Affine, bias: Affine, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`gated_sum`, and its layer norm in the dtype of the gate."""
    total = gated_sum(x, gate, update)
    return total, norm(total, weight, bias, eps, gate.dtype)


def gated_sum_modulated_norm(
    x: torch.Tensor, gate: torch.Tensor, update: torch.Tensor, modulation: Modulation, eps: float,
    offset: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """`gated_sum` plus the offset [n, C] if there is one, and its `modulated_norm` by (scale, shift)."""
    total = gated_sum(x, gate, update)
    total = total if offset is None else total + serve(offset, len(x))
    return total, modulated_norm(total, *modulation, eps)


def sum_modulated_norm(
    x: torch.Tensor, update: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x + update [n, C], and its `modulated_norm`."""
    total = x + serve(update, len(x))
    return total, modulated_norm(total, scale, shift, eps)


def norm_heads(x: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """Vectors [..., H, D] scaled to root mean square 1 in float32, times gamma [H, D]; cast back. Zero stays zero."""
    return (F.rms_norm(x.float(), x.shape[-1:], eps=HEAD_EPS) * gamma).to(x.dtype)


def norm_rotate(x: torch.Tensor, gamma: torch.Tensor, phases: torch.Tensor) -> torch.Tensor:
    """`norm_heads` of queries and keys [N, 2, H, D], then adjacent channel pairs turned by phases [N, D / 2, 2]."""
    normed = F.rms_norm(x.float(), x.shape[-1:], eps=HEAD_EPS) * gamma
    turned = torch.view_as_complex(normed.unflatten(-1, (-1, 2))) * torch.view_as_complex(phases)[:, None, None]
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def linear_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Linear layer, then GELU in its tanh approximation (Hendrycks and Gimpel 2016)."""
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


def quantise_rows(x: torch.Tensor) -> Fp8Rows:
    """Rows [N, C] as float8 (e4m3), the largest value of each as FP8_MAX."""
    factor = x.float().abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / FP8_MAX
    return Fp8Rows((x.float() / factor).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn), factor)


def quantise_gelu(x: torch.Tensor) -> Fp8Rows:
    """`quantise_rows` of the GELU (tanh form) of x [N, C]."""
    return quantise_rows(F.gelu(x.float(), approximate="tanh"))


def add_parents(h: torch.Tensor, x: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """h [M, C] plus the share of each row's parent in x [P, W]: its child's W / 8 channels, repeated to C columns."""
    skip = pick_children(x, slots)
    return h + skip.repeat_interleave(h.shape[1] // skip.shape[1], dim=1)
