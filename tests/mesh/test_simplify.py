"""The budget is met, the surface stays manifold and close, nothing turns over."""

from itertools import islice

import numpy as np
import pytest
import trimesh

from tests.voxel_shapes import ball, decoded, ring, signed_volume, surface_of, voxel_asset
from trellis_app.mesh import collapse_parts
from trellis_app.mesh.bvh import build_tree, closest_points
from trellis_app.mesh.health import report
from trellis_app.mesh.modes import prepare_surface
from trellis_app.mesh.repair import repair
from trellis_app.mesh.simplify import simplify
from trellis_app.mesh.surface import Surface, components, edge_table, face_cross
from trellis_app.mesh.survey import random_cases


def distance(a: Surface, b: Surface) -> float:
    """Greatest distance of a's vertices and face centres to b."""
    points = np.concatenate([a.vertices, a.vertices[a.faces].mean(axis=1)])
    return float(np.linalg.norm(closest_points(build_tree(b), points)[0] - points, axis=1).max())


@pytest.mark.parametrize("target", [4, 100, 999, 2000])
def test_a_torus_or_ball_keeps_its_shape(target: int) -> None:
    for mesh in (ball(0.4), ring()):
        surface = surface_of(mesh)
        small = simplify(surface, target)
        health = report(small.vertices, small.faces, weld=True)
        assert max(target - 1, 4) <= len(small.faces) <= max(target, 16) or target == 4
        assert len(small.faces) <= target or target == 4
        assert health.watertight
        assert health.parts == 1
        if target >= 999:
            assert max(distance(small, surface), distance(surface, small)) < 0.01
            assert signed_volume(small) == pytest.approx(mesh.volume, rel=0.02)


def test_flat_faces_and_sharp_edges_cost_nothing() -> None:
    box = trimesh.creation.box((0.8, 0.6, 0.4)).subdivide().subdivide().subdivide().subdivide()
    small = simplify(surface_of(box), 12)
    assert len(small.faces) == 12
    assert signed_volume(small) == pytest.approx(0.192, rel=1e-3)
    assert distance(small, surface_of(box)) < 1e-3


def test_the_border_of_a_sheet_stays() -> None:
    axis = np.linspace(-0.4, 0.4, 41, dtype=np.float32)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    vertices = np.stack([x.ravel(), y.ravel(), 0.05 * np.sin(8 * x.ravel())], axis=1)
    corner = (np.arange(40)[:, None] * 41 + np.arange(40)).ravel()
    faces = np.concatenate(
        [np.stack([corner, corner + 41, corner + 42], 1), np.stack([corner, corner + 42, corner + 1], 1)]
    )
    sheet = Surface(vertices.astype(np.float32), faces.astype(np.int32))
    small = simplify(sheet, 300)
    health = report(small.vertices, small.faces)
    assert (health.parts, health.non_manifold_edges, health.inconsistent_edges) == (1, 0, 0)
    assert 298 <= len(small.faces) <= 300
    np.testing.assert_allclose(small.vertices.min(0)[:2], (-0.4, -0.4), atol=2e-3)
    np.testing.assert_allclose(small.vertices.max(0)[:2], (0.4, 0.4), atol=2e-3)
    assert (face_cross(small)[:, 2] > 0).all()
    assert max(distance(small, sheet), distance(sheet, small)) < 4e-3


def test_decoded_surfaces_meet_the_budget_and_stay_manifold() -> None:
    full = repair(decoded(voxel_asset(ring(), 96)), voxel=1 / 96)
    for target in (500, 5000):
        small = simplify(full, target)
        health = report(small.vertices, small.faces, weld=True)
        assert target - 1 <= len(small.faces) <= target
        assert health.watertight
        assert np.bincount(small.faces.ravel()).min() >= 3
    assert distance(small, full) < 0.5 / 96


def test_nothing_happens_within_the_budget_and_parts_go_when_none_can_shrink() -> None:
    surface = surface_of(ball(subdivisions=1))
    assert simplify(surface, len(surface.faces)) is surface
    crowd = trimesh.util.concatenate(
        [trimesh.creation.icosphere(0, 0.01 + 0.001 * i).apply_translation((0.05 * i, 0, 0)) for i in range(10)]
    )
    small = simplify(surface_of(crowd), 20)
    assert len(small.faces) <= 20
    assert report(small.vertices, small.faces).watertight


def test_a_surface_of_too_many_parts_spends_its_budget() -> None:
    """A thousand crumbs cannot share a thousand faces; what is left spends them."""
    noise = next(case for case in random_cases(41) if case.name == "noise 40")
    crumbs = prepare_surface(noise.surface, "single", voxel=noise.voxel)
    assert components(crumbs, edge_table(crumbs)).max() > 1000
    assert 980 <= len(simplify(crumbs, 1000).faces) <= 1000


def test_leaves_stay_beside_a_few_solids() -> None:
    leaf = trimesh.Trimesh([(0, 0, 0), (0.01, 0, 0), (0, 0.01, 0)], [(0, 1, 2)])
    places = np.random.default_rng(1).uniform(-0.4, 0.4, (820, 3))
    leaves = [leaf.copy().apply_translation(place) for place in places[:800]]
    rings = [trimesh.creation.torus(0.03, 0.01, 12, 8).apply_translation(place) for place in places[800:]]
    small = simplify(surface_of(trimesh.util.concatenate(leaves + rings)), 1000)
    assert 980 <= len(small.faces) <= 1000
    assert components(small, edge_table(small)).max() > 700


def test_same_input_same_output() -> None:
    surface = surface_of(ring())
    a, b = simplify(surface, 700), simplify(surface, 700)
    assert a.vertices.tobytes() == b.vertices.tobytes()
    assert a.faces.tobytes() == b.faces.tobytes()


def sieve(side: int) -> Surface:
    """The surface of a plate of cubes with a square hole at every second place: one part, hundreds of tunnels."""
    solid = np.zeros((side + 2, side + 2, 5), dtype=bool)
    solid[1:-1, 1:-1, 1:-1] = True
    solid[2:-2:2, 2:-2:2] = False
    quads = []
    for axis in range(3):
        ahead = np.roll(solid, -1, axis=axis)
        u, v = np.eye(3, dtype=int)[(axis + 1) % 3], np.eye(3, dtype=int)[(axis + 2) % 3]
        for here, turn in ((solid & ~ahead, False), (~solid & ahead, True)):
            corner = np.argwhere(here) + np.eye(3, dtype=int)[axis]
            ring = np.stack([corner, corner + u, corner + u + v, corner + v], axis=1)
            quads.append(ring[:, ::-1] if turn else ring)
    points, index = np.unique(np.concatenate(quads).reshape(-1, 3), axis=0, return_inverse=True)
    quad = index.reshape(-1, 4)
    faces = np.concatenate([quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]])
    return Surface((points / side).astype(np.float32), faces.astype(np.int32))


def test_a_surface_full_of_tunnels_still_meets_the_budget():
    plate = sieve(31)
    assert report(plate.vertices, plate.faces).watertight
    small = simplify(plate, 400)
    health = report(small.vertices, small.faces)
    assert 398 <= health.faces <= 400
    assert health.watertight
    assert report(small.vertices, small.faces, weld=True).watertight
    np.testing.assert_allclose(np.ptp(small.vertices, axis=0), np.ptp(plate.vertices, axis=0), atol=0.05)


def test_surfaces_of_many_tunnels_meet_a_tiny_budget() -> None:
    """Random sets that ended a few faces above it: cutting pinched tunnels apart gave back what pinching took."""
    for place, mode in ((125, "single"), (153, "watertight")):
        case = next(islice(random_cases(200), place, None))
        small = simplify(prepare_surface(case.surface, mode, voxel=case.voxel), 150)
        health = report(small.vertices, small.faces)
        assert 135 <= health.faces <= 150
        assert health.non_manifold_edges == health.inconsistent_edges == 0
        assert health.watertight == (mode == "watertight")


def bumpy() -> Surface:
    """A ball with bumps, 82,000 faces: enough to shrink in parts."""
    mesh = ball(0.4, subdivisions=6)
    points = mesh.vertices * (1 + 0.05 * np.sin(30 * mesh.vertices).prod(axis=1, keepdims=True))
    return surface_of(trimesh.Trimesh(points, mesh.faces, process=False))


def test_parts_leave_no_seams_and_threads_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    surface, found = bumpy(), []
    for threads in (1, 3):
        monkeypatch.setattr(collapse_parts, "THREADS", threads)
        found.append(simplify(surface, 5000))
    small = found[0]
    assert small.vertices.tobytes() == found[1].vertices.tobytes()
    assert small.faces.tobytes() == found[1].faces.tobytes()
    assert 4999 <= len(small.faces) <= 5000
    assert report(small.vertices, small.faces).watertight
    assert distance(small, surface) < 2e-3
    area = np.linalg.norm(face_cross(small), axis=1)
    assert area.max() < 12 * np.median(area)
    assert np.quantile(area, 0.01) > np.median(area) / 12


def test_a_tetrahedron_stays() -> None:
    tetrahedra = [trimesh.creation.icosphere(2, 0.1), trimesh.creation.icosphere(0, 0.001)]
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) * 0.01 + 0.3
    tetrahedra.append(trimesh.Trimesh(corners, [[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]]))
    small = simplify(surface_of(trimesh.util.concatenate(tetrahedra)), 60)
    health = report(small.vertices, small.faces)
    assert health.watertight
    assert health.parts == 3
    assert len(np.unique(np.sort(small.faces, axis=1), axis=0)) == len(small.faces)


def test_a_stop_is_heard_soon() -> None:
    surface, calls = bumpy(), []

    def stop() -> None:
        calls.append(len(calls))
        if len(calls) == 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        simplify(surface, 500, check=stop)
    assert len(calls) == 4
