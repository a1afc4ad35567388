"""Tree queries against brute force over all triangles."""

import numpy as np
import pytest
import torch

from tests.voxel_shapes import ball, ring, surface_of
from trellis_app.mesh.bvh import build_tree, closest_points, escapes
from trellis_app.mesh.surface import Surface


def brute_distance(surface: Surface, points: np.ndarray) -> np.ndarray:
    """Least distance to a dense sample of every triangle: an upper bound, tight for small triangles."""
    grid = np.array([(i, j, 24 - i - j) for i in range(25) for j in range(25 - i)]) / 24
    samples = np.einsum("sk,fkd->fsd", grid, surface.vertices[surface.faces].astype(np.float64)).reshape(-1, 3)
    return torch.cdist(torch.from_numpy(points.astype(np.float64)), torch.from_numpy(samples)).min(dim=1).values.numpy()


@pytest.mark.parametrize("count", [1, 2, 5, 80])
def test_closest_points_match_brute_force(count: int) -> None:
    surface = surface_of(ball(subdivisions=1)).keep_faces(np.arange(count))
    points = np.random.default_rng(count).normal(size=(97, 3)).astype(np.float32)
    found, face = closest_points(build_tree(surface), points)
    distance = np.linalg.norm(found - points, axis=1)
    reference = brute_distance(surface, points)
    assert (distance <= reference + 1e-6).all()
    assert (distance >= reference - 0.01).all()
    corners = surface.vertices[surface.faces[face]].astype(np.float64)
    weights = np.linalg.solve(corners.transpose(0, 2, 1), found[:, :, None].astype(np.float64))[:, :, 0]
    assert weights.min() > -1e-4
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-4)


def test_points_on_the_surface_stay() -> None:
    surface = surface_of(ring())
    centres = surface.vertices[surface.faces].mean(axis=1)
    found, face = closest_points(build_tree(surface), centres)
    np.testing.assert_allclose(found, centres, atol=1e-6)
    assert np.array_equal(face, np.arange(len(centres)))
    assert closest_points(build_tree(surface), np.zeros((0, 3)))[0].shape == (0, 3)


def test_rays_escape_from_outside_a_ball_only() -> None:
    surface = surface_of(ball(0.4))
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(500, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    tree = build_tree(surface)
    assert not escapes(tree, np.zeros((500, 3)), directions).any()
    assert escapes(tree, 0.41 * directions, directions).all()
    assert not escapes(tree, 0.6 * directions, -directions).any()
