"""Lamps and environments: energy, turning with the camera."""

import math

import numpy as np
import pytest

from trellis_app.render.camera import Camera, view_camera
from trellis_app.render.environment import ENVIRONMENTS, Environment, Lamp


@pytest.mark.parametrize("sharpness", [2.0, 14.0, 200.0])
def test_lamp_reflects_its_irradiance(sharpness: float) -> None:
    """A white diffuse surface facing the lamp shows its irradiance (integral of radiance x cosine / pi)."""
    row = Environment((0.0,) * 3, (0.0,) * 3, (Lamp((0.0, 0.0, 3.0), sharpness, (0.5, 0.25, 1.0)),)).rows()[0]
    cosine = np.linspace(0.0, 1.0, 20_001)
    radiance = row[4] * np.exp(row[3] * (cosine - 1.0))
    shown = 2.0 * np.mean(radiance * cosine)
    assert shown == pytest.approx(0.5, rel=0.25)  # the cosine itself is a Gaussian here
    assert row[4] / row[6] == pytest.approx(0.5)
    assert np.linalg.norm(row[:3]) == pytest.approx(1.0)


def test_light_turns_with_the_camera() -> None:
    """A lamp on the camera's right stays there from any side."""
    front = view_camera(0.0, 40.0)
    lamp = Environment((0.1,) * 3, (0.1,) * 3, (Lamp((1.0, -0.5, 0.3), 10.0, (1.0, 1.0, 1.0)),))
    wanted = front.extrinsics[:3, :3] @ np.array(lamp.facing(front).lamps[0].direction)
    for yaw in (0.0, 1.0, -2.5, math.pi):
        camera = Camera(yaw, 0.0, 2.0, 40.0)
        seen = camera.extrinsics[:3, :3] @ np.array(lamp.facing(camera).lamps[0].direction)
        np.testing.assert_allclose(seen, wanted, atol=1e-9)
    np.testing.assert_allclose(lamp.facing(front).lamps[0].direction, lamp.lamps[0].direction, atol=1e-12)


def test_environments_light_a_white_ball_without_burning_it() -> None:
    for environment in ENVIRONMENTS.values():
        most = np.array(environment.sky) + sum(np.array(lamp.irradiance) for lamp in environment.lamps[:2])
        assert 0.5 < most.max() < 1.7
    assert Environment((1.0,) * 3, (1.0,) * 3).rows().shape == (0, 7)
