"""Minimum of a quadratic form over a box, exactly.

A row of sums is (a00, a01, a02, a11, a12, a22, b0, b1, b2); the error of a point p is p^T A p - 2 b^T p and a constant.
"""

from __future__ import annotations

import numpy as np

from trellis_kernels.leaf import leaf

SINGULAR = 1e-10  # pivots smaller than this part of the largest diagonal entry count as zero


@leaf
def solve_in_box(s, r, box, point):
    """Write the minimiser over [0, box] to `point`: the free minimum where it lies inside, else the best on a face.

    A convex error's minimum over the box lies on a face that the free minimum violates, so only those are searched
    (all of them where the free minimum is not unique).
    """
    unique = free_minimum(s, r, point)
    x, y, z = point[0], point[1], point[2]
    if 0.0 <= x <= box[0] and 0.0 <= y <= box[1] and 0.0 <= z <= box[2]:
        return
    best = np.inf
    for axis in range(3):
        value = x if axis == 0 else (y if axis == 1 else z)
        if not unique or value < 0.0:
            best = face_minimum(s, r, box, axis, 0.0, best, point)
        if not unique or value > box[axis]:
            best = face_minimum(s, r, box, axis, box[axis], best, point)


@leaf
def entry(s, r, i, j):
    low, high = min(i, j), max(i, j)
    return s[r, low * (5 - low) // 2 + high]


@leaf
def free_minimum(s, r, point):
    """Solve A p = b by a pivoted LDL^T; basic solution where A is singular. Returns whether A is regular."""
    d0, d1, d2 = s[r, 0], s[r, 3], s[r, 5]
    i, j, k = 0, 1, 2
    if d1 > d0 and d1 >= d2:
        i, j, k = 1, 0, 2
    elif d2 > d0 and d2 > d1:
        i, j, k = 2, 0, 1
    point[0] = point[1] = point[2] = 0.0
    a = entry(s, r, i, i)
    floor = SINGULAR * a
    if not a > 0.0:
        return False
    u, w = entry(s, r, i, j) / a, entry(s, r, i, k) / a
    ajj, ajk, akk = (
        entry(s, r, j, j) - u * entry(s, r, i, j),
        entry(s, r, j, k) - u * entry(s, r, i, k),
        entry(s, r, k, k) - w * entry(s, r, i, k),
    )
    bi, bj, bk = s[r, 6 + i], s[r, 6 + j] - u * s[r, 6 + i], s[r, 6 + k] - w * s[r, 6 + i]
    if akk > ajj:
        j, k, u, w, ajj, akk, bj, bk = k, j, w, u, akk, ajj, bk, bj
    regular = False
    if ajj > floor:
        v = ajk / ajj
        rest = akk - v * ajk
        if rest > floor:
            point[k] = (bk - v * bj) / rest
            regular = True
        point[j] = bj / ajj - v * point[k]
    point[i] = bi / a - u * point[j] - w * point[k]
    return regular


@leaf
def error_at(s, r, x, y, z):
    return (
        x * (s[r, 0] * x + 2.0 * (s[r, 1] * y + s[r, 2] * z - s[r, 6]))
        + y * (s[r, 3] * y + 2.0 * (s[r, 4] * z - s[r, 7]))
        + z * (s[r, 5] * z - 2.0 * s[r, 8])
    )


@leaf
def face_minimum(s, r, box, axis, value, best, point):
    """Minimum over one face of the box; writes `point` and returns its error where it beats `best`."""
    u, w = (axis + 1) % 3, (axis + 2) % 3
    auu, auw, aww = entry(s, r, u, u), entry(s, r, u, w), entry(s, r, w, w)
    bu, bw = s[r, 6 + u] - entry(s, r, axis, u) * value, s[r, 6 + w] - entry(s, r, axis, w) * value
    determinant = auu * aww - auw * auw
    if determinant > SINGULAR * auu * aww:
        pu, pw = (bu * aww - bw * auw) / determinant, (bw * auu - bu * auw) / determinant
        if 0.0 <= pu <= box[u] and 0.0 <= pw <= box[w]:
            return take(s, r, axis, value, pu, pw, best, point)
    for side in range(2):
        pu = box[u] * side
        pw = min(max((bw - auw * pu) / aww, 0.0), box[w]) if aww > 0.0 else 0.0
        best = take(s, r, axis, value, pu, pw, best, point)
        pw = box[w] * side
        pu = min(max((bu - auw * pw) / auu, 0.0), box[u]) if auu > 0.0 else 0.0
        best = take(s, r, axis, value, pu, pw, best, point)
    return best


@leaf
def take(s, r, axis, value, pu, pw, best, point):
    x, y, z = (value, pu, pw) if axis == 0 else ((pw, value, pu) if axis == 1 else (pu, pw, value))
    error = error_at(s, r, x, y, z)
    if error < best:
        point[0], point[1], point[2] = x, y, z
        return error
    return best
