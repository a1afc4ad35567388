"""The example pictures of assets/examples: procedural objects in good light, cut out or before a plain backdrop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from trellis_app.render.camera import Camera, view_camera
from trellis_app.render.deferred import Look
from trellis_app.render.environment import STUDIO, SUNSET, Environment
from trellis_app.training.augment import to_view_frame
from trellis_app.training.library import LibraryObject
from trellis_app.training.shapes import random_object
from trellis_app.training.views import Light, render_view

SIDE = 640
SAMPLES = 3  # along a pixel's side


@dataclass(frozen=True)
class Example:
    """One picture: which object, from where, in which light, before what."""

    family: str
    seed: int
    yaw: float = 0.5  # radians
    pitch: float = 18.0  # degrees
    fov: float = 30.0  # degrees
    environment: Environment = STUDIO
    backdrop: tuple[int, int, int] | None = None  # None: transparent


EXAMPLES = {
    "robot": Example("robot", 109, yaw=0.45),
    "chest": Example("chest", 110, yaw=0.55, pitch=22),
    "house": Example("house", 102, yaw=0.6, pitch=22),
    "rocket": Example("rocket", 101, yaw=0.3, pitch=8),
    "chair": Example("chair", 105, yaw=0.6, pitch=20),
    "car": Example("car", 103, yaw=-0.6, pitch=20, backdrop=(222, 226, 230)),
    "teapot": Example("teapot", 104, yaw=-0.35, pitch=20, backdrop=(176, 196, 190)),
    "mushrooms": Example("mushroom", 101, yaw=0.4, pitch=16, backdrop=(84, 92, 112), environment=SUNSET),
}


def example_pictures() -> Iterator[tuple[str, Image.Image]]:
    """Name and picture of every example: RGBA where it is cut out, RGB where it has a backdrop."""
    for name, example in EXAMPLES.items():
        yield name, picture(example)


def write_examples(folder: Path) -> None:
    """Write every example as a PNG file, as assets/examples has them."""
    for name, made in example_pictures():
        made.save(folder / f"{name}.png", optimize=True)


def picture(example: Example) -> Image.Image:
    """Render one example at SIDE x SIDE."""
    obj = random_object(np.random.default_rng(example.seed), example.family)
    framed = to_view_frame(obj, example.yaw)
    radius = float(np.linalg.norm(framed.vertices, axis=1).max())
    camera = view_camera(math.radians(example.pitch), example.fov, radius=radius)
    margin = 0.06 if example.backdrop is None else 0.14
    camera = camera.framed(framed.vertices, margin=margin)
    look = Look(environment=example.environment, shadow=0.7, occlusion=0.9, threads=False)
    cutout = Image.fromarray(render_view(framed, camera, Light(look), SIDE, SAMPLES))
    return cutout if example.backdrop is None else _in_studio(cutout, framed, camera, example.backdrop)


def _in_studio(cutout: Image.Image, framed: LibraryObject, camera: Camera, color: tuple[int, int, int]) -> Image.Image:
    """The cut-out before a softly lit backdrop, its shadow on the floor."""
    row, column = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1)
    glow = 1.06 - 0.22 * ((column - 0.5) ** 2 + (row - 0.42) ** 2) / 0.5
    scene = Image.fromarray(np.clip(glow[..., None] * np.array(color), 0, 255).astype(np.uint8))
    scene.paste((0, 0, 0), mask=_floor_shadow(framed, camera))
    scene.paste(cutout, mask=cutout.getchannel("A"))
    return scene


def _floor_shadow(framed: LibraryObject, camera: Camera) -> Image.Image:
    """Darkness 0 to 255 of the floor: a soft shadow away from the key light, a sharper one where the object stands."""
    corners = framed.vertices[framed.faces].astype(np.float64)
    height = corners[..., 2:] - framed.vertices[:, 2].min()
    low = corners[height.max(axis=(1, 2)) < 0.12]
    cast = _laid_on_floor(corners + height * [0.35, 0.3, -1.0], camera, darkness=70, blur=SIDE / 40)
    contact = _laid_on_floor(low * [1, 1, 0] + [0, 0, corners[..., 2].min()], camera, darkness=110, blur=SIDE / 110)
    return ImageChops.lighter(cast, contact)


def _laid_on_floor(triangles: np.ndarray, camera: Camera, *, darkness: int, blur: float) -> Image.Image:
    """Triangles float [F, 3, 3] drawn as one blurred patch."""
    clip = camera.clip(triangles.reshape(-1, 3))
    corners = ((clip[:, :2] / clip[:, 3:] + 1) / 2 * SIDE).reshape(-1, 6)
    patch = Image.new("L", (SIDE, SIDE))
    pen = ImageDraw.Draw(patch)
    for triangle in corners.tolist():
        pen.polygon(triangle, fill=darkness)
    return patch.filter(ImageFilter.GaussianBlur(blur))
