"""Fewer triangles by quadric edge collapse, for the CPU.

Garland and Heckbert, "Surface Simplification Using Quadric Error Metrics", 1997, with area weights, border planes, a
small pull towards the merged vertices (so that the best point always exists and flat regions keep round triangles), the
link condition of Dey et al. 1999 (a manifold stays a manifold) and a check that no triangle turns over.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from trellis_kernels.leaf import leaf

from trellis_app.mesh.collapse_parts import Shrinking, shrink_in_parts
from trellis_app.mesh.repair import separate
from trellis_app.mesh.surface import Surface, components, edge_table, face_cross
from trellis_app.progress import Check, go_on

_PULL = 2e-5  # weight of the pull towards the merged vertices, relative to the planes'
_BORDER = 4.0  # weight of border planes
_APART = 0.01  # how far cut vertices move apart, relative to the mean side of a face
# Of the faces over the target: how many stay while tunnels are pinched shut, round by round. Cutting apart adds some
# faces again, so the last rounds aim below the target.
_EXCESSES = (0.5, 0.25, 0.1, 0.03, 0.0, -1.0, -3.0, -10.0)
_FEWEST_CUT = 100  # below this target a part keeps its tunnels and may stay above it
_LEAST_SOLID = 4  # faces that a closed part keeps
_PART = 16_000  # faces of a part
_SHIFT = 0.37  # parts meet elsewhere in every second pass
_WHOLE = 1.6  # parts are left alone once there are so many times the target's faces
_LEAVE = 1.3  # and reach at least so many times the target
_AT_ONCE = 0.35  # or this share of the faces, before the parts are cut anew elsewhere


@leaf
def _add_plane(quadrics: np.ndarray, v: int, n: np.ndarray, d: float, w: float) -> None:
    quadrics[v, 0] += w * n[0] * n[0]
    quadrics[v, 1] += w * n[0] * n[1]
    quadrics[v, 2] += w * n[0] * n[2]
    quadrics[v, 3] += w * n[0] * d
    quadrics[v, 4] += w * n[1] * n[1]
    quadrics[v, 5] += w * n[1] * n[2]
    quadrics[v, 6] += w * n[1] * d
    quadrics[v, 7] += w * n[2] * n[2]
    quadrics[v, 8] += w * n[2] * d
    quadrics[v, 9] += w * d * d


@leaf
def _add_point(quadrics: np.ndarray, v: int, points: np.ndarray, w: float) -> None:
    x, y, z = points[v, 0], points[v, 1], points[v, 2]
    quadrics[v, 0] += w
    quadrics[v, 4] += w
    quadrics[v, 7] += w
    quadrics[v, 3] -= w * x
    quadrics[v, 6] -= w * y
    quadrics[v, 8] -= w * z
    quadrics[v, 9] += w * (x * x + y * y + z * z)


@leaf
def _unit(x: float, y: float, z: float, out: np.ndarray) -> float:
    """The vector scaled to length 1 into `out` (0 if it is too short); returns its length."""
    long = np.sqrt(x * x + y * y + z * z)
    scale = 1.0 / long if long > 1e-30 else 0.0
    out[0], out[1], out[2] = x * scale, y * scale, z * scale
    return long


@leaf
def _normal(points: np.ndarray, a: int, b: int, c: int, out: np.ndarray) -> float:
    """Unit normal of a triangle into `out`; returns twice its area."""
    ux, uy, uz = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1], points[b, 2] - points[a, 2]
    vx, vy, vz = points[c, 0] - points[a, 0], points[c, 1] - points[a, 1], points[c, 2] - points[a, 2]
    return _unit(uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx, out)


@leaf
def _offset(points: np.ndarray, v: int, n: np.ndarray) -> float:
    return -(n[0] * points[v, 0] + n[1] * points[v, 1] + n[2] * points[v, 2])


@njit(cache=True, nogil=True)
def _fill_quadrics(points: np.ndarray, faces: np.ndarray, border_halves: np.ndarray, quadrics: np.ndarray) -> None:
    n, upright = np.empty(3), np.empty(3)
    for f in range(len(faces)):
        long = _normal(points, faces[f, 0], faces[f, 1], faces[f, 2], n)
        d = _offset(points, faces[f, 0], n)
        for c in range(3):
            _add_plane(quadrics, faces[f, c], n, d, long / 6.0)
            _add_point(quadrics, faces[f, c], points, _PULL * long / 6.0)
    for h in border_halves:
        f, c = h // 3, h % 3
        a, b = faces[f, c], faces[f, (c + 1) % 3]
        ex, ey, ez = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1], points[b, 2] - points[a, 2]
        _normal(points, faces[f, 0], faces[f, 1], faces[f, 2], n)
        _unit(ey * n[2] - ez * n[1], ez * n[0] - ex * n[2], ex * n[1] - ey * n[0], upright)
        weight = _BORDER * (ex * ex + ey * ey + ez * ez)
        for end in (a, b):
            _add_plane(quadrics, end, upright, _offset(points, a, upright), weight)


def _start(surface: Surface, check: Check) -> Shrinking:
    edges = edge_table(surface)
    check()
    points, quadrics = surface.vertices.astype(np.float64), np.zeros((len(surface.vertices), 10))
    halves = edges.halves[edges.start[:-1][edges.counts == 1]]
    _fill_quadrics(points, surface.faces, halves, quadrics)
    check()
    border = np.zeros(len(points), dtype=bool)
    border[edges.pairs[edges.counts != 2].reshape(-1)] = True
    ahead = face_cross(surface)
    ahead /= np.maximum(np.linalg.norm(ahead, axis=1, keepdims=True), 1e-30)
    return Shrinking(points, quadrics, border, surface.faces, ahead.astype(np.float32))


def simplify(surface: Surface, target: int, *, check: Check = go_on) -> Surface:
    """At most `target` faces (4 or more), as close to the surface as collapsing edges gets; no-op if it has no more.

    Manifold edges stay manifold, borders stay borders, no face turns over. Where a surface is so full of tunnels that
    it cannot shrink that far, tunnels are pinched shut and the surface is cut apart there; where there are more parts
    than the faces suffice for (each needs a few), the smallest are dropped. Deterministic, on any number of cores.
    check: called at least every few tenths of a second; it raises to stop.
    """
    if len(surface.faces) <= target:
        return surface
    for excess in _EXCESSES:
        surface = _settled(surface, target, check)
        if len(surface.faces) <= target:
            return surface
        if target < _FEWEST_CUT:
            break
        surface = _drop_hopeless_parts(surface, target)
        if len(surface.faces) <= target:
            return surface
        goal = max(target + int(excess * (len(surface.faces) - target)), target // 2)
        pinched = _without_doubles(_collapsed(surface, goal, tunnels=True, check=check))
        surface = separate(pinched, apart=_APART * _mean_side(pinched)).compacted()
        if len(surface.faces) <= target:
            return surface
    return _drop_smallest_parts(surface, target)


def _settled(surface: Surface, target: int, check: Check) -> Surface:
    """Collapsed as far as its topology allows; what was refused is tried afresh while that helps."""
    for _ in range(3):
        before = len(surface.faces)
        surface = _collapsed(surface, target, tunnels=False, check=check)
        if len(surface.faces) <= target or len(surface.faces) > 0.98 * before:
            break
    return surface


def _collapsed(surface: Surface, target: int, *, tunnels: bool, check: Check) -> Surface:
    mesh, shift = _start(surface, check), 0.0
    while not tunnels and len(mesh.faces) > max(_WHOLE * target, 2 * _PART):
        before = len(mesh.faces)
        goal = int(max(_LEAVE * target, _AT_ONCE * before))
        mesh = shrink_in_parts(mesh, goal, parts=before // _PART, shift=shift, check=check)
        shift = _SHIFT - shift
        if len(mesh.faces) > 0.9 * before:
            break
    mesh = shrink_in_parts(mesh, target, parts=1, tunnels=tunnels, check=check)
    return Surface(mesh.points.astype(np.float32), mesh.faces).compacted()


def _mean_side(surface: Surface) -> float:
    corners = surface.vertices[surface.faces]
    return float(np.linalg.norm(corners[:, 1] - corners[:, 0], axis=1).mean()) if len(corners) else 0.0


def _without_doubles(surface: Surface) -> Surface:
    """Coincident faces of opposite winding cancel in pairs, so that what was closed stays closed."""
    faces = surface.faces
    turned = np.take_along_axis(faces, (faces.argmin(axis=1)[:, None] + np.arange(3)) % 3, axis=1)
    sign = np.where(turned[:, 1] < turned[:, 2], 1, -1)
    corners = np.sort(faces, axis=1)
    order = np.lexsort((sign, *corners.T))
    fresh = np.concatenate([[True], np.any(np.diff(corners[order], axis=0) != 0, axis=1)])
    group = np.cumsum(fresh) - 1
    balance = np.bincount(group, weights=sign[order]).astype(int)[group]
    place = np.arange(len(order)) - np.flatnonzero(fresh)[group]
    members = np.bincount(group)[group]
    keep = np.zeros(len(faces), dtype=bool)
    keep[order] = np.where(balance < 0, place < -balance, place >= members - balance)
    return surface.keep_faces(keep)


def _by_area(surface: Surface) -> tuple[np.ndarray, np.ndarray]:
    """(part of each face, parts from the largest to the smallest)."""
    part = components(surface, edge_table(surface), across_non_manifold=True)
    area = np.bincount(part, weights=np.linalg.norm(face_cross(surface), axis=1))
    return part, np.argsort(-area, kind="stable")


def _drop_hopeless_parts(surface: Surface, target: int) -> Surface:
    """Without the smallest parts, as far as even four faces of each part are too many."""
    return _drop_smallest_parts(surface, target, most=_LEAST_SOLID)


def _drop_smallest_parts(surface: Surface, target: int, *, most: int | None = None) -> Surface:
    """Without the smallest parts: the rest has no more than `target` faces, counting at most so many of each."""
    part, order = _by_area(surface)
    fits = np.cumsum(np.bincount(part)[order].clip(max=most)) <= target
    if fits.all():
        return surface
    fits[0] = True
    keep = np.zeros(len(order), dtype=bool)
    keep[order[fits]] = True
    return surface.keep_faces(keep[part]).compacted()
