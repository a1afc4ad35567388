"""A closed surface at a small distance around any triangle soup: narrow-band dual contouring of the unsigned distance.

A closed input gives two nested shells, an open sheet one thin pillow (spec 5.7). Cells are refined from coarse to fine,
keeping those the offset surface may pass through.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from trellis_kernels.dual_grid_faces.op import dual_grid_quads

from trellis_app.mesh.bvh import Tree, build_tree, closest_points
from trellis_app.mesh.surface import Surface

_HALF_DIAGONAL = 0.87  # of a cell of side 1, a little over sqrt(3) / 2
_CORNERS = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
_EDGES = np.array([(i, i | 4 >> axis) for axis in range(3) for i in range(8) if not i & 4 >> axis])
_FAR_EDGES = np.array([(3, 7), (5, 7), (6, 7)])  # along x, y, z at the corner with the largest other coordinates


@dataclass(frozen=True)
class BandGrid:
    """The cubic grid of a narrow-band remesh."""

    resolution: int  # cells along a side; even
    size: float  # side of the cube in world units
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    band: float = 1.0  # distance of the new surface, in cells


def _distance(tree: Tree, points: np.ndarray) -> np.ndarray:
    nearest, _ = closest_points(tree, points)
    return np.linalg.norm(points - nearest, axis=1)


def _band_cells(tree: Tree, grid: BandGrid, offset: float) -> np.ndarray:
    """Cells int64 [N, 3] at full resolution whose centre is close enough to the offset surface."""
    side = grid.resolution
    while side > 32 and side % 2 == 0:
        side //= 2
    cells = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    while True:
        cell = grid.size / side
        centres = ((cells + 0.5) / side - 0.5) * grid.size + np.array(grid.centre)
        cells = cells[np.abs(_distance(tree, centres) - offset) < _HALF_DIAGONAL * cell]
        if side == grid.resolution:
            return cells
        cells = (2 * cells[:, None, :] + _CORNERS[:, ::-1]).reshape(-1, 3)
        side *= 2


def _corner_values(tree: Tree, grid: BandGrid, cells: np.ndarray, offset: float) -> np.ndarray:
    """Distance minus offset at the eight corners of every cell, float64 [N, 8]; each grid point is asked once."""
    corners = (cells[:, None, :] + _CORNERS).reshape(-1, 3)
    side = grid.resolution + 1
    key, inverse = np.unique((corners[:, 0] * side + corners[:, 1]) * side + corners[:, 2], return_inverse=True)
    lattice = np.stack([key // side**2, key // side % side, key % side], axis=1)
    points = (lattice / grid.resolution - 0.5) * grid.size + np.array(grid.centre)
    return (_distance(tree, points) - offset)[inverse].reshape(-1, 8)


def narrow_band(surface: Surface, grid: BandGrid, *, project_back: float = 0.0) -> Surface:
    """The surface at `grid.band` cells from the input, faces pointing out of the band.

    Vertices are the means of the crossings on their cell's edges and move `project_back` (0 to 1) of the way to the
    closest point of the input. Quads are always cut between corners 0 and 2.
    """
    tree = build_tree(surface)
    offset = grid.band * grid.size / grid.resolution
    cells = _band_cells(tree, grid, offset)
    values = _corner_values(tree, grid, cells, offset)
    a, b = values[:, _EDGES[:, 0]], values[:, _EDGES[:, 1]]
    crosses = (a < 0) != (b < 0)
    t = np.where(crosses, a / np.where(crosses, a - b, 1.0), 0.0)
    points = _CORNERS[_EDGES[:, 0]] + t[:, :, None] * (_CORNERS[_EDGES[:, 1]] - _CORNERS[_EDGES[:, 0]])
    count = crosses.sum(axis=1)
    local = (points * crosses[:, :, None]).sum(axis=1) / np.maximum(count, 1)[:, None]
    local[count == 0] = 0.5
    vertices = ((cells + local) / grid.resolution - 0.5) * grid.size + np.array(grid.centre)
    near, far = values[:, _FAR_EDGES[:, 0]] < 0, values[:, _FAR_EDGES[:, 1]] < 0
    quads = dual_grid_quads(torch.from_numpy(cells.astype(np.int32)), torch.from_numpy(near != far)).numpy()
    inward = _runs_inward(cells, near & ~far, quads)
    quads[inward] = quads[inward][:, [0, 3, 2, 1]]
    faces = quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    if project_back > 0:
        vertices += project_back * (closest_points(tree, vertices)[0] - vertices)
    return Surface(vertices.astype(np.float32), np.ascontiguousarray(faces)).compacted()


def _runs_inward(cells: np.ndarray, leaving: np.ndarray, quads: np.ndarray) -> np.ndarray:
    """Quads (wound towards the negative axis) whose edge leaves the band along the positive axis, bool [L]."""
    extent = cells[quads].max(axis=1) - cells[quads].min(axis=1)
    axis = np.argmin(extent, axis=1)  # the four cells around an edge do not differ along it
    return leaving[quads[:, 0], axis]
