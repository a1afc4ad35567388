"""The simplifier for the GPU, on the CPU device: the same predicates as the one for the CPU."""

import numpy as np
import pytest
import torch
import trimesh

from tests.mesh.test_simplify import distance, sieve
from tests.voxel_shapes import ball, decoded, ring, signed_volume, surface_of, voxel_asset
from trellis_app.mesh.gpu.modes import prepare_surface
from trellis_app.mesh.gpu.simplify import simplify
from trellis_app.mesh.health import report
from trellis_app.mesh.repair import repair
from trellis_app.mesh.surface import Surface, face_cross
from trellis_app.ovoxel.to_mesh import dual_grid_to_mesh
from trellis_app.types import Mesh
from trellis_app.warmup import leaky_vessel


def shrunk(surface: Surface, target: int) -> Surface:
    small = simplify(Mesh(torch.from_numpy(surface.vertices), torch.from_numpy(surface.faces)), target)
    assert small.vertices.dtype == torch.float32
    assert small.faces.dtype == torch.int32
    return Surface(small.vertices.numpy(), small.faces.numpy())


@pytest.mark.parametrize("target", [4, 100, 999, 2000])
def test_a_torus_or_ball_keeps_its_shape(target: int) -> None:
    for mesh in (ball(0.4), ring()):
        surface = surface_of(mesh)
        small = shrunk(surface, target)
        health = report(small.vertices, small.faces, weld=True)
        assert target - 1 <= len(small.faces) <= max(target, 20)
        assert len(small.faces) <= target or target == 4
        assert health.watertight
        assert health.parts == 1
        if target >= 999:
            assert max(distance(small, surface), distance(surface, small)) < 0.01
            assert signed_volume(small) == pytest.approx(mesh.volume, rel=0.02)


def test_flat_faces_and_sharp_edges_cost_nothing() -> None:
    box = trimesh.creation.box((0.8, 0.6, 0.4)).subdivide().subdivide().subdivide().subdivide()
    small = shrunk(surface_of(box), 100)
    assert 99 <= len(small.faces) <= 100
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
    small = shrunk(sheet, 300)
    health = report(small.vertices, small.faces)
    assert (health.parts, health.non_manifold_edges, health.inconsistent_edges) == (1, 0, 0)
    assert 298 <= len(small.faces) <= 300
    np.testing.assert_allclose(small.vertices.min(0)[:2], (-0.4, -0.4), atol=2e-3)
    np.testing.assert_allclose(small.vertices.max(0)[:2], (0.4, 0.4), atol=2e-3)
    assert (face_cross(small)[:, 2] > 0).all()
    assert max(distance(small, sheet), distance(sheet, small)) < 4e-3


def test_decoded_surfaces_meet_the_budget_stay_manifold_and_repeat() -> None:
    full = repair(decoded(voxel_asset(ring(), 48)), voxel=1 / 48)
    before = full.vertices.tobytes(), full.faces.tobytes()
    for target in (500, 3000):
        small = shrunk(full, target)
        health = report(small.vertices, small.faces, weld=True)
        assert target - 1 <= len(small.faces) <= target
        assert health.watertight
        assert np.bincount(small.faces.ravel()).min() >= 3
    again = shrunk(full, 3000)
    assert small.vertices.tobytes() == again.vertices.tobytes()
    assert small.faces.tobytes() == again.faces.tobytes()
    assert distance(small, full) < 0.5 / 48
    assert before == (full.vertices.tobytes(), full.faces.tobytes())


def test_what_rounds_cannot_do_goes_to_the_cpu() -> None:
    small = shrunk(sieve(15), 400)
    health = report(small.vertices, small.faces)
    assert 200 <= health.faces <= 400
    assert health.watertight


def test_within_the_budget_nothing_happens_and_a_stop_is_heard() -> None:
    surface = surface_of(ball(subdivisions=2))
    mesh = Mesh(torch.from_numpy(surface.vertices), torch.from_numpy(surface.faces))
    assert simplify(mesh, len(surface.faces)) is mesh

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        simplify(mesh, 100, check=stop)


@pytest.mark.gpu
def test_on_the_gpu_the_same_bytes_every_time_and_the_same_predicates() -> None:
    surface = surface_of(ball(subdivisions=6))
    mesh = Mesh(torch.from_numpy(surface.vertices).cuda(), torch.from_numpy(surface.faces).cuda())
    for target in (20_000, 1_000, 50):
        found, again = simplify(mesh, target), simplify(mesh, target)
        assert found.faces.is_cuda
        assert torch.equal(found.vertices, again.vertices)
        assert torch.equal(found.faces, again.faces)
        small = Surface(found.vertices.cpu().numpy(), found.faces.cpu().numpy())
        assert target - 1 <= len(small.faces) <= target
        assert report(small.vertices, small.faces, weld=True).watertight
        assert distance(small, surface) < 40 / target


def test_a_hollow_vessel_shrinks_without_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the cheap edges are all refused, dearer ones have their turn."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("handed to the CPU")

    monkeypatch.setattr("trellis_app.mesh.gpu.simplify.simplify_on_cpu", refuse)
    mesh = dual_grid_to_mesh(leaky_vessel().grid)
    solid = prepare_surface(mesh, "watertight", voxel=1 / 48)
    assert 1490 <= len(simplify(solid, 1500).faces) <= 1500
