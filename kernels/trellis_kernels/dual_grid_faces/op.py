"""From the crossed edges of a dual grid to triangles between its vertices."""

from __future__ import annotations

import torch

from trellis_kernels.choice import CPU, REFERENCE, TRITON, choose
from trellis_kernels.dual_grid_faces import reference
from trellis_kernels.voxel_index.op import build_voxel_index
from trellis_kernels.voxel_index.reference import sort_keys

DIAGONALS = ("weights", "dihedral", "first")


def dual_grid_quads(coords: torch.Tensor, crossed: torch.Tensor, *, implementation: str = "auto") -> torch.Tensor:
    """coords int32 [M, 3], unique; crossed bool [M, 3] -> int32 [L, 4]: the four voxels around each crossed edge.

    Ordered by voxel, then axis. Quads with a missing voxel are left out; the winding is fixed for each axis.
    Raises ValueError on other shapes or dtypes.
    """
    if coords.ndim != 2 or coords.shape[1] != 3 or coords.dtype != torch.int32:
        raise ValueError(f"coords must be int32 [M, 3], got {coords.dtype} {list(coords.shape)}")
    if crossed.shape != coords.shape or crossed.dtype != torch.bool:
        raise ValueError(f"crossed must be bool {list(coords.shape)}, got {crossed.dtype} {list(crossed.shape)}")
    chosen = choose(implementation, coords.device, (REFERENCE, CPU, TRITON))
    if chosen == REFERENCE:
        return reference.quads(coords, crossed)
    located = torch.nn.functional.pad(coords, (1, 0))
    if chosen == CPU:
        from trellis_kernels.dual_grid_faces import cpu

        keys, rows = sort_keys(located)
        return torch.from_numpy(cpu.quads(keys.numpy(), rows.numpy(), crossed.contiguous().numpy()))
    from trellis_kernels.dual_grid_faces import triton

    index = build_voxel_index(located, implementation=TRITON)
    return triton.quads(coords, crossed, index.keys, index.rows)


def dual_grid_faces(
    coords: torch.Tensor,
    crossed: torch.Tensor,
    positions: torch.Tensor,
    *,
    split: torch.Tensor | None = None,
    diagonal: str = "weights",
    implementation: str = "auto",
) -> torch.Tensor:
    """Triangles int32 [F, 3] over the voxels' vertices, two consecutive ones a quad, in the order of `dual_grid_quads`.

    coords int32 [M, 3]; crossed bool [M, 3]; positions float [M, 3] of the vertices, all axes in one scale;
    split [M, 1] > 0.
    diagonal: "weights" cuts between the corners with the larger product of split weights (falls back to "dihedral"
    without split), "dihedral" where the two triangles bend less, "first" always between corners 0 and 2.
    Raises ValueError on other shapes, dtypes or diagonals.
    """
    if diagonal not in DIAGONALS:
        raise ValueError(f"diagonal must be one of {', '.join(DIAGONALS)}, got {diagonal!r}")
    if positions.shape != coords.shape:
        raise ValueError(f"positions must be {list(coords.shape)}, got {list(positions.shape)}")
    if split is not None and split.shape != (coords.shape[0], 1):
        raise ValueError(f"split must be [{coords.shape[0]}, 1], got {list(split.shape)}")
    rule = "dihedral" if diagonal == "weights" and split is None else diagonal
    corners = dual_grid_quads(coords, crossed, implementation=implementation)
    return reference.triangles(corners, reference.takes_first_diagonal(corners, positions, split, rule))


def split_quads(
    vertices: torch.Tensor, split: torch.Tensor, corners: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Training variant: a vertex in the middle of each quad and four triangles, differentiable in vertices and split.

    vertices [M, 3], split [M, 1] > 0, corners int32 [L, 4] -> vertices [M + L, 3], faces int32 [4L, 3].
    The middle is ((w0 w2)(v0 + v2) + (w1 w3)(v1 + v3)) / (2 (w0 w2 + w1 w3)).
    """
    wide = corners.to(torch.int64)
    v, w = vertices[wide], split[wide]
    one, other = w[:, 0] * w[:, 2], w[:, 1] * w[:, 3]
    middle = (one * (v[:, 0] + v[:, 2]) + other * (v[:, 1] + v[:, 3])) / (2 * (one + other))
    first = vertices.shape[0]
    number = torch.arange(first, first + corners.shape[0], dtype=torch.int32, device=corners.device)
    fans = [torch.stack([corners[:, a], corners[:, (a + 1) % 4], number], dim=1) for a in range(4)]
    return torch.cat([vertices, middle]), torch.stack(fans, dim=1).view(-1, 3)
