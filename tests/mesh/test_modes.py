"""Every surface mode keeps its promises, on both implementations alike; a sample of `bench surfaces`."""

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from safetensors.numpy import load_file

from tests.voxel_shapes import ball, decoded, ring, signed_volume, surface_of, voxel_asset
from trellis_app.mesh.bvh import build_tree, closest_points
from trellis_app.mesh.gpu.modes import prepare_surface as prepare_on_gpu
from trellis_app.mesh.health import report
from trellis_app.mesh.modes import prepare_surface
from trellis_app.mesh.surface import Surface
from trellis_app.mesh.survey import KINDS, Case, decoded_case, level_set, object_case, random_cases, violations
from trellis_app.mesh.watertight import simple_cells
from trellis_app.settings import SURFACE_MODES
from trellis_app.types import Mesh

EMPTY = Surface(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))


class StoppedError(Exception):
    """Raised by a check that stops the work."""


def on_gpu(surface: Surface, mode: str, voxel: float) -> Surface:
    """The torch implementation, on the CPU."""
    mesh = Mesh(torch.from_numpy(surface.vertices), torch.from_numpy(surface.faces))
    made = prepare_on_gpu(mesh, mode, voxel=voxel)
    return Surface(made.vertices.numpy(), made.faces.numpy())


@pytest.mark.parametrize("mode", SURFACE_MODES)
@pytest.mark.parametrize("case", random_cases(2 * len(KINDS), seed=5, largest=24), ids=lambda case: case.name)
def test_random_voxel_sets_keep_every_promise(case: Case, mode: str) -> None:
    if not len(case.surface.faces):
        pytest.skip("nothing was decoded")
    assert violations(prepare_surface(case.surface, mode, voxel=case.voxel), mode, case.voxel) == {}


@pytest.mark.parametrize("mode", SURFACE_MODES)
def test_golden_meshes_keep_every_promise(shared: Path, mode: str) -> None:
    golden = load_file(shared / "golden/geometry/mesh_to_dual_grid.safetensors")
    for name in ("cube", "hemisphere", "tee", "crossplanes", "thin", "degenerate", "gridaligned"):
        vertices, faces = golden[f"{name}.vertices"].astype(np.float32), golden[f"{name}.faces"].astype(np.int32)
        for case in (Case(name, Surface(vertices, faces), 1 / 32), object_case(name, vertices, faces, 32)):
            prepared = prepare_surface(case.surface, mode, voxel=case.voxel)
            assert violations(prepared, mode, case.voxel) == {}, name


@pytest.mark.parametrize("mode", SURFACE_MODES)
@pytest.mark.parametrize("seed", range(2))
def test_both_implementations_agree(mode: str, seed: int) -> None:
    for case in random_cases(len(KINDS), seed=seed, largest=14):
        if len(case.surface.faces):
            ours, theirs = (make(case.surface, mode, case.voxel) for make in (on_cpu, on_gpu))
            assert len(ours.faces) == len(theirs.faces), case.name
            for axis in range(3):
                np.testing.assert_allclose(
                    np.sort(ours.vertices[:, axis]), np.sort(theirs.vertices[:, axis]), atol=1e-6, err_msg=case.name
                )
            assert signed_volume(ours) == pytest.approx(signed_volume(theirs), abs=1e-5)


def on_cpu(surface: Surface, mode: str, voxel: float) -> Surface:
    return prepare_surface(surface, mode, voxel=voxel)


@pytest.mark.parametrize("make", [on_cpu, on_gpu])
def test_a_closed_decoded_surface_is_its_own_solid(make: object) -> None:
    surface = decoded(voxel_asset(ring(), 32))
    solid = make(surface, "watertight", 1 / 32)  # type: ignore[operator]
    assert report(solid.vertices, solid.faces, weld=True).watertight
    assert signed_volume(solid) == pytest.approx(ring().volume, rel=0.05)
    nearest, _ = closest_points(build_tree(surface), solid.vertices)
    distance = np.linalg.norm(solid.vertices - nearest, axis=1)
    assert distance.max() < 0.2 / 32  # voxels
    assert np.median(distance) < 1e-4 / 32


@pytest.mark.parametrize("make", [on_cpu, on_gpu])
def test_modes_of_a_hollow_ball_with_a_sheet(make: object) -> None:
    sheet = trimesh.creation.box((0.3, 0.3, 0.002)).apply_translation((0, 0, 0.45))
    sheet.update_faces(sheet.triangles_center[:, 2] > 0.4505)
    mesh = trimesh.util.concatenate([ball(0.3, 3), ball(0.25, 3), sheet])
    single = make(surface_of(mesh), "single", 1 / 40)  # type: ignore[operator]
    assert len(single.faces) == len(ball(0.3, 3).faces) + 2  # the inner shell is gone, the sheet stays open
    assert report(single.vertices, single.faces).boundary_loops == 1
    solid = make(surface_of(mesh), "watertight", 1 / 40)  # type: ignore[operator]
    health = report(solid.vertices, solid.faces, weld=True)
    assert health.watertight
    assert health.parts == 2
    plate = solid.keep_faces(solid.vertices[solid.faces[:, 0], 2] > 0.4)
    thickness = signed_volume(plate) / (0.3 * 0.3)
    assert 0.2 / 40 < thickness < 2 / 40


def test_a_leaky_solid_stays_solid() -> None:
    """Holes that the air could come through do not turn a thick ball into a shell."""
    surface = decoded(voxel_asset(ball(0.4), 32))
    middle = surface.vertices[surface.faces].mean(axis=1)
    hole = np.linalg.norm(middle - (0.4, 0.0, 0.0), axis=1) < 2.5 / 32
    broken = surface.keep_faces(~hole)
    assert report(broken.vertices, broken.faces).boundary_loops == 1
    for make in (on_cpu, on_gpu):
        solid = make(broken, "watertight", 1 / 32)
        assert signed_volume(solid) == pytest.approx(ball().volume, rel=0.05)


def test_the_inner_wall_of_a_vessel_with_a_narrow_mouth_goes() -> None:
    """Inner and outer wall hang together at the mouth, so whole patches do not tell them apart."""
    angle = np.linspace(0.1, np.pi, 30)
    profile = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    vessel = trimesh.creation.revolve(np.concatenate([0.45 * profile[::-1], 0.3 * profile]), sections=40)
    surface = decoded(voxel_asset(vessel, 48))
    ours, theirs = on_cpu(surface, "single", 1 / 48), on_gpu(surface, "single", 1 / 48)
    assert len(ours.faces) == len(theirs.faces)
    assert report(ours.vertices, ours.faces).watertight
    assert (np.linalg.norm(ours.vertices, axis=1) < 0.4).mean() < 0.01
    assert signed_volume(ours) == pytest.approx(4 / 3 * np.pi * 0.45**3, rel=0.05)


def test_grooves_stay() -> None:
    """A narrow slanted groove in a solid is reached by slanted rays only, and not by the cube; it is no inner wall."""
    turn = trimesh.transformations.rotation_matrix(np.pi / 4, (1, 0, 0))
    cells = np.stack(np.meshgrid(*[np.arange(49)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) / 48 - 0.5
    local = cells @ turn[:3, :3]
    inside = (np.abs(cells) < 0.3).all(axis=1) & ~(
        (np.abs(local[:, 0]) < 0.28) & (np.abs(local[:, 1]) < 0.032) & (local[:, 2] > 0.13)
    )
    case = decoded_case("groove", level_set(np.where(inside, -1.0, 1.0).reshape(49, 49, 49), 48))
    kept = on_cpu(case.surface, "single", case.voxel)
    assert len(kept.faces) == len(case.surface.faces)


def test_decoded_mode_only_drops_invalid_faces() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], np.float32)
    faces = np.array([[0, 1, 2], [2, 1, 0], [0, 0, 1], [3, 0, 1], [0, 1, 4]], np.int32)
    for make in (on_cpu, on_gpu):
        assert make(Surface(vertices, faces), "decoded", 0.1).faces.tolist() == [[0, 1, 2], [3, 0, 1]]


@pytest.mark.parametrize("mode", SURFACE_MODES)
def test_an_empty_surface_stays_empty(mode: str) -> None:
    for make in (on_cpu, on_gpu):
        assert len(make(EMPTY, mode, 0.1).faces) == 0


def test_one_triangle_becomes_a_solid() -> None:
    triangle = Surface(np.array([[0, 0, 0], [0.01, 0, 0], [0, 0.01, 0]], np.float32), np.array([[0, 1, 2]], np.int32))
    for make in (on_cpu, on_gpu):
        solid = make(triangle, "watertight", 0.1)
        assert report(solid.vertices, solid.faces, weld=True).watertight
        assert signed_volume(solid) > 0


def test_an_unknown_mode_is_refused() -> None:
    for make in (on_cpu, on_gpu):
        with pytest.raises(ValueError, match="mode must be one of"):
            make(EMPTY, "solid", 0.1)


@pytest.mark.parametrize("mode", ["single", "watertight"])
def test_work_can_be_stopped(mode: str) -> None:
    surface = decoded(voxel_asset(ball(), 32))
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) > 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        prepare_surface(surface, mode, voxel=1 / 32, check=check)
    calls.clear()
    with pytest.raises(StoppedError):
        prepare_on_gpu(
            Mesh(torch.from_numpy(surface.vertices), torch.from_numpy(surface.faces)), mode, voxel=1 / 32, check=check
        )


def test_half_of_all_cells_are_simple_and_others_grow_into_them() -> None:
    table = simple_cells().astype(int)
    assert (table == np.arange(256)).sum() == 128
    assert ((table & np.arange(256)) == np.arange(256)).all()
    assert (table[table] == table).all()


def test_the_same_input_gives_the_same_bytes() -> None:
    case = list(random_cases(5, seed=9))[3]
    for mode in SURFACE_MODES:
        first, second = (prepare_surface(case.surface, mode, voxel=case.voxel) for _ in range(2))
        assert first.vertices.tobytes() == second.vertices.tobytes()
        assert first.faces.tobytes() == second.faces.tobytes()
