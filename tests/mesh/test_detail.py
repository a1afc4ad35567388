"""Points move onto the full surface and learn its normal, the same by every implementation."""

import numpy as np
import pytest
import torch

from tests.voxel_shapes import ball, surface_of
from trellis_app.mesh.detail import Detail, surface_detail, vertex_normals

RADIUS, SIDE = 0.4, 64


def detail_of(implementation: str = "auto") -> Detail:
    fine = surface_of(ball(RADIUS, 5))
    return surface_detail(
        torch.from_numpy(fine.vertices), torch.from_numpy(fine.faces), SIDE, implementation=implementation
    )


def around(count: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Points near the ball and the directions outward."""
    random = np.random.default_rng(count)
    out = random.normal(size=(count, 3))
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    points = out * (RADIUS + spread * random.uniform(-1, 1, (count, 1)))
    return torch.from_numpy(points.astype(np.float32)), torch.from_numpy(out.astype(np.float32))


@pytest.mark.parametrize("implementation", ["auto", "reference"])
@pytest.mark.parametrize("voxels", [0.3, 1.0, 3.0])
def test_points_land_on_the_ball_and_face_outward(implementation: str, voxels: float) -> None:
    points, out = around(501, voxels / SIDE)
    moved, normals = detail_of(implementation).project(points, out)
    assert (moved.norm(dim=1) - RADIUS).abs().max() * SIDE < 0.12
    assert (normals * out).sum(dim=1).min() > 0.985
    np.testing.assert_allclose(normals.norm(dim=1), 1.0, atol=1e-5)


def test_both_implementations_agree() -> None:
    points, out = around(2001, 1.0 / SIDE)
    for facing in (out, None):
        ours, reference = (detail_of(name).project(points, facing) for name in ("auto", "reference"))
        for a, b in zip(ours, reference, strict=True):
            assert ((a - b).abs().max(dim=1).values > 1e-4).float().mean() < 0.002


def test_the_other_side_of_a_thin_wall_does_not_count() -> None:
    grid = np.stack(np.meshgrid(np.linspace(-0.3, 0.3, 40), np.linspace(-0.3, 0.3, 40)), axis=-1).reshape(-1, 2)
    index = np.arange(1600).reshape(40, 40)
    a, b, c, d = index[:-1, :-1].ravel(), index[:-1, 1:].ravel(), index[1:, 1:].ravel(), index[1:, :-1].ravel()
    top = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    sheet = [np.concatenate([grid, np.full((1600, 1), z)], axis=1) for z in (0.008, -0.008)]
    vertices = torch.from_numpy(np.concatenate(sheet).astype(np.float32))
    faces = torch.from_numpy(np.concatenate([top, top[:, ::-1] + 1600]).astype(np.int32))
    detail = surface_detail(vertices, faces, SIDE)
    points = torch.tensor([[0.05, 0.02, 0.0], [-0.1, 0.11, 0.005]])
    for z in (1.0, -1.0):
        moved, normals = detail.project(points, torch.tensor([[0.0, 0.0, z]]).repeat(2, 1))
        np.testing.assert_allclose(moved[:, 2], 0.008 * z, atol=1e-4)
        np.testing.assert_allclose(normals[:, 2], z, atol=1e-4)


def test_far_points_keep_their_side_and_nothing_is_nothing() -> None:
    detail = detail_of()
    points, facing = torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]])
    moved, normals = detail.project(points, facing)
    assert torch.equal(normals, facing)
    assert torch.equal(moved, points)
    assert detail.project(points[:0], facing[:0])[0].shape == (0, 3)


def test_vertex_normals_of_a_ball_point_outward() -> None:
    fine = surface_of(ball(RADIUS, 3))
    vertices = torch.from_numpy(fine.vertices)
    normals = vertex_normals(vertices, torch.from_numpy(fine.faces))
    np.testing.assert_allclose(normals, vertices / vertices.norm(dim=1, keepdim=True), atol=0.02)
    assert not vertex_normals(vertices, torch.zeros(0, 3, dtype=torch.int32)).any()
