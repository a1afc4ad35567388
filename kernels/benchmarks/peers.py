"""Other packages that do what some of our ops do, called through their public functions where they are installed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from benchmarks.workload import Peer
from trellis_kernels.attention import flash
from trellis_kernels.attention.op import Rows
from trellis_kernels.choice import installed

FLEX_GEMM = "flex_gemm"
FLASH_ATTENTION = "flash_attn_interface"


def flex_gemm_conv(
    feats: torch.Tensor, coords: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, with_map: bool
) -> Peer | None:
    """The submanifold convolution of FlexGEMM (the original's), its neighbour map built by each call or ready.

    None on a CPU, for which the package has nothing; likewise below.
    """
    if not feats.is_cuda:
        return None
    if not installed(FLEX_GEMM):
        return Peer(FLEX_GEMM, None)
    from flex_gemm.ops.spconv import Algorithm, set_algorithm, sparse_submanifold_conv3d

    set_algorithm(Algorithm.MASKED_IMPLICIT_GEMM_SPLITK)  # the one its documentation shows
    side = int(coords[:, 1:].max()) + 1
    shape = torch.Size([1, feats.shape[1], side, side, side])
    ready: list[object] = [None]

    def run() -> torch.Tensor:
        out, cache = sparse_submanifold_conv3d(feats, coords, shape, weight, bias, None if with_map else ready[0])
        ready[0] = cache
        return out

    return Peer(FLEX_GEMM, run)


def flex_gemm_sample(feats: torch.Tensor, coords: torch.Tensor, side: int, query: torch.Tensor) -> Peer | None:
    """FlexGEMM's trilinear sampling of a grid of side^3 voxels at points in voxel units."""
    if not feats.is_cuda:
        return None
    if not installed(FLEX_GEMM):
        return Peer(FLEX_GEMM, None)
    from flex_gemm.ops.grid_sample import grid_sample_3d

    shape = torch.Size([1, feats.shape[1], side, side, side])
    return Peer(FLEX_GEMM, lambda: grid_sample_3d(feats, coords, shape, query[None], mode="trilinear")[0])


def with_gradients(run: Callable[[], torch.Tensor], leaves: list[torch.Tensor], grad: torch.Tensor) -> object:
    """The result of `run` and its gradients to the leaves."""
    out = run()
    return (out.detach(), *torch.autograd.grad(out, leaves, grad))


def flash_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, queries: Rows, keys: Rows) -> Peer | None:
    """flash-attn 3, whether or not the op takes it."""
    if not q.is_cuda:
        return None
    with torch.inference_mode():
        if not flash.usable(q):
            return Peer(FLASH_ATTENTION, None)
    return Peer(FLASH_ATTENTION, partial(torch.inference_mode()(flash.attend), q, k, v, queries, keys))
