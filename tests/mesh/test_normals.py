"""Smooth where the surface is, sharp at creases."""

import numpy as np
import pytest
import trimesh

from tests.voxel_shapes import ball, surface_of
from trellis_app.mesh.normals import crease_normals


def test_a_ball_is_smooth() -> None:
    surface = surface_of(ball())
    groups, normals = crease_normals(surface)
    assert len(normals) == len(surface.vertices)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-6)
    out = surface.vertices[surface.faces] / np.linalg.norm(surface.vertices[surface.faces], axis=2, keepdims=True)
    assert (normals[groups] * out).sum(axis=2).min() > 0.999


def test_a_box_is_sharp_until_the_limit_allows_its_edges() -> None:
    box = trimesh.creation.box().subdivide()
    groups, normals = crease_normals(surface_of(box))
    assert np.abs(normals[groups]).max(axis=2) == pytest.approx(1.0)
    np.testing.assert_allclose(normals[groups[:, 0]], box.face_normals, atol=1e-6)
    assert len(crease_normals(surface_of(box), crease_degrees=100)[1]) == len(box.vertices)


def test_a_degenerate_face_gets_some_unit_normal() -> None:
    mesh = trimesh.Trimesh([(0, 0, 0), (1, 0, 0), (2, 0, 0)], [(0, 1, 2)], process=False)
    _, normals = crease_normals(surface_of(mesh))
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0)
