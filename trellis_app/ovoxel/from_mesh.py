"""Mesh -> dual grid: the geometry half of an O-Voxel asset."""

from __future__ import annotations

from trellis_kernels.mesh_to_dual_grid.op import GridBox, QefWeights
from trellis_kernels.mesh_to_dual_grid.op import mesh_to_dual_grid as voxelise

from trellis_app.progress import Check, go_on
from trellis_app.types import DualGrid, Mesh


def mesh_to_dual_grid(
    mesh: Mesh,
    resolution: int,
    *,
    face_weight: float = 1.0,
    boundary_weight: float = 0.2,
    regularization: float = 0.01,
    weld: bool = True,
    workers: int = 1,
    check: Check = go_on,
) -> DualGrid:
    """Dual grid of a mesh in the box [-0.5, 0.5]^3 with `resolution` voxels a side, rows in lexicographic order.

    The weights are those of the data the released models were trained on. Details that cross no grid edge are lost.
    weld: seams whose vertices coincide are no boundaries. check: called now and then; it raises to stop. Raises
    ValueError for a broken mesh.
    """
    weights = QefWeights(face_weight, boundary_weight, regularization)
    box = GridBox.cube(resolution)
    found = voxelise(mesh.vertices, mesh.faces, box, weights, weld=weld, workers=workers, check=check)
    return DualGrid(found.coords, found.dual, found.crossed, None, resolution)
