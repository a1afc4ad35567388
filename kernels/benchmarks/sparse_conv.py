"""Submanifold convolutions at the five levels of a decoder that ends with so many voxels.

PYTHONPATH=kernels python kernels/benchmarks/sparse_conv.py [--device cpu|cuda] [--rows N]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import torch
from benchmarks.peers import flex_gemm_conv, with_gradients
from benchmarks.workload import Case, Peer, benchmark, voxel_shell
from trellis_kernels.choice import TORCH
from trellis_kernels.neighbour_map.op import neighbour_map
from trellis_kernels.sparse_conv.op import submanifold_conv3d
from trellis_kernels.sparse_conv.plan import ConvPlan, plan_conv

RELEASED = (1024, 512, 256, 128, 64)  # channels by level of the released decoders
SMALL = (256, 128, 64, 32, 16)  # where a CPU works
TRAINED = 700_000  # voxels of the finest level up to which gradients are timed too
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}


def cases(device: torch.device, rows: int) -> Iterator[Case]:
    """Coarsest level first, each with a quarter of the next one's voxels; fp16 on a GPU, fp32 on a CPU."""
    on_gpu = device.type == "cuda"
    for level, channels in enumerate(RELEASED if on_gpu else SMALL):
        coords = voxel_shell(max(8, rows // 4 ** (4 - level)), device)
        dtype = torch.float16 if on_gpu else torch.float32
        generator = torch.Generator(device).manual_seed(level)
        shapes = [(len(coords), channels), (channels, 3, 3, 3, channels), (channels,), (len(coords), channels)]
        tensors = [torch.randn(shape, device=device, generator=generator).to(dtype) for shape in shapes]
        yield from level_cases(coords, tensors, gradients=rows <= TRAINED)


def level_cases(coords: torch.Tensor, tensors: list[torch.Tensor], *, gradients: bool) -> Iterator[Case]:
    """Forward with the map and its plan ready, forward with both made, and forward with backward."""
    feats, weight, bias = tensors[:3]
    plan = plan_conv(neighbour_map(coords))
    size = f"{feats.shape[1]} channels, {len(coords):,} voxels"
    gflop = 2e-9 * int((plan.neighbours >= 0).sum()) * feats.shape[1] ** 2
    tolerance = TOLERANCE[feats.dtype]

    def exact() -> torch.Tensor:
        wide = (tensor.float() for tensor in (feats, weight, bias))
        return submanifold_conv3d(*wide, plan.neighbours, implementation=TORCH)

    def ours(neighbours: Callable[[], ConvPlan]) -> torch.Tensor:
        return submanifold_conv3d(feats, weight, bias, neighbours())

    ready = flex_gemm_conv(feats, coords, weight, bias, with_map=False)
    yield Case(f"forward, {size}", lambda: ours(lambda: plan), exact, tolerance, ready, gflop)
    fresh = flex_gemm_conv(feats, coords, weight, bias, with_map=True)
    yield Case(f"map and forward, {size}", lambda: ours(lambda: plan_conv(neighbour_map(coords))), None, 0, fresh)
    if gradients:
        yield training_case(coords, tensors, plan, 3 * gflop)


def training_case(coords: torch.Tensor, tensors: list[torch.Tensor], plan: ConvPlan, gflop: float) -> Case:
    """Forward, and the gradients to feats, weight and bias."""
    leaves, grad = [tensor.detach().requires_grad_() for tensor in tensors[:3]], tensors[3]
    wide = [leaf.detach().float().requires_grad_() for leaf in leaves]

    def ours() -> object:
        return with_gradients(lambda: submanifold_conv3d(*leaves, plan), leaves, grad)

    def exact() -> object:
        run = lambda: submanifold_conv3d(*wide, plan.neighbours, implementation=TORCH)  # noqa: E731
        return with_gradients(run, wide, grad.float())

    peer = flex_gemm_conv(leaves[0], coords, leaves[1], leaves[2], with_map=False)
    if peer is not None and (run := peer.run) is not None:
        peer = Peer(peer.package, lambda: with_gradients(run, leaves, grad))
    name = f"forward and backward, {leaves[0].shape[1]} channels, {len(coords):,} voxels"
    return Case(name, ours, exact, TOLERANCE[grad.dtype], peer, gflop)


if __name__ == "__main__":
    sys.exit(benchmark("sparse_conv", cases))
