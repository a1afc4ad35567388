"""Values of a sparse voxel grid at points in space."""

from __future__ import annotations

import torch

from trellis_kernels.choice import CPU, REFERENCE, TRITON, choose
from trellis_kernels.grid_sample import reference
from trellis_kernels.voxel_index.op import VoxelIndex, build_voxel_index

MODES = ("trilinear", "nearest")


def grid_sample_3d(
    feats: torch.Tensor,
    coords: torch.Tensor,
    shape: tuple[int, int, int],
    query: torch.Tensor,
    *,
    batch: torch.Tensor | None = None,
    mode: str = "trilinear",
    fallback_to_nearest: bool = False,
    implementation: str = "auto",
) -> torch.Tensor:
    """feats [N, C] at coords int32 [N, 4] in a grid of `shape` voxels -> [Q, C] at query fp32 [Q, 3].

    Points are in voxel units, voxel centres at +0.5; `batch` int64 [Q] is the item each point looks into (default 0).
    "trilinear" blends the existing ones of the eight voxels around a point, weights renormalised; "nearest" takes the
    voxel that holds it. Where there is none the result is 0, or with `fallback_to_nearest` the voxel of the same item
    with the nearest centre. The result has the dtype of feats and is differentiable in them.
    Raises ValueError on other shapes, dtypes or modes.
    """
    check_query(feats, coords, query, mode)
    item = torch.zeros(query.shape[0], dtype=torch.int64, device=query.device) if batch is None else batch
    chosen = choose(implementation, feats.device, (REFERENCE, CPU, TRITON))
    index = build_voxel_index(coords, implementation=chosen)
    taps = reference.trilinear_taps if mode == "trilinear" else reference.nearest_taps
    tracked = torch.is_grad_enabled() and feats.requires_grad
    if chosen == CPU and mode == "trilinear" and feats.dtype == torch.float32 and not tracked:
        return sample_on_cpu(feats, coords, shape, query, item, index, fallback_to_nearest)
    if chosen == TRITON and mode == "trilinear":
        from trellis_kernels.grid_sample import triton

        rows, weights = triton.trilinear_taps(query, item, index.keys, index.rows, shape)
    else:
        rows, weights = taps(query, item, index, shape)
    if fallback_to_nearest:
        missed = torch.nonzero((rows < 0).all(dim=1))[:, 0]
        rows[missed, 0] = nearest(query[missed], item[missed], coords, index)
        weights[missed, 0] = (rows[missed, 0] >= 0).to(weights.dtype)
    return reference.blend(feats, rows, weights)


def sample_on_cpu(
    feats: torch.Tensor,
    coords: torch.Tensor,
    shape: tuple[int, int, int],
    query: torch.Tensor,
    item: torch.Tensor,
    index: VoxelIndex,
    fallback: bool,
) -> torch.Tensor:
    """The fused trilinear path: fp32, no gradients."""
    from trellis_kernels.grid_sample import cpu

    source = feats.detach().contiguous()
    out, missed = cpu.trilinear(
        source.numpy(), index.keys.numpy(), index.rows.numpy(), query.contiguous().numpy(), item.numpy(), shape
    )
    sampled = torch.from_numpy(out)
    if fallback and missed.any():
        holes = torch.from_numpy(missed).nonzero()[:, 0]
        rows = nearest(query[holes], item[holes], coords, index)
        sampled[holes] = torch.where(rows[:, None] >= 0, source[rows.clamp_min(0)], 0) if feats.shape[0] else 0
    return sampled


def nearest(query: torch.Tensor, item: torch.Tensor, coords: torch.Tensor, index: VoxelIndex) -> torch.Tensor:
    """Row int64 [Q] of the voxel with the nearest centre in the point's batch item, -1 if the item is empty."""
    if index.implementation != CPU:
        return reference.nearest_rows(query, item, coords, index)
    from trellis_kernels.grid_sample import cpu

    lows, highs = cpu.boxes(coords.numpy())
    found = cpu.nearest_rows(
        index.keys.numpy(), index.rows.numpy(), query.contiguous().numpy(), item.numpy(), lows, highs
    )
    return torch.from_numpy(found)


def check_query(feats: torch.Tensor, coords: torch.Tensor, query: torch.Tensor, mode: str) -> None:
    """Raises ValueError unless shapes, dtypes and the mode are as `grid_sample_3d` expects."""
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if feats.ndim != 2 or coords.shape[0] != feats.shape[0]:
        raise ValueError(f"expected feats [N, C] and coords [N, 4], got {list(feats.shape)} and {list(coords.shape)}")
    if query.ndim != 2 or query.shape[1] != 3 or query.dtype != torch.float32:
        raise ValueError(f"query must be float32 [Q, 3], got {query.dtype} {list(query.shape)}")
