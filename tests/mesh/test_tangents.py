"""Tangents point along u, stand across the normal, and know mirrored UVs."""

import numpy as np
import pytest

from trellis_app.mesh.tangents import vertex_tangents


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle", [0.0, 0.7, 2.0, 4.0])
def test_a_flat_square_gets_the_direction_of_u(angle: float, mirrored: bool) -> None:
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    vertices = np.concatenate([square, np.zeros((4, 1))], axis=1).astype(np.float32)
    u_axis, up_axis = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    u, up = square @ u_axis * (-1 if mirrored else 1), square @ up_axis
    uvs = np.stack([u, 1 - up], axis=1).astype(np.float32)  # v runs down
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    normals = np.tile(np.float32([[0, 0, 1]]), (4, 1))
    tangents = vertex_tangents(vertices, faces, normals, uvs)
    np.testing.assert_allclose(tangents[:, :2], np.tile(u_axis * (-1 if mirrored else 1), (4, 1)), atol=1e-6)
    bitangents = np.cross(normals, tangents[:, :3]) * tangents[:, 3:]
    np.testing.assert_allclose(bitangents[:, :2], np.tile(up_axis, (4, 1)), atol=1e-6)
    assert (tangents[:, 3] == (-1 if mirrored else 1)).all()


def test_tangents_are_unit_and_across_the_normal_whatever_comes() -> None:
    random = np.random.default_rng(0)
    vertices = random.normal(size=(60, 3)).astype(np.float32)
    faces = random.integers(0, 50, (80, 3)).astype(np.int32)  # degenerate faces and unused vertices among them
    normals = random.normal(size=(60, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    for uvs in (random.random((60, 2), dtype=np.float32), np.zeros((60, 2), np.float32)):
        tangents = vertex_tangents(vertices, faces, normals, uvs)
        np.testing.assert_allclose(np.linalg.norm(tangents[:, :3], axis=1), 1, atol=1e-6)
        np.testing.assert_allclose((tangents[:, :3] * normals).sum(axis=1), 0, atol=1e-6)
        assert np.isin(tangents[:, 3], (-1, 1)).all()
    empty = vertex_tangents(vertices[:0], faces[:0], normals[:0], np.zeros((0, 2), np.float32))
    assert empty.shape == (0, 4)
