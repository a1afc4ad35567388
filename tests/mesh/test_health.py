"""The health report against meshes whose state is known."""

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh

from tests.voxel_shapes import ball, surface_of
from trellis_app.__main__ import main
from trellis_app.mesh.health import TextureSpace, report
from trellis_app.mesh.intersections import self_intersections
from trellis_app.mesh.texel_use import texel_use


def joined(*parts: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    surface = surface_of(trimesh.util.concatenate(list(parts)))
    return surface.vertices, surface.faces


def test_a_closed_ball_is_in_good_health() -> None:
    found = report(*joined(ball()), deep=True)
    assert (found.faces, found.vertices, found.parts) == (5120, 2562, 1)
    assert found.watertight
    assert (found.boundary_loops, found.non_manifold_edges, found.non_manifold_vertices) == (0, 0, 0)
    assert (found.flipped_share, found.self_intersections, found.inner_shells) == (0.0, 0, 0)
    assert found.verdict() == ("good", "Watertight, 1 part")
    assert found.sentences() == ("The mesh is watertight and ready for 3D printing.",)


def test_an_inside_out_ball_is_flipped() -> None:
    vertices, faces = joined(ball())
    found = report(vertices, faces[:, ::-1], deep=True)
    assert found.flipped_share == 1.0
    assert found.verdict()[0] == "poor"


def test_an_open_bowl_has_one_rim_and_nothing_flipped() -> None:
    bowl = ball()
    bowl.update_faces(bowl.triangles_center[:, 2] < 0)
    found = report(*joined(bowl), deep=True)
    assert (found.watertight, found.boundary_loops, found.inner_shells) == (False, 1, 0)
    assert found.boundary_edges > 10


def test_shells_inside_are_found() -> None:
    found = report(*joined(ball(0.4), ball(0.3), ball(0.2)), deep=True)
    assert (found.parts, found.inner_shells, found.self_intersections) == (3, 2, 0)


def test_balls_that_cross_are_found() -> None:
    apart = report(*joined(ball(0.1), ball(0.1).apply_translation((0.25, 0, 0))), deep=True)
    across = report(*joined(ball(0.1), ball(0.1).apply_translation((0.15, 0.01, 0.02))), deep=True)
    assert apart.self_intersections == 0
    assert 50 < (across.self_intersections or 0) < 2000


@pytest.mark.parametrize("seed", range(4))
def test_crossing_pairs_match_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.random((40, 1, 3)) + 0.4 * rng.random((40, 3, 3))
    surface = surface_of(trimesh.Trimesh(corners.reshape(-1, 3), np.arange(120).reshape(-1, 3), process=False))
    points = surface.vertices[surface.faces].astype(np.float64)

    def pierces(p: np.ndarray, q: np.ndarray, t: np.ndarray) -> bool:
        try:
            weights = np.linalg.solve(np.stack([t[1] - t[0], t[2] - t[0], p - q], axis=1), p - t[0])
        except np.linalg.LinAlgError:
            return False
        return bool(weights[0] > 0 and weights[1] > 0 and weights[0] + weights[1] < 1 and 0 < weights[2] < 1)

    expected = sum(
        any(pierces(a[k], a[(k + 1) % 3], b) or pierces(b[k], b[(k + 1) % 3], a) for k in range(3))
        for i, a in enumerate(points)
        for b in points[i + 1 :]
    )
    assert self_intersections(surface) == expected > 0


def test_touching_is_not_crossing() -> None:
    low, high = trimesh.creation.box(), trimesh.creation.box().apply_translation((0, 0, 1.0))
    assert self_intersections(surface_of(trimesh.util.concatenate([low, high]))) == 0
    assert self_intersections(surface_of(trimesh.util.concatenate([low, low.copy().apply_translation((0.5,) * 3)]))) > 0


def test_fans_that_share_a_vertex_and_crowded_edges_are_counted() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0], [0, 0, 1]], np.float32)
    touching = report(vertices, np.array([[0, 1, 2], [0, 3, 4]], np.int32))
    assert (touching.non_manifold_vertices, touching.non_manifold_edges, touching.boundary_loops) == (1, 0, 1)
    crowded = report(vertices, np.array([[0, 1, 2], [1, 0, 4], [0, 1, 5]], np.int32))
    assert (crowded.non_manifold_vertices, crowded.non_manifold_edges) == (0, 1)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_texels_are_counted_once_for_a_cut_square(size: int) -> None:
    uvs = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    square = np.array([[0, 1, 2], [0, 2, 3]])
    use = texel_use(uvs, square, size)
    assert (use.covered, use.shared, use.texels) == (size**2, 0, size**2)
    assert texel_use(uvs, np.concatenate([square, square[:, ::-1]]), size).shared == size**2
    assert texel_use(uvs * 0.5 + 3.25, square, 64).covered == 32**2


def test_uvs_give_overlap_use_and_texels_a_face() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    uvs = np.array([[0, 0], [0.5, 0], [0.5, 1], [0, 1]], np.float32)
    found = report(vertices, np.array([[0, 1, 2], [0, 2, 3]], np.int32), texture=TextureSpace(uvs, 2048), file_bytes=7)
    assert (found.uv_overlap, found.uv_use, found.file_bytes) == (0.0, 0.5, 7)
    assert found.texels_per_face == 2048 * 2048 / 4


def test_an_empty_mesh_has_a_report() -> None:
    found = report(np.zeros((0, 3)), np.zeros((0, 3), np.int32), deep=True)
    assert (found.faces, found.parts, found.watertight) == (0, 0, False)
    assert found.sentences() == ("The mesh has no triangles.",)


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply", ".stl"])
def test_the_command_reads_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    path = tmp_path / f"box{suffix}"
    trimesh.creation.box().export(path)
    assert main(["health", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["faces"], found["watertight"], found["file_bytes"]) == (12, True, path.stat().st_size)
    assert main(["health", str(path)]) == 0
    assert "ready for 3D printing" in capsys.readouterr().out


def test_bad_files_are_told_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.glb").write_bytes(b"glTF nonsense")
    for name in ("bad.glb", "missing.glb", "notes.txt"):
        assert main(["health", str(tmp_path / name)]) == 2
        assert "error: " in capsys.readouterr().err
