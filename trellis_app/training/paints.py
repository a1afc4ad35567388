"""Paints of procedural objects: glTF metal-roughness materials, two-colour patterns, recipes for common stuff."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trellis_app.training.grammar import Solid
from trellis_app.training.library import LibraryObject

Rng = np.random.Generator
Parts = list[LibraryObject]
Color = tuple[float, float, float]
Pattern = Callable[[np.ndarray], np.ndarray]  # points [..., 3] -> share of the second colour [...], 0 to 1


@dataclass(frozen=True)
class Paint:
    """A material: sRGB colour, metallic, roughness, alpha in [0, 1]; `second` is laid on where `pattern` says."""

    color: tuple[float, float, float]
    metallic: float = 0.0
    roughness: float = 0.6
    alpha: float = 1.0
    second: tuple[float, float, float] | None = None
    pattern: Pattern | None = None

    def on(self, solid: Solid, name: str = "") -> LibraryObject:
        """The solid in this paint."""
        corners = solid.vertices[solid.faces]
        share = np.zeros(corners.shape[:2]) if self.pattern is None else np.clip(self.pattern(corners), 0, 1)
        second = self.color if self.second is None else self.second
        rgb = np.array(self.color) * (1 - share[..., None]) + np.array(second) * share[..., None]
        rgba = np.concatenate([rgb, np.full((*rgb.shape[:2], 1), self.alpha)], axis=2)
        metal_rough = np.tile([self.metallic, self.roughness], (len(corners), 1))
        return LibraryObject(
            name,
            solid.vertices.astype(np.float32),
            solid.faces.astype(np.int32),
            (np.clip(rgba, 0, 1) * 255 + 0.5).astype(np.uint8),
            (np.clip(metal_rough, 0, 1) * 255 + 0.5).astype(np.uint8),
        )


def fade(axis: int, low: float, high: float) -> Pattern:
    """A smooth change from the first colour at `low` to the second at `high` along an axis."""
    return lambda points: (points[..., axis] - low) / (high - low)


def stripes(axis: int, period: float, *, share: float = 0.5, phase: float = 0.0) -> Pattern:
    """Hard bands along an axis; both triangles of a quad are in one colour."""

    def mix(points: np.ndarray) -> np.ndarray:
        place = points[..., axis]
        middle = (place.min(axis=-1) + place.max(axis=-1)) / 2
        return _whole_faces((middle / period + phase + 1e-6) % 1 < share)

    return mix


def wedges(count: int) -> Pattern:
    """Sectors around the Y axis in turn; both triangles of a quad are in one colour."""

    def mix(points: np.ndarray) -> np.ndarray:
        centre = points.mean(axis=-2)
        about = np.arctan2(centre[..., 0], centre[..., 2])
        off = np.arctan2(points[..., 0], points[..., 2]) - about[..., None]
        off = (off + np.pi) % (2 * np.pi) - np.pi
        turns = (about + (off.min(axis=-1) + off.max(axis=-1)) / 2) / (2 * np.pi)
        return _whole_faces(np.floor((turns + 1e-6) * 2 * count) % 2)

    return mix


def _whole_faces(share: np.ndarray) -> np.ndarray:
    """One share a face [F] -> at its corners [F, 3]."""
    return np.repeat(np.asarray(share, float)[..., None], 3, axis=-1)


def speckle(rng: np.random.Generator, share: float = 0.3) -> Pattern:
    """Random faces in the second colour."""
    seed = int(rng.integers(2**31))

    def mix(points: np.ndarray) -> np.ndarray:
        picked = np.random.default_rng(seed).random(points.shape[:-2]) < share
        return _whole_faces(picked)

    return mix


def hsv(hue: float, saturation: float, value: float) -> Color:
    """Hue in turns (any real number), saturation and value up to 1."""
    return colorsys.hsv_to_rgb(hue % 1, min(saturation, 1), min(value, 1))


def wood(rng: Rng) -> Paint:
    """Brown of some kind."""
    hue, value = rng.uniform(0.05, 0.1), rng.uniform(0.35, 0.85)
    return Paint(hsv(hue, rng.uniform(0.35, 0.7), value), roughness=rng.uniform(0.45, 0.8))


def darker(color: Color, share: float) -> Color:
    """The colour times `share`."""
    red, green, blue = color
    return red * share, green * share, blue * share


def lighter(color: Color, share: float) -> Color:
    """The colour moved by `share` of the way to white."""
    red, green, blue = color
    return red + (1 - red) * share, green + (1 - green) * share, blue + (1 - blue) * share


def gloss(rng: Rng, hue: float | None = None) -> Paint:
    """Painted or plastic, of a clear colour, now and then nearly grey."""
    hue = rng.uniform() if hue is None else hue + rng.normal() * 0.03
    saturation = rng.uniform(0.5, 0.9) if rng.random() < 0.85 else rng.uniform(0, 0.12)
    return Paint(hsv(hue, saturation, rng.uniform(0.45, 0.95)), roughness=rng.uniform(0.15, 0.6))


def metal(rng: Rng) -> Paint:
    """Steel, iron, brass, copper or gunmetal."""
    colours = [(0.8, 0.81, 0.83), (0.56, 0.57, 0.6), (0.95, 0.78, 0.45), (0.85, 0.58, 0.45), (0.35, 0.36, 0.4)]
    return Paint(colours[rng.integers(len(colours))], metallic=1.0, roughness=rng.uniform(0.15, 0.5))


def stone(rng: Rng) -> Paint:
    """Rough and greyish, some faces darker."""
    base = hsv(rng.uniform(0.05, 0.65), rng.uniform(0.02, 0.2), rng.uniform(0.45, 0.8))
    return Paint(base, roughness=0.9, second=darker(base, 0.82), pattern=speckle(rng))


def leaf(rng: Rng) -> Paint:
    """Green, or an autumn colour."""
    hue = rng.uniform(0.2, 0.4) if rng.random() < 0.75 else rng.uniform(0.02, 0.14)
    base = hsv(hue, rng.uniform(0.5, 0.8), rng.uniform(0.4, 0.75))
    return Paint(base, roughness=0.85, second=darker(base, 0.78), pattern=speckle(rng, 0.35))


def dark(value: float = 0.1) -> Paint:
    """Rubber, iron in shade, holes."""
    return Paint((value, value, value * 1.05), roughness=0.7)


def glow(rng: Rng) -> Paint:
    """The bright colour of a lamp or a lit window."""
    return Paint(hsv(rng.choice([0.12, 0.14, 0.5, 0.55]), rng.uniform(0.1, 0.5), 1.0), roughness=0.3)
