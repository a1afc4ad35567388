"""Pictures of training objects: any camera a photographer would use, any light, antialiased, fast on one thread.

Objects come in the view frame (`augment.to_view_frame`: Z up, unit box, the seen side facing -Y). Pictures are lit as
users' pictures are: by even product light, in a studio with key, fill and rim, dramatically, or not at all (flat).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from trellis_app.render.camera import Camera, view_camera
from trellis_app.render.deferred import LINEAR, NO_NORMALS, Look, Surface, draw
from trellis_app.render.environment import Colour, Environment, Lamp
from trellis_app.render.shading import ACES, CLIP, NEUTRAL, corner_normals
from trellis_app.training.library import LibraryObject

PITCHES = (-10.0, 50.0)  # degrees
FOVS = (20.0, 50.0)  # degrees


@dataclass(frozen=True)
class Light:
    """How a view is lit and printed."""

    look: Look
    crease: float = 40.0  # degrees: edges flatter than this look round; 0 leaves every face flat
    metals: bool = True  # False: metals look like paint, as in simple viewers


def render_view(obj: LibraryObject, camera: Camera, light: Light, size: int = 320, supersample: int = 2) -> np.ndarray:
    """Straight sRGB picture uint8 [size, size, 4] of an object in the view frame."""
    return draw(view_surface(obj, light), camera, size, replace(light.look, samples=supersample))


def view_surface(obj: LibraryObject, light: Light) -> Surface:
    """The object as the renderer takes it."""
    corners = np.empty((len(obj.faces), 3, 6), np.float32)
    corners[..., :3] = LINEAR[obj.corner_rgba[..., :3]]
    corners[..., 3:5] = obj.metal_rough[:, None, :] / np.float32(255.0)
    corners[..., 5] = obj.corner_rgba[..., 3] / np.float32(255.0)
    if not light.metals:
        corners[..., 3] = 0.0
    normals = NO_NORMALS
    if light.crease > 0.0:
        normals = corner_normals(obj.vertices, obj.faces, weld(obj.vertices), math.cos(math.radians(light.crease)))
    solid = bool((obj.corner_rgba[..., 3] == 255).all())
    return Surface(obj.vertices, obj.faces, corners, normals, solid=solid)


def weld(vertices: np.ndarray) -> np.ndarray:
    """One number for all vertices within about 1e-5: int64 [V], 0 to V - 1."""
    cells = np.rint((vertices.astype(np.float64) + 1.0) * 65535.0).astype(np.int64) & 0x1FFFFF
    keys = (cells[:, 0] << 42) | (cells[:, 1] << 21) | cells[:, 2]
    return np.unique(keys, return_inverse=True)[1].reshape(-1)


def random_view(rng: np.random.Generator, vertices: np.ndarray | None = None) -> Camera:
    """A camera on the seen side: pitch -10 to 50 degrees (mostly 0 to 40), fov 20 to 50 degrees, near or far.

    With `vertices` [V, 3] (view frame) the picture is cut to the object, so that all of its pixels show something.
    """
    pitch = rng.uniform(*PITCHES) if rng.random() < 0.5 else rng.triangular(0.0, 18.0, 40.0)
    camera = view_camera(math.radians(pitch), rng.uniform(*FOVS), radius=rng.uniform(0.55, 1.0))
    return camera if vertices is None else camera.framed(vertices)


def random_light(rng: np.random.Generator) -> Light:
    """Light and print of a picture: even, studio, dramatic or (nearly) unlit."""
    manner = rng.choice(("even", "studio", "dramatic", "flat"), p=(0.3, 0.45, 0.13, 0.12))
    soft = rng.random() < 0.4
    look = Look(
        environment=_environment(rng, str(manner)),
        exposure=float(np.exp(rng.normal() * 0.1)),
        tone=int(rng.choice((CLIP, ACES, NEUTRAL), p=(0.5, 0.15, 0.35))),
        shadow=float(rng.uniform(0.3, 0.95)) if rng.random() < 0.4 else 0.0,
        occlusion=float(rng.uniform(0.3, 1.0)) if soft else 0.0,
        rays=8,
        reach=float(rng.uniform(0.06, 0.2)),
        flat=float(rng.uniform(0.7, 1.0)) if manner == "flat" else (0.0 if soft else float(rng.uniform(0.0, 0.3))),
        backdrop=float(rng.uniform(0.0, 1.0)) if rng.random() < 0.4 else None,
        threads=False,
    )
    crease = 0.0 if rng.random() < 0.45 else float(rng.uniform(25.0, 70.0))
    return Light(look, crease, metals=bool(rng.random() < 0.6))


def _environment(rng: np.random.Generator, manner: str) -> Environment:
    """Ambient light of `level`, a key light from above the camera's side, then fill and rim lights."""
    level, key = {"even": (0.68, 0.28), "studio": (0.42, 0.62), "dramatic": (0.16, 1.0), "flat": (0.6, 0.4)}[manner]
    level, key = level * float(np.exp(rng.normal() * 0.15)), key * float(np.exp(rng.normal() * 0.25))
    contrast = float(rng.uniform(0.0, 0.5))
    sky, ground = _tint(rng, level * (1.0 + contrast), 0.05), _tint(rng, level * (1.0 - contrast), 0.05)
    azimuth, height = rng.normal() * math.radians(55.0), math.radians(rng.uniform(10.0, 75.0))
    lamps = [Lamp(_direction(azimuth, height), _sharpness(rng), _tint(rng, key, 0.04))]
    if rng.random() < 0.6:
        fill = _direction(-azimuth + rng.normal() * 0.4, math.radians(rng.uniform(-10.0, 40.0)))
        lamps.append(Lamp(fill, float(rng.uniform(1.5, 6.0)), _tint(rng, key * rng.uniform(0.1, 0.45), 0.1)))
    if rng.random() < 0.4:
        rim = _direction(math.pi + rng.normal(), math.radians(rng.uniform(5.0, 60.0)))
        lamps.append(Lamp(rim, float(rng.uniform(5.0, 40.0)), _tint(rng, key * rng.uniform(0.2, 0.7), 0.1)))
    return Environment(sky, ground, tuple(lamps))


def _direction(azimuth: float, height: float) -> Colour:
    """Towards a lamp: azimuth 0 is the camera's side (-Y), positive to the right; radians."""
    return (math.sin(azimuth) * math.cos(height), -math.cos(azimuth) * math.cos(height), math.sin(height))


def _sharpness(rng: np.random.Generator) -> float:
    """Of the key light, from an overcast sky (2) to a bare bulb (400)."""
    return float(np.exp(rng.uniform(math.log(2.0), math.log(400.0))))


def _tint(rng: np.random.Generator, level: float, spread: float) -> Colour:
    """A nearly white colour of the given level."""
    red, green, blue = level * np.exp(rng.normal(size=3) * spread)
    return (float(red), float(green), float(blue))
