"""Bounding-volume tree over triangles: closest points and rays that escape, compiled with numba.

Triangles are ordered along a Morton curve; the tree is the complete binary tree over blocks of that order, so building
it is one sort and one sweep.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numba import njit

from trellis_app.mesh.surface import Surface

LEAF = 4  # triangles of a leaf
_THREADS = os.cpu_count() or 1


@dataclass(frozen=True)
class Tree:
    """Triangles in leaf order and the boxes of the nodes in heap order (node i has children 2 i + 1, 2 i + 2)."""

    triangles: np.ndarray  # float32 [F, 3, 3] corners, leaf order
    face: np.ndarray  # int32 [F] face of each triangle
    low: np.ndarray  # float32 [nodes, 3]
    high: np.ndarray  # float32 [nodes, 3]


@njit(cache=True, nogil=True)
def _spread(value: int) -> int:
    value &= 0x1FFFFF
    value = (value | value << 32) & 0x1F00000000FFFF
    value = (value | value << 16) & 0x1F0000FF0000FF
    value = (value | value << 8) & 0x100F00F00F00F00F
    value = (value | value << 4) & 0x10C30C30C30C30C3
    return (value | value << 2) & 0x1249249249249249


@njit(cache=True, nogil=True)
def _morton(centres: np.ndarray, low: np.ndarray, scale: float) -> np.ndarray:
    codes = np.empty(len(centres), np.int64)
    for i in range(len(centres)):
        x = np.int64((centres[i, 0] - low[0]) * scale)
        y = np.int64((centres[i, 1] - low[1]) * scale)
        z = np.int64((centres[i, 2] - low[2]) * scale)
        codes[i] = _spread(x) << 2 | _spread(y) << 1 | _spread(z)
    return codes


@njit(cache=True, nogil=True)
def _boxes(triangles: np.ndarray, leaves: int) -> tuple[np.ndarray, np.ndarray]:
    low = np.full((2 * leaves - 1, 3), np.inf, np.float32)
    high = np.full((2 * leaves - 1, 3), -np.inf, np.float32)
    for t in range(len(triangles)):
        node = leaves - 1 + t // LEAF
        for c in range(3):
            for k in range(3):
                low[node, k] = min(low[node, k], triangles[t, c, k])
                high[node, k] = max(high[node, k], triangles[t, c, k])
    for node in range(leaves - 2, -1, -1):
        for k in range(3):
            low[node, k] = min(low[2 * node + 1, k], low[2 * node + 2, k])
            high[node, k] = max(high[2 * node + 1, k], high[2 * node + 2, k])
    return low, high


def build_tree(surface: Surface) -> Tree:
    """The tree over all faces of a surface; it needs at least one face."""
    triangles = surface.vertices[surface.faces]
    centres = triangles.mean(axis=1)
    low = centres.min(axis=0)
    extent = float((centres.max(axis=0) - low).max())
    order = np.argsort(_morton(centres, low, (2**20 - 1) / max(extent, 1e-12)), kind="stable")
    triangles = np.ascontiguousarray(triangles[order])
    leaves = 1
    while leaves * LEAF < len(triangles):
        leaves *= 2
    return Tree(triangles, order.astype(np.int32), *_boxes(triangles, leaves))


def in_parts(count: int, work: Callable[[slice], None]) -> None:
    """Run `work`, which releases the interpreter lock, over slices of `count` queries in a few threads."""
    bounds = np.linspace(0, count, 4 * _THREADS + 1).astype(int)
    with ThreadPoolExecutor(_THREADS) as pool:
        for part in [pool.submit(work, slice(a, b)) for a, b in pairwise(bounds)]:
            part.result()


@njit(cache=True, nogil=True)
def _closest_on_triangle(p: np.ndarray, tri: np.ndarray, out: np.ndarray) -> float:
    """Closest point of a triangle (Ericson, Real-Time Collision Detection, 5.1.5); returns the squared distance."""
    abx, aby, abz = tri[1, 0] - tri[0, 0], tri[1, 1] - tri[0, 1], tri[1, 2] - tri[0, 2]
    acx, acy, acz = tri[2, 0] - tri[0, 0], tri[2, 1] - tri[0, 1], tri[2, 2] - tri[0, 2]
    apx, apy, apz = p[0] - tri[0, 0], p[1] - tri[0, 1], p[2] - tri[0, 2]
    d1 = abx * apx + aby * apy + abz * apz
    d2 = acx * apx + acy * apy + acz * apz
    bpx, bpy, bpz = p[0] - tri[1, 0], p[1] - tri[1, 1], p[2] - tri[1, 2]
    d3 = abx * bpx + aby * bpy + abz * bpz
    d4 = acx * bpx + acy * bpy + acz * bpz
    cpx, cpy, cpz = p[0] - tri[2, 0], p[1] - tri[2, 1], p[2] - tri[2, 2]
    d5 = abx * cpx + aby * cpy + abz * cpz
    d6 = acx * cpx + acy * cpy + acz * cpz
    vc, vb, va = d1 * d4 - d3 * d2, d5 * d2 - d1 * d6, d3 * d6 - d5 * d4
    if d1 <= 0.0 and d2 <= 0.0:
        v, w = 0.0, 0.0
    elif d3 >= 0.0 and d4 <= d3:
        v, w = 1.0, 0.0
    elif vc <= 0.0 and d1 >= 0.0 and d3 <= 0.0:
        v, w = d1 / (d1 - d3) if d1 > d3 else 0.0, 0.0
    elif d6 >= 0.0 and d5 <= d6:
        v, w = 0.0, 1.0
    elif vb <= 0.0 and d2 >= 0.0 and d6 <= 0.0:
        v, w = 0.0, d2 / (d2 - d6) if d2 > d6 else 0.0
    elif va <= 0.0 and d4 >= d3 and d5 >= d6:
        total = (d4 - d3) + (d5 - d6)
        w = (d4 - d3) / total if total > 0.0 else 0.0
        v = 1.0 - w
    else:
        total = va + vb + vc
        v, w = vb / total, vc / total
    out[0] = tri[0, 0] + abx * v + acx * w
    out[1] = tri[0, 1] + aby * v + acy * w
    out[2] = tri[0, 2] + abz * v + acz * w
    return (p[0] - out[0]) ** 2 + (p[1] - out[1]) ** 2 + (p[2] - out[2]) ** 2


@njit(cache=True, nogil=True)
def _box_distance(p: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    total = 0.0
    for k in range(3):
        gap = max(low[k] - p[k], p[k] - high[k], 0.0)
        total += gap * gap
    return total


@njit(cache=True, nogil=True)
def _closest(
    points: np.ndarray, triangles: np.ndarray, low: np.ndarray, high: np.ndarray, out: np.ndarray, which: np.ndarray
) -> None:
    """Closest point and triangle of every query; the last answer bounds the next search (queries are coherent)."""
    leaves = (len(low) + 1) // 2
    stack, bound = np.empty(96, np.int64), np.empty(96, np.float64)
    trial, p = np.empty(3), np.empty(3)
    last = 0
    for i in range(len(points)):
        p[0], p[1], p[2] = points[i, 0], points[i, 1], points[i, 2]
        best, best_triangle = _closest_on_triangle(p, triangles[last], trial), last
        out[i, 0], out[i, 1], out[i, 2] = trial[0], trial[1], trial[2]
        stack[0], bound[0], top = 0, _box_distance(p, low[0], high[0]), 1
        while top > 0:
            top -= 1
            node = stack[top]
            if bound[top] >= best:
                continue
            if node >= leaves - 1:
                first = (node - leaves + 1) * LEAF
                for t in range(first, min(first + LEAF, len(triangles))):
                    distance = _closest_on_triangle(p, triangles[t], trial)
                    if distance < best:
                        best, best_triangle = distance, t
                        out[i, 0], out[i, 1], out[i, 2] = trial[0], trial[1], trial[2]
                continue
            near, far = 2 * node + 1, 2 * node + 2
            d_near, d_far = _box_distance(p, low[near], high[near]), _box_distance(p, low[far], high[far])
            if d_far < d_near:
                near, far, d_near, d_far = far, near, d_far, d_near
            if d_far < best:
                stack[top], bound[top] = far, d_far
                top += 1
            if d_near < best:
                stack[top], bound[top] = near, d_near
                top += 1
        which[i] = best_triangle
        last = best_triangle


def closest_points(tree: Tree, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(closest surface points float32 [Q, 3], their faces int32 [Q]) of points [Q, 3]."""
    points = np.ascontiguousarray(points, dtype=np.float32)
    out, which = np.empty((len(points), 3), np.float32), np.empty(len(points), np.int32)
    in_parts(len(points), lambda s: _closest(points[s], tree.triangles, tree.low, tree.high, out[s], which[s]))
    return out, tree.face[which]


@njit(cache=True, nogil=True)
def _enters(origin: np.ndarray, inverse: np.ndarray, low: np.ndarray, high: np.ndarray, node: int) -> float:
    """Ray parameter at which a node's box is entered (0 inside it); infinite where it is missed or empty."""
    if low[node, 0] > high[node, 0]:  # padding of the complete tree
        return np.inf
    enter, leave = 0.0, np.inf
    for k in range(3):
        t0, t1 = (low[node, k] - origin[k]) * inverse[k], (high[node, k] - origin[k]) * inverse[k]
        enter, leave = max(enter, min(t0, t1)), min(leave, max(t0, t1))
    return enter if enter <= leave else np.inf


@njit(cache=True, nogil=True)
def _blocked(
    origin: np.ndarray, direction: np.ndarray, triangles: np.ndarray, low: np.ndarray, high: np.ndarray
) -> bool:
    """Whether a ray hits any triangle, seen from either side (Moeller-Trumbore); near boxes first."""
    leaves = (len(low) + 1) // 2
    inverse = np.empty(3)
    for k in range(3):
        inverse[k] = 1.0 / direction[k] if abs(direction[k]) > 1e-12 else 1e12
    stack = np.empty(96, np.int64)
    stack[0], top = 0, 1
    while top > 0:
        top -= 1
        node = stack[top]
        if node >= leaves - 1:
            first = (node - leaves + 1) * LEAF
            for t in range(first, min(first + LEAF, len(triangles))):
                if _ray_hits(origin, direction, triangles, t):
                    return True
            continue
        near, far = 2 * node + 1, 2 * node + 2
        t_near = _enters(origin, inverse, low, high, near)
        t_far = _enters(origin, inverse, low, high, far)
        if t_far < t_near:
            near, far, t_near, t_far = far, near, t_far, t_near
        if t_far < np.inf:
            stack[top] = far
            top += 1
        if t_near < np.inf:
            stack[top] = near
            top += 1
    return False


@njit(cache=True, nogil=True)
def _ray_hits(o: np.ndarray, d: np.ndarray, triangles: np.ndarray, t: int) -> bool:
    ux, uy, uz = (
        triangles[t, 1, 0] - triangles[t, 0, 0],
        triangles[t, 1, 1] - triangles[t, 0, 1],
        triangles[t, 1, 2] - triangles[t, 0, 2],
    )
    vx, vy, vz = (
        triangles[t, 2, 0] - triangles[t, 0, 0],
        triangles[t, 2, 1] - triangles[t, 0, 1],
        triangles[t, 2, 2] - triangles[t, 0, 2],
    )
    px, py, pz = d[1] * vz - d[2] * vy, d[2] * vx - d[0] * vz, d[0] * vy - d[1] * vx
    det = ux * px + uy * py + uz * pz
    if abs(det) < 1e-20:
        return False
    sx, sy, sz = o[0] - triangles[t, 0, 0], o[1] - triangles[t, 0, 1], o[2] - triangles[t, 0, 2]
    u = (sx * px + sy * py + sz * pz) / det
    qx, qy, qz = sy * uz - sz * uy, sz * ux - sx * uz, sx * uy - sy * ux
    v = (d[0] * qx + d[1] * qy + d[2] * qz) / det
    return u >= 0.0 and v >= 0.0 and u + v <= 1.0 and (vx * qx + vy * qy + vz * qz) / det > 0.0


@njit(cache=True, nogil=True)
def _escapes(
    origins: np.ndarray,
    directions: np.ndarray,
    triangles: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    out: np.ndarray,
) -> None:
    for i in range(len(origins)):
        out[i] = not _blocked(origins[i], directions[i], triangles, low, high)


def escapes(tree: Tree, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Whether each ray (origins, directions float64 [Q, 3]) leaves without meeting a triangle, bool [Q]."""
    out = np.zeros(len(origins), dtype=bool)
    in_parts(len(origins), lambda s: _escapes(origins[s], directions[s], tree.triangles, tree.low, tree.high, out[s]))
    return out
