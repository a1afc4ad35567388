"""Mesh to dual grid: what the product's entry adds to the op."""

import torch
from trellis_kernels.mesh_to_dual_grid.op import GridBox, QefWeights
from trellis_kernels.mesh_to_dual_grid.op import mesh_to_dual_grid as voxelise

from trellis_app.ovoxel.from_mesh import mesh_to_dual_grid
from trellis_app.types import Mesh


def test_weights_and_box_reach_the_op() -> None:
    generator = torch.Generator().manual_seed(5)
    mesh = Mesh(torch.rand(30, 3, generator=generator) - 0.5, torch.arange(30).reshape(10, 3).int())
    grid = mesh_to_dual_grid(mesh, 20, face_weight=2.0, boundary_weight=0.3, regularization=0.05, weld=False)
    expected = voxelise(mesh.vertices, mesh.faces, GridBox.cube(20), QefWeights(2.0, 0.3, 0.05), weld=False)
    assert torch.equal(grid.coords, expected.coords)
    assert torch.equal(grid.dual, expected.dual)
    assert torch.equal(grid.crossed, expected.crossed)
    assert (grid.resolution, grid.split) == (20, None)
    plain = mesh_to_dual_grid(mesh, 20)
    assert torch.equal(plain.coords, grid.coords)
    assert not torch.equal(plain.dual, grid.dual)
