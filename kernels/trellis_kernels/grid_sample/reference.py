"""Sampling of voxel attributes at points, with torch indexing; differentiable in the attributes."""

from __future__ import annotations

import itertools

import torch

from trellis_kernels.voxel_index.op import VoxelIndex

CORNERS = tuple(itertools.product((0, 1), repeat=3))
REACHES = (1, 4)  # cells around a point in which the nearest voxel is looked for, before all voxels are
CANDIDATES = 1 << 24  # distances held at once


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


def nearest_rows(query: torch.Tensor, batch: torch.Tensor, coords: torch.Tensor, index: VoxelIndex) -> torch.Tensor:
    """query fp32 [Q, 3] -> int64 [Q]: the voxel of the item with the nearest centre, lowest of equals, -1 if none.

    Looks into growing cubes of cells around the points first; a voxel outside a cube is at least reach + 0.5 away.
    """
    out = torch.full((query.shape[0],), -1, dtype=torch.int64, device=query.device)
    left = torch.arange(query.shape[0], device=query.device)
    for reach in REACHES:
        row, squared = nearest_in_cube(query[left], batch[left], coords, index, reach)
        sure = squared < (reach + 0.5) ** 2
        out[left[sure]] = row[sure]
        left = left[~sure]
    out[left] = nearest_of_all(query[left], batch[left], coords)
    return out


def nearest_in_cube(
    query: torch.Tensor, batch: torch.Tensor, coords: torch.Tensor, index: VoxelIndex, reach: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Row int64 [Q] of the nearest voxel among the (2*reach + 1)^3 cells around each point and its squared distance."""
    side = torch.arange(-reach, reach + 1, device=query.device)
    steps = torch.cartesian_prod(side, side, side)
    rows, distances = [query.new_zeros(0, dtype=torch.int64)], [query.new_zeros(0)]
    for part in torch.arange(query.shape[0], device=query.device).split(max(1, CANDIDATES // len(steps))):
        cell = torch.floor(query[part]).to(torch.int64)[:, None] + steps
        item = batch[part, None, None].expand(-1, len(steps), 1)
        row = index.lookup(torch.cat([item, cell], dim=2).view(-1, 4).to(torch.int32)).view(len(part), len(steps))
        squared = (cell + 0.5 - query[part, None]).square().sum(dim=2)
        least, row = lowest_nearest(squared.masked_fill(row < 0, torch.inf), row)
        rows.append(row)
        distances.append(least)
    return torch.cat(rows), torch.cat(distances)


def nearest_of_all(query: torch.Tensor, batch: torch.Tensor, coords: torch.Tensor) -> torch.Tensor:
    """The same among all voxels of the item: every distance, some points at a time."""
    rows = [query.new_zeros(0, dtype=torch.int64)]
    centres, every = coords[:, 1:] + 0.5, torch.arange(coords.shape[0], device=query.device)
    for part in torch.arange(query.shape[0], device=query.device).split(max(1, CANDIDATES // max(1, len(every)))):
        squared = (centres - query[part, None]).square().sum(dim=2)
        squared.masked_fill_(batch[part, None] != coords[:, 0], torch.inf)
        if len(every):
            least, row = lowest_nearest(squared, every.expand(len(part), -1))
            rows.append(torch.where(least.isfinite(), row, -1))
        else:
            rows.append(torch.full_like(part, -1))
    return torch.cat(rows)


def lowest_nearest(squared: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Least distance fp32 [Q] of [Q, K] and the lowest row int64 [Q] that has it."""
    least = squared.amin(dim=1)
    row = torch.where(squared == least[:, None], rows, torch.iinfo(torch.int64).max).amin(dim=1)
    return least, row


def blend(feats: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """feats [N, C], rows int64 [Q, T] (-1 = none), weights fp32 [Q, T] -> [Q, C] in the dtype of feats, fp32 sums."""
    if feats.shape[0] == 0:
        return feats.new_zeros((rows.shape[0], feats.shape[1]))
    exact = torch.promote_types(feats.dtype, torch.float32)
    out = torch.nn.functional.embedding_bag(
        rows.clamp_min(0), feats.to(exact), mode="sum", per_sample_weights=weights.to(exact)
    )
    return out.to(feats.dtype)
