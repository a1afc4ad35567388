"""Sampling of voxel attributes at points, with torch indexing; differentiable in the attributes."""

from __future__ import annotations

import itertools

import torch

from trellis_kernels.voxel_index.op import VoxelIndex

CORNERS = tuple(itertools.product((0, 1), repeat=3))


def locate(batch: torch.Tensor, cells: torch.Tensor, index: VoxelIndex, shape: tuple[int, int, int]) -> torch.Tensor:
    """batch int64 [Q], cells int64 [Q, 3] -> rows int64 [Q], -1 for absent voxels and outside the grid."""
    limit = torch.tensor(shape, device=cells.device)
    inside = ((cells >= 0) & (cells < limit)).all(dim=1)
    located = torch.cat([batch[:, None], torch.where(inside[:, None], cells, torch.zeros_like(cells))], dim=1)
    return torch.where(inside, index.lookup(located.to(torch.int32)), -1)


def trilinear_taps(
    query: torch.Tensor, batch: torch.Tensor, index: VoxelIndex, shape: tuple[int, int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """query fp32 [Q, 3] -> rows int64 [Q, 8] (-1 absent), weights fp32 [Q, 8] that sum to 1 over existing voxels."""
    base = torch.floor(query - 0.5)
    rows, weights = [], []
    for corner in CORNERS:
        cell = base + torch.tensor(corner, dtype=query.dtype, device=query.device)
        rows.append(locate(batch, cell.to(torch.int64), index, shape))
        weights.append((1 - (query - cell - 0.5).abs()).prod(dim=1))
    row, weight = torch.stack(rows, dim=1), torch.stack(weights, dim=1)
    weight = torch.where(row >= 0, weight, torch.zeros_like(weight))
    return row, weight / weight.sum(dim=1, keepdim=True).clamp_min(1e-12)


def nearest_taps(
    query: torch.Tensor, batch: torch.Tensor, index: VoxelIndex, shape: tuple[int, int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """query fp32 [Q, 3] -> rows int64 [Q, 1] of the voxels that hold the points, and their weights 1 or 0."""
    row = locate(batch, torch.floor(query).to(torch.int64), index, shape)[:, None]
    return row, (row >= 0).to(query.dtype)


def nearest_rows(query: torch.Tensor, batch: torch.Tensor, coords: torch.Tensor) -> torch.Tensor:
    """query fp32 [Q, 3] -> int64 [Q]: the voxel of the item with the nearest centre, lowest of equals, -1 if none."""
    out = torch.full((query.shape[0],), -1, dtype=torch.int64, device=query.device)
    centres = coords[:, 1:].to(query.dtype) + 0.5
    step = max(1, (1 << 24) // max(1, coords.shape[0]))
    for begin in range(0, query.shape[0], step):
        part = slice(begin, begin + step)
        squared = (query[part, None] - centres).square_().sum(dim=2)
        squared.masked_fill_(batch[part, None] != coords[:, 0], torch.inf)
        if coords.shape[0]:
            least, row = squared.min(dim=1)
            out[part] = torch.where(least.isfinite(), row, -1)
    return out


def blend(feats: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """feats [N, C], rows int64 [Q, T] (-1 = none), weights fp32 [Q, T] -> [Q, C] in the dtype of feats, fp32 sums."""
    if feats.shape[0] == 0:
        return feats.new_zeros((rows.shape[0], feats.shape[1]))
    exact = torch.promote_types(feats.dtype, torch.float32)
    out = torch.nn.functional.embedding_bag(
        rows.clamp_min(0), feats.to(exact), mode="sum", per_sample_weights=weights.to(exact)
    )
    return out.to(feats.dtype)
