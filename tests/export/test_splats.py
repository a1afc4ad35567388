"""Splats and radiance fields show what the voxels show; files have the standard layout."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData

from tests.voxel_shapes import ball, glass_top, gradient, ring, voxel_asset
from trellis_app.errors import EmptyAssetError, MeshError
from trellis_app.export.radiance import radiance_chunks, radiance_field, read_radiance
from trellis_app.export.splats import ACROSS, ALONG, CONSTANT_TERM, splat_chunks, turns_from_z, y_down
from trellis_app.export.surfels import surfels
from trellis_app.render.camera import view_camera
from trellis_app.render.radiance import render_radiance
from trellis_app.types import DualGrid, OVoxel

SIDE = 96


def matrices(turns: np.ndarray) -> np.ndarray:
    """Rotation matrices [N, 3, 3] of unit quaternions (w, x, y, z)."""
    w, x, y, z = turns.astype(np.float64).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def draw(vertices: np.ndarray) -> np.ndarray:
    """RGBA [SIDE, SIDE, 4] of a splat file's rows seen along +Z without perspective, front to back, box [-0.5, 0.5]."""
    centre = np.stack([vertices[axis] for axis in "xyz"], axis=1).astype(np.float64)
    turn = matrices(np.stack([vertices[f"rot_{k}"] for k in range(4)], axis=1))
    size = np.exp(np.stack([vertices[f"scale_{k}"] for k in range(3)], axis=1).astype(np.float64))
    spread = np.einsum("nij,nj,nkj->nik", turn, size**2, turn)[:, :2, :2] * SIDE**2 + 0.3 * np.eye(2)
    color = 0.5 + CONSTANT_TERM * np.stack([vertices[f"f_dc_{k}"] for k in range(3)], axis=1)
    opacity = 1 / (1 + np.exp(-vertices["opacity"].astype(np.float64)))
    out, left = np.zeros((SIDE, SIDE, 4)), np.ones((SIDE, SIDE))
    v, u = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    for i in np.argsort(centre[:, 2]):
        x, y = (centre[i, :2] + 0.5) * SIDE
        reach = 3 * np.sqrt(spread[i].max())
        part = np.s_[max(int(y - reach), 0) : int(y + reach) + 2, max(int(x - reach), 0) : int(x + reach) + 2]
        offset = np.stack([u[part] - x, v[part] - y], axis=2)
        power = np.einsum("hwi,ij,hwj->hw", offset, np.linalg.inv(spread[i]), offset)
        alpha = np.minimum(opacity[i] * np.exp(-0.5 * power), 0.99)
        out[part] += (left[part] * alpha)[..., None] * np.append(color[i], 1)
        left[part] *= 1 - alpha
    return out


@pytest.fixture(scope="module")
def vertices() -> np.ndarray:
    asset = voxel_asset(ball(0.4), 32, glass_top)
    return PlyData.read(io.BytesIO(b"".join(splat_chunks(surfels(asset)))))["vertex"].data


def test_the_layout_is_that_of_3d_gaussian_splatting(vertices: np.ndarray) -> None:
    names = "x y z nx ny nz f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3"
    assert vertices.dtype.names == tuple(names.split())
    assert all(vertices.dtype[name] == np.dtype("<f4") for name in vertices.dtype.names)
    assert all(np.isfinite(vertices[name]).all() for name in vertices.dtype.names)


def test_discs_lie_flat_on_the_surface(vertices: np.ndarray) -> None:
    centre = np.stack([vertices[axis] for axis in "xyz"], axis=1)
    outward = centre / np.linalg.norm(centre, axis=1, keepdims=True)
    normal = np.stack([vertices[f"n{axis}"] for axis in "xyz"], axis=1)
    np.testing.assert_allclose(np.linalg.norm(centre, axis=1), 0.4, atol=0.01)
    assert (np.abs((outward * normal).sum(axis=1)) > 0.9).all()
    turn = matrices(np.stack([vertices[f"rot_{k}"] for k in range(4)], axis=1))
    np.testing.assert_allclose(turn[:, :, 2], normal, atol=1e-5)
    scale = np.exp(np.stack([vertices[f"scale_{k}"] for k in range(3)], axis=1))
    np.testing.assert_allclose(scale, np.tile(np.array([ALONG, ALONG, ACROSS]) / 32, (len(scale), 1)), rtol=1e-5)


def test_a_picture_of_the_splats_shows_the_ball(vertices: np.ndarray) -> None:
    picture = draw(vertices)
    v, u = (np.mgrid[0:SIDE, 0:SIDE] + 0.5) / SIDE - 0.5
    radius = np.hypot(u, v)
    inside, solid = radius < 0.36, v > 0.03  # glass above, Y down
    assert picture[..., 3][radius > 0.44].max() < 0.02
    assert picture[..., 3][inside & solid].min() > 0.97
    glass = picture[..., 3][inside & (v < -0.03)]  # two layers of alpha 0.4 each
    assert glass.mean() == pytest.approx(1 - 0.6**2, abs=0.1)
    depth = -np.sqrt(np.maximum(0.16 - radius**2, 0))  # of the near side, along Z
    front = np.stack([u, depth, -v], axis=2)  # back to Z up
    expected = gradient(front.reshape(-1, 3)).reshape(SIDE, SIDE, 6)[..., :3]
    error = np.abs(picture[..., :3] - expected)[inside & solid]
    assert error.mean() < 0.02
    assert error.max() < 0.08


def test_turns_are_exact_at_the_poles() -> None:
    normals = np.array([[0, 0, 1], [0, 0, -1], [1, 0, 0], [0, -1, 0], [1e-8, 0, -1]], np.float32)
    turn = matrices(turns_from_z(normals))
    np.testing.assert_allclose(turn[:, :, 2], normals, atol=1e-6)
    np.testing.assert_allclose(turn @ np.swapaxes(turn, 1, 2), np.tile(np.eye(3), (5, 1, 1)), atol=1e-6)
    np.testing.assert_array_equal(y_down(np.float32([[1, 2, 3]])), [[1, -3, 2]])


def test_the_radiance_field_comes_back_from_its_file(tmp_path: Path) -> None:
    field = radiance_field(surfels(voxel_asset(ring(), 48, glass_top)))
    path = tmp_path / "ring.npz"
    path.write_bytes(b"".join(radiance_chunks(field)))
    assert b"".join(radiance_chunks(field)) == path.read_bytes()
    read = read_radiance(path)
    for name in ("coords", "density", "color", "origin", "voxel_size", "resolution"):
        np.testing.assert_allclose(getattr(read, name), getattr(field, name), rtol=1e-6)
    through = np.exp(-field.density / 48)  # straight through one voxel
    assert np.unique(through.round(3)).tolist() == pytest.approx([0.001, 0.6], abs=1e-3)
    with np.load(path) as file:
        assert str(file["up"]) == "z"
    path.write_bytes(b"PK nothing")
    with pytest.raises(MeshError, match="no radiance field"):
        read_radiance(path)


def test_a_picture_of_the_field_shows_the_ball() -> None:
    field = radiance_field(surfels(voxel_asset(ball(0.4), 64)))
    camera = view_camera(0.0, 10.0)
    picture = render_radiance(field, camera, 128)
    v, u = (np.mgrid[0:128, 0:128] + 0.5) / 128 - 0.5
    reach = camera.radius * np.tan(np.radians(5.0)) * 2
    radius = np.hypot(u, v) * reach
    assert (picture[..., 3][radius < 0.38] >= 253).all()
    assert (picture[..., 3][radius > 0.43] == 0).all()
    # seen from -Y: x to the right, z up
    expected = np.stack([u * reach + 0.5, 0.5 - np.sqrt(np.maximum(0.16 - radius**2, 0)), 0.5 - v * reach], axis=2)
    error = np.abs(picture[..., :3] / 255 - expected)[radius < 0.36]
    assert error.max() < 0.05
    np.testing.assert_array_equal(picture, render_radiance(field, camera, 128))


def test_nothing_to_show_is_a_sentence() -> None:
    grid = DualGrid(torch.zeros((1, 3), dtype=torch.int32), torch.full((1, 3), 0.5), torch.ones(1, 3).bool(), None, 16)
    with pytest.raises(EmptyAssetError):
        surfels(OVoxel(grid, torch.ones(1, 6)))
