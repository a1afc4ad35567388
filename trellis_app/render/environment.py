"""Procedural light: a sky-to-ground gradient and a few soft lamps, each a spherical Gaussian.

A lamp's radiance towards direction d is colour * exp(sharpness * (d . direction - 1)). Spherical Gaussians blur in
closed form (Wang et al. 2009, "All-frequency rendering of dynamic, spatially-varying reflectance"), so a surface of any
roughness is lit without files, tables or random numbers. World is Z up; colours are linear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from trellis_app.render.camera import Camera

COSINE_SHARPNESS = 2.133  # of the Gaussian closest to the clamped cosine (Wang et al. 2009)
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Lamp:
    """One soft light, infinitely far away."""

    direction: Colour  # towards the lamp; need not be normalised
    sharpness: float  # 1 half the sky, 10 a softbox, 100 and more a small lamp
    irradiance: Colour  # what a white surface facing it reflects


@dataclass(frozen=True)
class Environment:
    """Light from everywhere. A white diffuse ball shows about sky + the irradiance of the lamps that it faces."""

    sky: Colour
    ground: Colour
    lamps: tuple[Lamp, ...] = ()  # the first one is the key light: it casts the shadow

    def rows(self) -> np.ndarray:
        """Lamps as float32 [K, 7]: unit direction, sharpness, peak radiance."""
        rows = np.zeros((len(self.lamps), 7), np.float32)
        for row, lamp in zip(rows, self.lamps, strict=True):
            direction = np.array(lamp.direction, np.float64)
            row[:3] = direction / max(float(np.linalg.norm(direction)), 1e-9)
            row[3] = lamp.sharpness
            blurred = COSINE_SHARPNESS / (lamp.sharpness + COSINE_SHARPNESS)
            row[4:] = np.array(lamp.irradiance) / blurred
        return rows

    def facing(self, camera: Camera) -> Environment:
        """The same light turned about Z, so that what was lit from -Y is now lit from the camera's side."""
        angle = math.pi - camera.yaw
        cos, sin = math.cos(angle), math.sin(angle)
        turned = [
            replace(lamp, direction=(cos * x - sin * y, sin * x + cos * y, z))
            for lamp in self.lamps
            for x, y, z in [lamp.direction]
        ]
        return replace(self, lamps=tuple(turned))


# Directions as seen from the camera at -Y: x right, y away, z up.
STUDIO = Environment(
    sky=(0.43, 0.45, 0.49),
    ground=(0.20, 0.185, 0.175),
    lamps=(
        Lamp((-0.65, -0.75, 0.95), 14.0, (0.78, 0.755, 0.72)),
        Lamp((0.95, -0.55, 0.25), 5.0, (0.13, 0.14, 0.16)),
        Lamp((0.45, 0.85, 0.55), 18.0, (0.30, 0.32, 0.36)),
    ),
)
EVEN = Environment(
    sky=(0.86, 0.86, 0.86), ground=(0.60, 0.60, 0.60), lamps=(Lamp((-0.3, -1.0, 0.6), 2.0, (0.22, 0.22, 0.22)),)
)
SUNSET = Environment(
    sky=(0.34, 0.36, 0.50),
    ground=(0.20, 0.16, 0.15),
    lamps=(
        Lamp((-0.95, -0.45, 0.40), 30.0, (1.00, 0.66, 0.40)),
        Lamp((0.80, -0.60, 0.50), 3.0, (0.12, 0.14, 0.24)),
        Lamp((0.60, 0.80, 0.30), 12.0, (0.30, 0.22, 0.30)),
    ),
)
ENVIRONMENTS = {"studio": STUDIO, "even": EVEN, "sunset": SUNSET}
