"""Cameras against the golden matrices of spec 6.1, and the frame of the picture."""

import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from trellis_app.render.camera import Camera, snapshot_cameras, sphere_cameras, video_cameras, view_camera

TOLERANCE = 1e-6
CAMERAS = {"snapshot8": snapshot_cameras, "video120": video_cameras, "multiview30": sphere_cameras}


@pytest.mark.parametrize("name", CAMERAS)
def test_matches_golden(shared: Path, name: str) -> None:
    golden = load_file(str(shared / "golden/geometry/cameras_derived.safetensors"))
    cameras = CAMERAS[name]()
    extrinsics = np.stack([camera.extrinsics for camera in cameras])
    defined = np.isfinite(golden[f"{name}.extrinsics"]).all(axis=(1, 2))  # not for a camera that looks straight up
    np.testing.assert_allclose(extrinsics[defined], golden[f"{name}.extrinsics"][defined], atol=TOLERANCE)
    assert defined.sum() >= len(cameras) - 1
    assert np.isfinite(extrinsics).all()
    np.testing.assert_allclose(cameras[0].intrinsics, golden[f"{name}.intrinsics"], atol=TOLERANCE)
    if f"{name}.projection_near1_far100" in golden:
        np.testing.assert_allclose(cameras[0].projection, golden[f"{name}.projection_near1_far100"], atol=TOLERANCE)
    if f"{name}.yaw_pitch" in golden:
        angles = [(camera.yaw, camera.pitch) for camera in cameras]
        np.testing.assert_allclose(angles, golden[f"{name}.yaw_pitch"], atol=TOLERANCE)


def test_picture_frame_is_upright_and_seen_from_minus_y() -> None:
    camera = view_camera(math.radians(20), 40.0)
    assert camera.eye[1] < 0
    assert abs(camera.eye[0]) < 1e-12
    assert camera.eye[2] > 0
    points = camera.clip(np.array([[0.0, 0, 0], [0.2, 0, 0], [0, 0, 0.2], [0, -0.2, 0]]))
    pixels = points[:, :3] / points[:, 3:]
    assert pixels[1, 0] > pixels[0, 0]  # +x is right
    assert pixels[2, 1] < pixels[0, 1]  # up is up (clip y down)
    assert pixels[3, 2] < pixels[0, 2]  # the side facing -Y is nearer


@pytest.mark.parametrize("fov", [20.0, 35.0, 50.0])
@pytest.mark.parametrize("pitch", [-0.2, 0.0, 0.9])
def test_box_fits_the_picture(fov: float, pitch: float) -> None:
    corners = np.array(np.meshgrid(*[(-0.5, 0.5)] * 3)).reshape(3, -1).T
    clip = view_camera(pitch, fov, fill=1.0).clip(corners)
    assert np.all(np.abs(clip[:, :3]) <= clip[:, 3:])


@pytest.mark.parametrize("change", [{"fov": 0.0}, {"fov": 180.0}, {"radius": 0.0}, {"near": 5.0, "far": 4.0}])
def test_impossible_cameras_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="camera needs"):
        Camera(**{"yaw": 0.0, "pitch": 0.0, "radius": 2.0, "fov": 40.0, **change})


def test_framed_view_is_a_crop() -> None:
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 3)) * (0.3, 1.0, 0.2) + (0.1, 0.0, 0.2)
    camera = view_camera(0.3, 40.0)
    whole, cut = camera.clip(points), camera.framed(points, margin=0.1).clip(points)
    before, after = whole[:, :2] / whole[:, 3:], cut[:, :2] / cut[:, 3:]
    assert np.isclose(np.ptp(after, axis=0).max(), 1.6, atol=1e-4)
    np.testing.assert_allclose(after.max(axis=0) + after.min(axis=0), 0.0, atol=1e-4)
    scale = np.ptp(after, axis=0) / np.ptp(before, axis=0)
    np.testing.assert_allclose(scale[0], scale[1], rtol=1e-4)
    np.testing.assert_allclose(whole[:, 2:], cut[:, 2:], rtol=1e-6)


def test_framed_matrices_agree() -> None:
    """Projection and intrinsics describe the same picture."""
    points = np.random.default_rng(1).uniform(-0.5, 0.5, (20, 3))
    camera = view_camera(0.3, 40.0).framed(points)
    seen = (points @ camera.extrinsics[:3, :3].T + camera.extrinsics[:3, 3]) @ camera.intrinsics.T
    clip = camera.clip(points)
    np.testing.assert_allclose(seen[:, :2] / seen[:, 2:], clip[:, :2] / clip[:, 3:] * 0.5 + 0.5, atol=1e-5)
