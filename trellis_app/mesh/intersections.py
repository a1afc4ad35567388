"""Pairs of faces that cut through each other."""

from __future__ import annotations

import numpy as np
from numba import njit
from trellis_kernels.leaf import leaf

from trellis_app.mesh.bvh import LEAF, Tree, build_tree, in_parts
from trellis_app.mesh.surface import Surface

_SLACK = 1e-9  # of the size of the corners' box: nearer than this counts as touching, not as crossing


@leaf
def _volume(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> float:
    """Six times the signed volume of a tetrahedron; zero within rounding."""
    ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    vx, vy, vz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
    wx, wy, wz = d[0] - a[0], d[1] - a[1], d[2] - a[2]
    size = max(
        abs(ux), abs(uy), abs(uz), max(abs(vx), abs(vy), abs(vz)), max(abs(wx), abs(wy), abs(wz))
    )  # fmt: skip
    volume = ux * (vy * wz - vz * wy) + uy * (vz * wx - vx * wz) + uz * (vx * wy - vy * wx)
    return 0.0 if abs(volume) <= _SLACK * size * size * size else volume


@leaf
def _pierces(p: np.ndarray, q: np.ndarray, triangle: np.ndarray) -> bool:
    """Whether the segment p q passes through a triangle or its border, with its ends on different sides."""
    a, b, c = triangle[0], triangle[1], triangle[2]
    above, below = _volume(a, b, c, p), _volume(a, b, c, q)
    if above * below >= 0.0:
        return False
    first, second, third = _volume(p, q, a, b), _volume(p, q, b, c), _volume(p, q, c, a)
    inside = (first >= 0.0 and second >= 0.0 and third >= 0.0) or (first <= 0.0 and second <= 0.0 and third <= 0.0)
    return inside and (first != 0.0 or second != 0.0 or third != 0.0)


@leaf
def _cross(corners: np.ndarray, names: np.ndarray, i: int, j: int) -> bool:
    """Whether two faces cut through each other; those that share an edge never do."""
    shared = mine = other = 0
    for k in range(3):
        for m in range(3):
            if names[i, k] == names[j, m]:
                shared, mine, other = shared + 1, k, m
    if shared > 1:
        return False
    for k in range(3):
        n = (k + 1) % 3
        if (shared == 0 or (k != mine and n != mine)) and _pierces(corners[i, k], corners[i, n], corners[j]):
            return True
        if (shared == 0 or (k != other and n != other)) and _pierces(corners[j, k], corners[j, n], corners[i]):
            return True
    return False


@njit(cache=True, nogil=True)
def _count_pairs(
    first: int, last: int, corners: np.ndarray, names: np.ndarray, low: np.ndarray, high: np.ndarray
) -> int:
    """Crossing pairs (i, j), i < j in leaf order, with first <= i < last."""
    leaves, found = (len(low) + 1) // 2, 0
    stack = np.empty(96, np.int64)
    box_low, box_high = np.empty(3), np.empty(3)
    for i in range(first, last):
        for k in range(3):
            box_low[k] = min(corners[i, 0, k], corners[i, 1, k], corners[i, 2, k])
            box_high[k] = max(corners[i, 0, k], corners[i, 1, k], corners[i, 2, k])
        stack[0], top = 0, 1
        while top > 0:
            top -= 1
            node = stack[top]
            apart = False
            for k in range(3):
                apart = apart or low[node, k] > box_high[k] or high[node, k] < box_low[k]
            if apart:
                continue
            if node < leaves - 1:
                stack[top], stack[top + 1] = 2 * node + 2, 2 * node + 1
                top += 2
                continue
            begin = (node - leaves + 1) * LEAF
            for j in range(max(begin, i + 1), min(begin + LEAF, len(corners))):
                found += _cross(corners, names, i, j)
    return found


def self_intersections(surface: Surface, tree: Tree | None = None) -> int:
    """How many pairs of faces cut through each other.

    Faces that only touch, that lie in one plane or that share an edge do not count; of faces that share a corner the
    opposite sides are looked at. Vertices at one position should be one vertex.
    """
    if len(surface.faces) < 2:
        return 0
    tree = tree or build_tree(surface)
    corners = tree.triangles.astype(np.float64)
    names = np.ascontiguousarray(surface.faces[tree.face])
    totals: list[int] = []

    def work(part: slice) -> None:
        totals.append(_count_pairs(part.start, part.stop, corners, names, tree.low, tree.high))

    in_parts(len(corners), work)
    return sum(totals)
