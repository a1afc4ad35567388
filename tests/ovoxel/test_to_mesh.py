"""Dual grid to mesh against the golden vectors, and there and back."""

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from safetensors.numpy import load_file
from trellis_kernels.mesh_to_dual_grid.op import GridBox

from trellis_app.ovoxel.from_mesh import mesh_to_dual_grid
from trellis_app.ovoxel.to_mesh import dual_grid_to_mesh
from trellis_app.types import DualGrid, Mesh


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    folder = shared / "golden/geometry"
    return {
        **load_file(folder / "mesh_to_dual_grid.safetensors"),
        **load_file(folder / "dual_grid_to_mesh.safetensors"),
    }


def grid_of(golden: dict[str, np.ndarray], case: str, resolution: int) -> DualGrid:
    flags = torch.from_numpy(golden[f"{case}.flags"])
    crossed = torch.stack([flags >> axis & 1 for axis in range(3)], 1) if flags.ndim == 1 else flags
    split = golden.get(f"{case}.split_weight")
    return DualGrid(
        torch.from_numpy(golden[f"{case}.coords"].astype(np.int32)),
        torch.from_numpy(golden[f"{case}.local"]),
        crossed.bool(),
        None if split is None else torch.from_numpy(split),
        resolution,
    )


def test_golden(golden: dict[str, np.ndarray]) -> None:
    cases = [key.removesuffix(".faces_weight") for key in golden if key.endswith(".faces_weight")]
    assert len(cases) >= 19
    for case in cases:
        grid = grid_of(golden, case, int(case.split(".")[1]))
        for diagonal, expected in (("weights", "faces_weight"), ("first", "faces_none")):
            mesh = dual_grid_to_mesh(grid, diagonal=diagonal)
            assert np.array_equal(mesh.faces.numpy(), golden[f"{case}.{expected}"])
            np.testing.assert_allclose(mesh.vertices.numpy(), golden[f"{case}.vertices"], rtol=0, atol=1e-6)


def test_golden_uneven_grid(golden: dict[str, np.ndarray]) -> None:
    box = GridBox((-0.5, -0.4, -0.3), (0.5, 0.4, 0.3), (40, 28, 20))
    mesh = dual_grid_to_mesh(grid_of(golden, "aniso", 40), diagonal="first", box=box)
    faces, vertices = mesh.faces.numpy(), mesh.vertices.numpy()
    differ = (faces != golden["aniso.faces_none"]).any(1)
    area = np.linalg.norm(np.cross(*(vertices[faces[:, k]] - vertices[faces[:, 0]] for k in (1, 2))), axis=1)
    assert differ.sum() <= 4
    assert (area[::2][differ[::2]] == 0).all()  # the original turns quads whose first triangle has no area
    np.testing.assert_allclose(vertices, golden["aniso.vertices"], rtol=0, atol=1e-6)


def test_there_and_back_stays_on_the_surface() -> None:
    ball = trimesh.creation.icosphere(4, 0.4)
    mesh = Mesh(torch.from_numpy(ball.vertices.astype(np.float32)), torch.from_numpy(ball.faces.astype(np.int32)))
    back = dual_grid_to_mesh(mesh_to_dual_grid(mesh, 48))
    result = trimesh.Trimesh(back.vertices.numpy(), back.faces.numpy())
    assert result.is_watertight
    assert np.abs(np.linalg.norm(result.vertices, axis=1) - 0.4).max() < 0.1 / 48
