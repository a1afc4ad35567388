"""Sparse 3-D convolutions on rows of voxels."""

from __future__ import annotations

from typing import Any

import torch

from trellis_kernels.choice import CPU, REFERENCE, TORCH, TRITON, choose
from trellis_kernels.sparse_conv import gathered, reference
from trellis_kernels.sparse_conv.plan import ConvPlan, plan_conv

MASK_BITS = 31  # kernel offsets that fit a row's mask


def submanifold_conv3d(
    feats: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    neighbours: torch.Tensor | ConvPlan,
    *,
    implementation: str = "auto",
) -> torch.Tensor:
    """Convolution whose output sites are its input sites: bias + sum over v of weight[:, v] feats[neighbours[:, v]].

    feats [N, Ci], weight [Co, K, K, K, Ci], bias [Co] or None, neighbours int32 [N, K^3] as `neighbour_map` makes it
    (unique voxels, odd K) or the plan of it, which saves regrouping the rows at each call. Returns [N, Co].
    Some rows of the map, int32 [M, K^3] still naming rows of feats, give the output of these rows alone.
    Differentiable in feats, weight and bias for all rows; fp32, fp16, bf16 with fp32 sums; under autocast the three
    are cast first.
    Raises ValueError on shapes, dtypes or devices that do not fit.
    """
    device = feats.device.type
    if torch.is_autocast_enabled(device) and feats.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        feats, weight, bias = feats.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    table = neighbours.neighbours if isinstance(neighbours, ConvPlan) else neighbours
    check_conv(feats, weight, bias, table)
    chosen = choose(implementation, feats.device, (REFERENCE, TORCH, CPU, TRITON))
    if chosen == REFERENCE:
        return reference.gathered_conv(feats, weight, bias, table)
    if chosen == TRITON and (table.shape[1] > MASK_BITS or feats.dtype == torch.float64):
        chosen = TORCH
    plan = neighbours if isinstance(neighbours, ConvPlan) else plan_conv(neighbours)
    if chosen == TRITON and not differentiated(feats, weight, bias):
        from trellis_kernels.sparse_conv import triton

        return triton.forward(feats.contiguous(), weight.flatten(1, 3).contiguous(), bias, plan)
    with torch.autocast(device, enabled=False):
        return SubmanifoldConv.apply(feats, weight, bias, plan, chosen)


def children_conv3d(
    feats: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    neighbours: torch.Tensor | ConvPlan,
    slots: torch.Tensor,
    *,
    implementation: str = "auto",
) -> torch.Tensor:
    """`submanifold_conv3d` to 8 c channels, of which each existing child takes its c: feats [P, Ci] -> [M, c].

    weight [8 c, K, K, K, Ci], bias [8 c]; slots int64 [M]: parent row * 8 + child number s, whose channels are
    s * c to (s + 1) * c. On a GPU without gradients only the children that exist are computed.
    """
    device, plan = feats.device.type, neighbours if isinstance(neighbours, ConvPlan) else plan_conv(neighbours)
    chosen = choose(implementation, feats.device, (REFERENCE, TORCH, CPU, TRITON))
    small = plan.neighbours.shape[1] <= MASK_BITS and feats.dtype != torch.float64
    if chosen == TRITON and small and not differentiated(feats, weight, bias) and not torch.is_autocast_enabled(device):
        from trellis_kernels.sparse_conv import triton

        check_conv(feats, weight, bias, plan.neighbours)
        return triton.children_forward(feats.contiguous(), weight.flatten(1, 3).contiguous(), bias, plan, slots)
    wide = submanifold_conv3d(feats, weight, bias, plan, implementation=implementation)
    return reference.pick_children(wide, slots)


def differentiated(*tensors: torch.Tensor | None) -> bool:
    """Whether a gradient to any of them may be asked for."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


class SubmanifoldConv(torch.autograd.Function):
    """The convolution and its gradients; the gradient to feats is the convolution with mirrored, transposed weights."""

    @staticmethod
    def forward(
        ctx: Any,
        feats: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        plan: ConvPlan,
        implementation: str,
    ) -> torch.Tensor:
        ctx.save_for_backward(feats, weight)
        ctx.plan, ctx.implementation, ctx.biased = plan, implementation, bias is not None
        if implementation == TRITON:
            from trellis_kernels.sparse_conv import triton

            return triton.forward(feats.contiguous(), weight.flatten(1, 3).contiguous(), bias, plan)
        matrices = weight.flatten(1, 3).permute(1, 2, 0).contiguous()  # [V, Ci, Co]
        return convolve(feats.contiguous(), matrices, bias, plan, implementation)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        feats, weight = ctx.saved_tensors
        grad = grad.contiguous()
        to_feats = to_weight = to_bias = None
        with torch.autocast(feats.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                to_feats = feats_gradient(grad, weight.flatten(1, 3), ctx.plan, ctx.implementation)
            if ctx.needs_input_grad[1]:
                summed = weight_gradient(feats.contiguous(), grad, ctx.plan, ctx.implementation)
                to_weight = summed.view(weight.shape)
            if ctx.biased and ctx.needs_input_grad[2]:
                to_bias = grad.sum(dim=0, dtype=torch.promote_types(grad.dtype, torch.float32)).to(grad.dtype)
        return to_feats, to_weight, to_bias, None, None


def convolve(
    feats: torch.Tensor, matrices: torch.Tensor, bias: torch.Tensor | None, plan: ConvPlan, implementation: str
) -> torch.Tensor:
    """feats [N, Ci], matrices [V, Ci, Co] -> [N, Co] by the CPU's kernel or plain torch."""
    if implementation == CPU and feats.dtype == torch.float32:
        from trellis_kernels.sparse_conv import cpu

        return cpu.forward(feats, matrices, bias, plan)
    return gathered.forward(feats, matrices, bias, plan.neighbours)


def feats_gradient(grad: torch.Tensor, weight: torch.Tensor, plan: ConvPlan, implementation: str) -> torch.Tensor:
    """grad [N, Co], weight [Co, V, Ci] -> [N, Ci] by the chosen implementation."""
    if implementation == TRITON:
        from trellis_kernels.sparse_conv import triton

        return triton.forward(grad, weight.contiguous(), None, plan, mirrored=True)
    return convolve(grad, weight.flip(1).transpose(0, 1).contiguous(), None, plan, implementation)


def weight_gradient(feats: torch.Tensor, grad: torch.Tensor, plan: ConvPlan, implementation: str) -> torch.Tensor:
    """feats [N, Ci], grad [N, Co] -> [Co, V, Ci] in the dtype of feats, by the chosen implementation."""
    if implementation == TRITON:
        from trellis_kernels.sparse_conv import triton

        return triton.weight_gradient(feats, grad, plan)
    return gathered.weight_gradient(feats, grad, plan.neighbours).permute(2, 0, 1).to(feats.dtype).contiguous()


def sparse_conv3d(
    feats: torch.Tensor,
    coords: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    stride: int,
    padding: int,
    shape: tuple[int, int, int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Strided convolution: feats [N, Ci] at coords int32 [N, 4] -> feats [M, Co] at new coords int32 [M, 4], sorted.

    weight [Co, K, K, K, Ci]; `shape` is the extent of the grid along x, y, z (by default the largest coordinates + 1).
    An output site o exists where any input lies at o*stride + k - padding. Differentiable in feats, weight and bias.
    """
    if shape is None:
        sides = (coords[:, 1:].amax(dim=0) + 1).tolist() if coords.shape[0] else [1, 1, 1]
        shape = (sides[0], sides[1], sides[2])
    kernel_size = weight.shape[1]
    sites = reference.strided_sites(coords, shape, kernel_size, stride, padding)
    neighbours = reference.strided_map(coords, sites, kernel_size, stride, padding)
    check_conv(feats, weight, bias, neighbours)
    return reference.gathered_conv(feats, weight, bias, neighbours), sites


def check_conv(feats: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, neighbours: torch.Tensor) -> None:
    """Raises ValueError unless shapes, dtypes and devices fit together."""
    if feats.ndim != 2 or weight.ndim != 5 or weight.shape[4] != feats.shape[1]:
        raise ValueError(
            f"expected feats [N, Ci] and weight [Co, K, K, K, Ci], got {list(feats.shape)} and {list(weight.shape)}"
        )
    volume = weight.shape[1] * weight.shape[2] * weight.shape[3]
    if neighbours.ndim != 2 or neighbours.shape[1] != volume or neighbours.dtype != torch.int32:
        raise ValueError(f"expected neighbours int32 [N, {volume}], got {neighbours.dtype} {list(neighbours.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"expected bias [{weight.shape[0]}], got {list(bias.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias), ("neighbours", neighbours)):
        if tensor is not None and tensor.device != feats.device:
            raise ValueError(f"{name} is on {tensor.device} but feats on {feats.device}")
        if tensor is not None and name != "neighbours" and tensor.dtype != feats.dtype:
            raise ValueError(f"{name} is {tensor.dtype} but feats {feats.dtype}: cast one, or use autocast")
