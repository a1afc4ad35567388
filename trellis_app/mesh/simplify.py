"""Fewer triangles by quadric edge collapse, for the CPU.

Garland and Heckbert, "Surface Simplification Using Quadric Error Metrics", 1997, with area weights, border planes, a
small pull towards the merged vertices (so that the best point always exists and flat regions keep round triangles), the
link condition of Dey et al. 1999 (a manifold stays a manifold) and a check that no triangle turns over.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trellis_app.mesh.collapse_parts import Shrinking, shrink_in_parts
from trellis_app.mesh.repair import remove_duplicate_faces, separate
from trellis_app.mesh.surface import Surface, components, edge_table, face_cross
from trellis_app.progress import Check, go_on

_PULL = 2e-5  # weight of the pull towards the merged vertices, relative to the planes'
_BORDER = 4.0  # weight of border planes
_FEWEST_CUT = 100  # below this target a part keeps its tunnels and may stay above it
_PART = 16_000  # faces of a part
_SHIFT = 0.37  # parts meet elsewhere in every second pass
_WHOLE = 1.6  # parts are left alone once there are so many times the target's faces
_LEAVE = 1.3  # and reach at least so many times the target
_AT_ONCE = 0.35  # or this share of the faces, before the parts are cut anew elsewhere


@njit(cache=True, nogil=True)
def _add_plane(q: np.ndarray, nx: float, ny: float, nz: float, d: float, w: float) -> None:
    q[0] += w * nx * nx
    q[1] += w * nx * ny
    q[2] += w * nx * nz
    q[3] += w * nx * d
    q[4] += w * ny * ny
    q[5] += w * ny * nz
    q[6] += w * ny * d
    q[7] += w * nz * nz
    q[8] += w * nz * d
    q[9] += w * d * d


@njit(cache=True, nogil=True)
def _add_point(q: np.ndarray, p: np.ndarray, w: float) -> None:
    q[0] += w
    q[4] += w
    q[7] += w
    q[3] -= w * p[0]
    q[6] -= w * p[1]
    q[8] -= w * p[2]
    q[9] += w * (p[0] * p[0] + p[1] * p[1] + p[2] * p[2])


@njit(cache=True, nogil=True)
def _cross(points: np.ndarray, face: np.ndarray, out: np.ndarray) -> float:
    """Unit normal of a face into `out`; returns twice its area."""
    p, q, r = points[face[0]], points[face[1]], points[face[2]]
    ux, uy, uz = q[0] - p[0], q[1] - p[1], q[2] - p[2]
    vx, vy, vz = r[0] - p[0], r[1] - p[1], r[2] - p[2]
    x, y, z = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    long = np.sqrt(x * x + y * y + z * z)
    scale = 1.0 / long if long > 1e-30 else 0.0
    out[0], out[1], out[2] = x * scale, y * scale, z * scale
    return long


@njit(cache=True, nogil=True)
def _fill_quadrics(points: np.ndarray, faces: np.ndarray, border_halves: np.ndarray, quadrics: np.ndarray) -> None:
    n = np.empty(3)
    for f in range(len(faces)):
        long = _cross(points, faces[f], n)
        p = points[faces[f, 0]]
        d = -(n[0] * p[0] + n[1] * p[1] + n[2] * p[2])
        for c in range(3):
            _add_plane(quadrics[faces[f, c]], n[0], n[1], n[2], d, long / 6.0)
            _add_point(quadrics[faces[f, c]], points[faces[f, c]], _PULL * long / 6.0)
    for h in border_halves:
        f, c = h // 3, h % 3
        a, b = faces[f, c], faces[f, (c + 1) % 3]
        ex, ey, ez = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1], points[b, 2] - points[a, 2]
        _cross(points, faces[f], n)
        x, y, z = ey * n[2] - ez * n[1], ez * n[0] - ex * n[2], ex * n[1] - ey * n[0]
        long = np.sqrt(x * x + y * y + z * z)
        if long < 1e-30:
            continue
        x, y, z = x / long, y / long, z / long
        d = -(x * points[a, 0] + y * points[a, 1] + z * points[a, 2])
        weight = _BORDER * (ex * ex + ey * ey + ez * ez)
        _add_plane(quadrics[a], x, y, z, d, weight)
        _add_plane(quadrics[b], x, y, z, d, weight)


def _start(surface: Surface, check: Check) -> Shrinking:
    edges = edge_table(surface)
    check()
    points, quadrics = surface.vertices.astype(np.float64), np.zeros((len(surface.vertices), 10))
    halves = edges.halves[edges.start[:-1][edges.counts == 1]]
    _fill_quadrics(points, surface.faces, halves, quadrics)
    check()
    border = np.zeros(len(points), dtype=bool)
    border[edges.pairs[edges.counts != 2].reshape(-1)] = True
    return Shrinking(points, quadrics, border, surface.faces)


def simplify(surface: Surface, target: int, *, check: Check = go_on) -> Surface:
    """At most `target` faces (4 or more), as close to the surface as collapsing edges gets; no-op if it has no more.

    Manifold edges stay manifold, borders stay borders, no face turns over. Where a surface is so full of tunnels that
    it cannot shrink that far, tunnels are pinched shut and the surface is cut apart there; where parts cannot shrink
    any further (each needs a few faces), the smallest parts are dropped. Deterministic, whatever the number of cores.
    check: called at least every few tenths of a second; it raises to stop.
    """
    if len(surface.faces) <= target:
        return surface
    for _ in range(3):
        before = len(surface.faces)
        surface = _collapsed(surface, target, tunnels=False, check=check)
        if len(surface.faces) <= target:
            return surface
        if len(surface.faces) > 0.98 * before:
            break
    for share in (0.95, 0.9, 0.8) if target >= _FEWEST_CUT else ():
        pinched = _collapsed(surface, int(share * target), tunnels=True, check=check)
        surface = separate(remove_duplicate_faces(pinched))
        if len(surface.faces) <= target:
            return surface.compacted()
    return _drop_smallest_parts(surface, target)


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


def _drop_smallest_parts(surface: Surface, target: int) -> Surface:
    part = components(surface, edge_table(surface), across_non_manifold=True)
    area = np.bincount(part, weights=np.linalg.norm(face_cross(surface), axis=1))
    order = np.argsort(-area, kind="stable")
    fits = np.cumsum(np.bincount(part)[order]) <= target
    fits[0] = True
    keep = np.zeros(len(area), dtype=bool)
    keep[order[fits]] = True
    return surface.keep_faces(keep[part]).compacted()
