"""Faces of a dual grid against the golden vectors and a dict."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trellis_kernels.dual_grid_faces.op import dual_grid_faces, dual_grid_quads, split_quads

from tests.kernels.test_voxel_index import IMPLEMENTATIONS

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CASES = [
    f"{mesh}.{side}"
    for mesh in ("crossplanes", "cube", "hemisphere", "icosphere", "tee", "thin", "torus", "touching")
    for side in (16, 32)
]


def golden_case(shared: Path, name: str) -> dict[str, torch.Tensor]:
    """Tensors of one case with the prefix taken off; coords and flags may come from the file of the other direction."""
    folder = shared / "golden/geometry"
    values = load_file(folder / "mesh_to_dual_grid.safetensors") | load_file(folder / "dual_grid_to_mesh.safetensors")
    case = {key[len(name) + 1 :]: value for key, value in values.items() if key.startswith(name + ".")}
    case["coords"] = case["coords"].to(torch.int32)
    flags = case["flags"]
    case["crossed"] = (
        flags.bool() if flags.ndim == 2 else ((flags[:, None] >> torch.arange(3, dtype=torch.uint8)) & 1).bool()
    )
    return case


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "name", [*CASES[::3], "random.10"] if INTERPRETED else [*CASES, "icosphere.64", "torus.64", "random.10"]
)
def test_golden(shared: Path, implementation: str, name: str) -> None:
    case = golden_case(shared, name)
    grid = (case["coords"], case["crossed"], case["local"])
    split = case["split_weight"]
    assert torch.equal(dual_grid_faces(*grid, split=split, implementation=implementation), case["faces_weight"])
    assert torch.equal(dual_grid_faces(*grid, diagonal="first", implementation=implementation), case["faces_none"])
    corners = dual_grid_quads(*grid[:2], implementation=implementation)
    vertices, faces = split_quads(case["vertices"], split, corners)
    assert torch.equal(faces, case["train_faces"])
    torch.testing.assert_close(vertices[len(case["vertices"]) :], case["train_mid"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_empty(implementation: str) -> None:
    none = torch.zeros(0, 3)
    faces = dual_grid_faces(none.int(), none.bool(), none, split=torch.zeros(0, 1), implementation=implementation)
    assert faces.shape == (0, 3)
    alone = dual_grid_faces(
        torch.ones(1, 3).int(), torch.ones(1, 3).bool(), torch.rand(1, 3), implementation=implementation
    )
    assert alone.shape == (0, 3)


def test_dihedral_cuts_where_the_quad_bends_less() -> None:
    """One lifted corner of a square: the fold that cuts it off bends less than the one through it."""
    coords = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 0]], dtype=torch.int32)
    crossed = torch.zeros(4, 3, dtype=torch.bool)
    crossed[0, 0] = True
    for lifted, expected in ((1, [[0, 1, 2], [0, 2, 3]]), (0, [[0, 1, 3], [3, 1, 2]])):
        positions = coords.float() + 0.5
        positions[lifted, 0] += 0.3
        assert dual_grid_faces(coords, crossed, positions, diagonal="dihedral").tolist() == expected


def test_middles_are_differentiable(shared: Path) -> None:
    case = golden_case(shared, "random.10")
    leaves = [case["vertices"].requires_grad_(), case["split_weight"].requires_grad_()]
    vertices, _ = split_quads(*leaves, dual_grid_quads(case["coords"], case["crossed"]))
    assert all(grad.abs().sum() > 0 for grad in torch.autograd.grad(vertices.square().sum(), leaves))


def test_says_what_it_expects() -> None:
    coords, crossed = torch.zeros(2, 3, dtype=torch.int32), torch.zeros(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="diagonal must be"):
        dual_grid_faces(coords, crossed, torch.rand(2, 3), diagonal="both")
    with pytest.raises(ValueError, match="crossed must be"):
        dual_grid_quads(coords, crossed.int())
