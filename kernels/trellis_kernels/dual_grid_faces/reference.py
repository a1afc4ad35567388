"""Quads of a dual grid by binary search, and how a quad becomes triangles."""

from __future__ import annotations

import torch

from trellis_kernels.voxel_index.reference import find_keys, pack_keys, pack_offset, sort_keys

# For each axis the four voxels around the crossed edge, the flag's own first; the normal is towards the negative axis.
QUAD_OFFSETS = (
    ((0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0)),
    ((0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)),
    ((0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 0)),
)


def quads(coords: torch.Tensor, crossed: torch.Tensor) -> torch.Tensor:
    """coords int32 [M, 3], crossed bool [M, 3] -> int32 [L, 4] rows of the corners; incomplete quads are left out."""
    located = torch.cat([torch.zeros_like(coords[:, :1]), coords], dim=1)
    keys, rows = sort_keys(located)
    voxels, axes = torch.nonzero(crossed, as_tuple=True)
    steps = torch.tensor([[pack_offset(o) for o in corners] for corners in QUAD_OFFSETS], device=coords.device)
    wanted = pack_keys(located)[voxels, None] + steps[axes]
    corners = find_keys(keys, rows, wanted)
    return corners[(corners >= 0).all(dim=1)].to(torch.int32)


def unit_normals(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Unit normals [L, 3] of triangles; zero where degenerate."""
    return torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a, dim=1), dim=1, eps=1e-30)


def takes_first_diagonal(
    corners: torch.Tensor, positions: torch.Tensor, split: torch.Tensor | None, diagonal: str
) -> torch.Tensor:
    """bool [L]: split the quad along its corners 0-2 (else along 1-3).

    "weights": the diagonal whose ends have the larger product of split weights; "dihedral": the one across which the
    two triangles bend less (0-2 if equal); "first": always 0-2.
    """
    wide = corners.to(torch.int64)
    if diagonal == "weights" and split is not None:
        weight = split[:, 0][wide]
        return weight[:, 0] * weight[:, 2] > weight[:, 1] * weight[:, 3]
    if diagonal == "dihedral":
        p = positions.to(torch.float64)[wide]
        along_02 = (unit_normals(p[:, 0], p[:, 1], p[:, 2]) * unit_normals(p[:, 0], p[:, 2], p[:, 3])).sum(dim=1)
        along_13 = (unit_normals(p[:, 0], p[:, 1], p[:, 3]) * unit_normals(p[:, 1], p[:, 2], p[:, 3])).sum(dim=1)
        return along_02 >= along_13
    return torch.ones(corners.shape[0], dtype=torch.bool, device=corners.device)


def triangles(corners: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """Quads int32 [L, 4] and their diagonals bool [L] -> int32 [2L, 3], two consecutive triangles a quad."""
    one = corners[:, [0, 1, 2, 0, 2, 3]]
    other = corners[:, [0, 1, 3, 3, 1, 2]]
    return torch.where(first[:, None], one, other).view(-1, 3)
