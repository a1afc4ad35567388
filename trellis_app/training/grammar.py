"""The grammar of procedural objects: closed solids, ways to place them, and paint. Y is up, +Z is the front.

solids   box, lathe, ball, extrude, sweep, tube, hull
placing  Solid.move, .scale, .turn, .mirror, .roughen; merge, array, ring
paint    Paint (a glTF metal-roughness material) with a second colour laid on by a pattern of the position
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import ConvexHull


@dataclass(frozen=True, eq=False)
class Solid:
    """A closed triangle mesh, wound so that its signed volume is positive."""

    vertices: np.ndarray  # float64 [V, 3]
    faces: np.ndarray  # int64 [F, 3]

    def move(self, x: float = 0, y: float = 0, z: float = 0) -> Solid:
        return replace(self, vertices=self.vertices + np.array([x, y, z]))

    def scale(self, x: float = 1, y: float = 1, z: float = 1) -> Solid:
        return _outward(self.vertices * np.array([x, y, z]), self.faces)

    def turn(self, axis: str, degrees: float) -> Solid:
        """Rotate right-handed about the x, y or z axis."""
        first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
        cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        vertices = self.vertices.copy()
        vertices[:, first] = cos * self.vertices[:, first] - sin * self.vertices[:, second]
        vertices[:, second] = sin * self.vertices[:, first] + cos * self.vertices[:, second]
        return replace(self, vertices=vertices)

    def mirror(self, axis: str = "x") -> Solid:
        """The solid and its mirror image in the plane through the origin."""
        image = self.scale(**{axis: -1})
        return merge([self, image])

    def roughen(self, rng: np.random.Generator, amount: float) -> Solid:
        """Push every vertex by normal noise; equal positions stay together."""
        distinct, index = np.unique(np.round(self.vertices, 9), axis=0, return_inverse=True)
        noise = rng.normal(size=distinct.shape) * amount
        return replace(self, vertices=self.vertices + noise[index.reshape(-1)])


def _outward(vertices: np.ndarray, faces: np.ndarray) -> Solid:
    """Drop faces without area, then flip all if the signed volume is negative."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    faces = faces[np.linalg.norm(normal, axis=1) > 1e-12]
    return Solid(vertices, faces if np.einsum("fi,fi->", a, normal) >= 0 else faces[:, ::-1])


def merge(solids: Iterable[Solid]) -> Solid:
    """Several solids as one, each where it stands."""
    parts = list(solids)
    starts = np.cumsum([0, *(len(s.vertices) for s in parts)])
    faces = np.concatenate([s.faces + start for s, start in zip(parts, starts[:-1], strict=True)])
    return Solid(np.concatenate([s.vertices for s in parts]), faces)


def array(solid: Solid, count: int, step: Sequence[float]) -> Solid:
    """`count` copies in a row, centred on where the solid stands."""
    offsets = (np.arange(count) - (count - 1) / 2)[:, None] * np.asarray(step, float)
    return merge(solid.move(*offset) for offset in offsets)


def ring(solid: Solid, count: int, radius: float = 0.0, *, start: float = 0.0) -> Solid:
    """`count` copies around the Y axis; the first is moved to +Z by `radius` and turned by `start` degrees."""
    outer = solid.move(z=radius)
    return merge(outer.turn("y", start + 360 * i / count) for i in range(count))


def hull(points: np.ndarray) -> Solid:
    """Convex hull of points [P, 3]."""
    points = np.asarray(points, float)
    shell = ConvexHull(points)
    faces = shell.simplices.copy()
    a, b, c = (points[faces[:, i]] for i in range(3))
    inward = np.einsum("fi,fi->f", np.cross(b - a, c - a), shell.equations[:, :3]) < 0
    faces[inward] = faces[inward][:, ::-1]
    return Solid(points, faces.astype(np.int64))


def box(width: float, height: float, depth: float, *, bevel: float = 0.0) -> Solid:
    """A box centred on the origin; `bevel` cuts edges and corners."""
    half = np.array([width, height, depth]) / 2
    bevel = min(bevel, 0.9 * half.min())
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    if bevel <= 0:
        return hull(signs * half)
    return hull(np.concatenate([signs * (half - bevel * (1 - axis)) for axis in np.eye(3)]))


def _rings(rings: np.ndarray, *, closed: bool = False, cap: np.ndarray | None = None) -> Solid:
    """Join rings [P, K, 3] by quads; unless they close up, the ends get `cap` triangles or a fan about the middle."""
    count, sides = rings.shape[:2]
    vertices = rings.reshape(-1, 3)
    row = np.arange(count if closed else count - 1)[:, None]
    here, side = row * sides, np.arange(sides)[None]
    there, after = (row + 1) % count * sides, (side + 1) % sides
    a, b, c, d = (q.reshape(-1) for q in np.broadcast_arrays(here + side, here + after, there + after, there + side))
    faces = [np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)]
    last = (count - 1) * sides
    if not closed and cap is not None:
        faces += [cap[:, ::-1], cap + last]
    elif not closed:
        vertices = np.concatenate([vertices, rings[[0, -1]].mean(axis=1)])
        side, after, middle = side[0], after[0], np.full(sides, count * sides)
        faces += [np.stack([after, side, middle], axis=1), np.stack([last + side, last + after, middle + 1], axis=1)]
    return _outward(vertices, np.concatenate(faces))


def lathe(profile: Sequence[tuple[float, float]] | np.ndarray, *, segments: int = 40, closed: bool = False) -> Solid:
    """Turn a profile of (radius, y) about the Y axis; ends get flat caps unless the profile itself closes up."""
    radius, height = np.asarray(profile, float).T
    angle = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    x, y, z = np.broadcast_arrays(radius[:, None] * np.sin(angle), height[:, None], radius[:, None] * np.cos(angle))
    return _rings(np.stack([x, y, z], axis=2), closed=closed)


def ball(radius: float, *, segments: int = 28) -> Solid:
    """A sphere about the origin."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, segments // 2 + 1)
    return lathe(radius * np.stack([np.cos(angle).clip(0), np.sin(angle)], axis=1), segments=segments)


def curve(points: Sequence[Sequence[float]] | np.ndarray, count: int) -> np.ndarray:
    """`count` points on the uniform Catmull-Rom spline through `points` [P, D]."""
    knots = np.asarray(points, float)
    knots = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    place = np.linspace(0, len(knots) - 3 - 1e-9, count)
    i, t = place.astype(int), (place % 1)[:, None]
    p0, p1, p2, p3 = (knots[i + k] for k in range(4))
    cubic = (3 * p1 - p0 - 3 * p2 + p3) * t**3
    return np.asarray(0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + cubic))


def circle(radius: float, *, sides: int = 14) -> np.ndarray:
    """Outline [K, 2] of a circle."""
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def rounded(width: float, height: float, radius: float, *, steps: int = 5) -> np.ndarray:
    """Outline [K, 2] of a rectangle with round corners, centred on the origin."""
    radius = min(radius, 0.499 * min(width, height))
    arc = np.linspace(0, np.pi / 2, steps)
    corners = []
    for i, (x, y) in enumerate([(1, 1), (-1, 1), (-1, -1), (1, -1)]):
        centre = np.array([x * (width / 2 - radius), y * (height / 2 - radius)])
        corners.append(centre + radius * np.stack([np.cos(arc + i * np.pi / 2), np.sin(arc + i * np.pi / 2)], axis=1))
    return np.concatenate(corners)


def sweep(
    path: Sequence[Sequence[float]] | np.ndarray,
    section: np.ndarray,
    *,
    scale: Sequence[float] | np.ndarray | None = None,
    closed: bool = False,
) -> Solid:
    """Carry an outline [K, 2] along a path [P, 3], without twist; `scale` [P] sizes it on the way."""
    path = np.asarray(path, float)
    before, after = (np.roll(path, 1, axis=0), np.roll(path, -1, axis=0)) if closed else (path, path)
    tangent = after - before if closed else np.gradient(path, axis=0)
    tangent = tangent / np.linalg.norm(tangent, axis=1, keepdims=True)
    side = np.cross(tangent[0], np.eye(3)[np.abs(tangent[0]).argmin()])
    sides = []
    for direction in tangent:
        side = side - direction * (side @ direction)
        side = side / np.linalg.norm(side)
        sides.append(side)
    across = np.array(sides)
    upward = np.cross(tangent, across)
    size = np.ones(len(path)) if scale is None else np.asarray(scale, float)
    offset = across[:, None] * section[None, :, :1] + upward[:, None] * section[None, :, 1:]
    return _rings(path[:, None] + offset * size[:, None, None], closed=closed)


def tube(points: Sequence[Sequence[float]], radius: float, *, count: int = 20, sides: int = 12) -> Solid:
    """A round rod along the smooth curve through the points (a straight one through two)."""
    path = np.asarray(points, float) if len(points) == 2 else curve(points, count)
    return sweep(path, circle(radius, sides=sides))


def extrude(outline: np.ndarray, depth: float, *, bevel: float = 0.0) -> Solid:
    """A plate with a simple outline [K, 2] in the XY plane, `depth` thick along Z, its edges cut by `bevel`."""
    outline = np.asarray(outline, float)
    x, y = outline.T
    if np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) < 0:
        outline = outline[::-1]
    levels = [(0.0, -depth / 2), (0.0, depth / 2)]
    if bevel > 0:
        inner = depth / 2 - min(bevel, 0.45 * depth)
        levels = [(bevel, -depth / 2), (0.0, -inner), (0.0, inner), (bevel, depth / 2)]
    ahead = np.roll(outline, -1, axis=0) - outline
    ahead = ahead / np.linalg.norm(ahead, axis=1, keepdims=True)
    inward = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1)
    inward = inward + np.roll(inward, 1, axis=0)
    inward = inward / np.maximum((inward**2).sum(axis=1, keepdims=True) / 2, 0.3)
    rings = [np.column_stack([outline + inset * inward, np.full(len(outline), z)]) for inset, z in levels]
    return _rings(np.array(rings), cap=_ears(outline))


def _ears(outline: np.ndarray) -> np.ndarray:
    """Triangles int [K - 2, 3] of a simple polygon [K, 2] in counter-clockwise order, by cutting ears."""
    left, triangles = list(range(len(outline))), []

    def turn(a: int, b: int, c: int) -> float:
        (ax, ay), (bx, by), (cx, cy) = outline[a], outline[b], outline[c]
        return float((bx - ax) * (cy - ay) - (by - ay) * (cx - ax))

    while len(left) > 3:
        for i in range(len(left)):
            a, b, c = left[i - 1], left[i], left[(i + 1) % len(left)]
            others = (p for p in left if p not in (a, b, c))
            if turn(a, b, c) > 1e-14 and not any(
                turn(a, b, p) >= 0 and turn(b, c, p) >= 0 and turn(c, a, p) >= 0 for p in others
            ):
                break
        else:
            i, (a, b, c) = 1, left[:3]  # only flat corners are left: any cut is as good
        triangles.append((a, b, c))
        left.pop(i)
    return np.array([*triangles, tuple(left)], np.int64)
