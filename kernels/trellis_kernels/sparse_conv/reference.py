"""Sparse convolutions one kernel offset at a time, differentiable by torch."""

from __future__ import annotations

from typing import Any

import torch

from trellis_kernels.neighbour_map.reference import kernel_offsets
from trellis_kernels.voxel_index.reference import find_keys, pack_keys, sort_keys


def gathered_conv(
    feats: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, neighbours: torch.Tensor
) -> torch.Tensor:
    """bias + sum over offsets v of weight[:, v] feats[neighbours[:, v]]; missing neighbours count as zero.

    feats [N, Ci], weight [Co, K, K, K, Ci], bias [Co], neighbours int32 [M, K^3] -> [M, Co] in the dtype of feats.
    Sums are fp32 (fp64 for fp64).
    """
    exact = torch.promote_types(feats.dtype, torch.float32)
    matrices = weight.to(exact).flatten(1, 3)
    source = feats.to(exact)
    out = source.new_zeros((neighbours.shape[0], weight.shape[0]))
    for v in range(neighbours.shape[1]):
        rows = torch.nonzero(neighbours[:, v] >= 0)[:, 0]
        picked = source.index_select(0, neighbours[rows, v].to(torch.int64))
        out = out.index_add(0, rows, picked @ matrices[:, v].T)
    if bias is not None:
        out = out + bias.to(exact)
    return out.to(feats.dtype)


class _Pick(torch.autograd.Function):
    """rows[slots] for slots without repetition: the gradient is a plain copy instead of atomic additions."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(slots)
        ctx.count = len(rows)
        return rows.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (slots,) = ctx.saved_tensors
        return grad.new_zeros(ctx.count, grad.shape[1]).index_copy_(0, slots, grad), None


def pick_children(feats: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """[P, 8 c] on parents -> [M, c] on children `slots` (int64 parent * 8 + child, none twice)."""
    return _Pick.apply(feats.reshape(len(feats) * 8, feats.shape[1] // 8), slots)


def strided_sites(
    coords: torch.Tensor, shape: tuple[int, int, int], kernel_size: int, stride: int, padding: int
) -> torch.Tensor:
    """Output sites int32 [M, 4]: all o with o*stride = in + padding - k for some k, in range, unique, sorted."""
    last = torch.tensor(
        [(side + 2 * padding - (kernel_size - 1) - 1) // stride for side in shape], device=coords.device
    )
    centre = kernel_size // 2
    sites = []
    for offset in kernel_offsets(kernel_size, 1):
        step = torch.tensor([centre + part - padding for part in offset], device=coords.device)
        scaled = coords[:, 1:].to(torch.int64) - step
        site = torch.div(scaled, stride, rounding_mode="floor")
        hit = ((site * stride == scaled) & (site >= 0) & (site <= last)).all(dim=1)
        sites.append(torch.cat([coords[hit, :1].to(torch.int64), site[hit]], dim=1))
    return torch.unique(torch.cat(sites), dim=0).to(torch.int32)


def strided_map(coords: torch.Tensor, sites: torch.Tensor, kernel_size: int, stride: int, padding: int) -> torch.Tensor:
    """int32 [M, K^3]: the input row at o*stride + k - padding for each output site o, -1 for none."""
    keys, rows = sort_keys(coords)
    centre = kernel_size // 2
    columns = []
    for offset in kernel_offsets(kernel_size, 1):
        step = torch.tensor([0, *(centre + part - padding for part in offset)], device=coords.device)
        scale = torch.tensor([1, stride, stride, stride], device=coords.device)
        columns.append(find_keys(keys, rows, pack_keys(sites * scale + step)))
    return torch.stack(columns, dim=1).to(torch.int32)
