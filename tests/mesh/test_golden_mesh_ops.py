"""Parity with the golden vectors of the mesh operations (spec 5.4, 5.5, 5.7)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tests.mesh.original_collapse_round import candidates, cheapest, chosen, collapse_round
from trellis_app.mesh.remesh import BandGrid, narrow_band
from trellis_app.mesh.repair import fill_holes
from trellis_app.mesh.surface import Surface
from trellis_app.types import Mesh


@pytest.fixture(scope="module")
def ops(shared: Path) -> dict[str, np.ndarray]:
    return load_file(shared / "golden/geometry/mesh_ops_derived.safetensors")


@pytest.fixture(scope="module")
def bands(shared: Path) -> dict[str, np.ndarray]:
    return load_file(shared / "golden/geometry/remesh_narrow_band.safetensors")


def face_points(vertices: np.ndarray, faces: np.ndarray) -> set[tuple]:
    """Faces as sets of rounded corner positions: independent of numbering and winding."""
    rounded = np.round(np.asarray(vertices, dtype=np.float64), 5) + 0.0
    return {tuple(sorted(map(tuple, rounded[face]))) for face in faces}


def rotated(faces: np.ndarray) -> set[tuple]:
    """Faces with their winding, each started at its lowest vertex."""
    first = np.argmin(faces, axis=1)
    return set(map(tuple, np.take_along_axis(faces, (first[:, None] + np.arange(3)) % 3, axis=1).tolist()))


@pytest.mark.parametrize("limit", ["0.3", "0.7", "3.0"])
def test_fill_holes_closes_the_loops_below_the_limit(ops: dict[str, np.ndarray], limit: str) -> None:
    surface = Surface(ops["fill_holes.in_vertices"].astype(np.float32), ops["fill_holes.in_faces"])
    filled = fill_holes(surface, float(limit))
    vertices, faces = ops[f"fill_holes.lim{limit}.vertices"], ops[f"fill_holes.lim{limit}.faces"]
    assert filled.vertices.shape == vertices.shape
    assert face_points(filled.vertices, filled.faces) == face_points(vertices.astype(np.float32), faces)


@pytest.mark.parametrize("name", ["sphere", "hemisphere"])
def test_collapse_round(ops: dict[str, np.ndarray], name: str) -> None:
    golden = {key.split(".")[2]: value for key, value in ops.items() if key.startswith(f"simplify.{name}.")}
    mesh = Mesh(torch.from_numpy(golden["vertices"]).double(), torch.from_numpy(golden["faces"]))
    found = candidates(mesh)
    assert np.array_equal(found.edges.numpy(), golden["edges"])
    np.testing.assert_allclose(found.cost.numpy(), golden["cost"], atol=1e-9)
    np.testing.assert_allclose(found.terms.numpy(), golden["cost_quadric_length_skinny"], atol=1e-9)
    assert np.array_equal(cheapest(found, mesh).numpy(), golden["face_min_edge"])
    np.testing.assert_allclose(found.point.numpy(), golden["new_point"], atol=1e-9)
    threshold = float(golden["threshold"][0])
    assert np.array_equal(chosen(found, mesh, threshold).numpy(), golden["collapsed_edges"])
    after = collapse_round(mesh, threshold)
    np.testing.assert_allclose(after.vertices.numpy(), golden["out_vertices"], atol=1e-9)
    assert np.array_equal(after.faces.numpy(), golden["out_faces"])


BANDS = [f"{name}.32.band1.pb{back}" for name in ("icosphere", "hemisphere", "tee") for back in ("0.0", "0.9")]


@pytest.mark.parametrize("case", [*BANDS, "tee.64.band1.pb0.0"])
def test_narrow_band(shared: Path, bands: dict[str, np.ndarray], case: str) -> None:
    meshes = load_file(shared / "golden/geometry/mesh_to_dual_grid.safetensors")
    name, resolution = case.split(".")[0], int(case.split(".")[1])
    surface = Surface(meshes[f"{name}.vertices"], meshes[f"{name}.faces"])
    grid = BandGrid(resolution, (resolution + 3) / resolution)
    made = narrow_band(surface, grid, project_back=float(case.split("pb")[1]))
    vertices, faces = bands[f"{case}.vertices"], bands[f"{case}.faces"]
    assert made.vertices.shape == vertices.shape
    assert made.faces.shape == faces.shape
    gap, match = torch.cdist(
        torch.from_numpy(vertices), torch.from_numpy(made.vertices), compute_mode="donot_use_mm_for_euclid_dist"
    ).min(dim=1)
    assert gap.max() < 1e-4
    assert match.unique().numel() == len(vertices)
    assert rotated(match.numpy()[faces]) == rotated(made.faces)
