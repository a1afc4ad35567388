"""Dual grid -> mesh: one vertex a voxel, one quad a crossed edge."""

from __future__ import annotations

import torch
from trellis_kernels.dual_grid_faces.op import dual_grid_faces
from trellis_kernels.mesh_to_dual_grid.op import GridBox

from trellis_app.types import DualGrid, Mesh


def dual_grid_to_mesh(grid: DualGrid, *, diagonal: str = "weights", box: GridBox | None = None) -> Mesh:
    """The surface of a dual grid; vertex i belongs to voxel i, also where no face uses it.

    Quads that miss one of their four voxels are left out. The winding is fixed for each axis and says nothing about
    inside and outside. diagonal: "weights" (smaller dihedral angle where the grid has no split weights), "dihedral", or
    "first", which is what the original does without weights. box: the grid's place; by default [-0.5, 0.5]^3.
    Differentiable in the dual vertices.
    """
    place = box or GridBox.cube(grid.resolution)
    step = torch.from_numpy(place.step).to(grid.dual.device)
    low = torch.tensor(place.low, dtype=torch.float32, device=grid.dual.device)
    vertices = (grid.coords + grid.dual.float()) * step + low
    faces = dual_grid_faces(grid.coords, grid.crossed, vertices.detach(), split=grid.split, diagonal=diagonal)
    return Mesh(vertices, faces)
