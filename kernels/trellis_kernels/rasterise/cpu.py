"""Rasteriser for CPUs (numba): triangles are set up once, then bands of rows are filled in parallel.

Bands write disjoint rows and the winner of a pixel does not depend on the order of triangles, so the result is
the same for any number of threads. `rasterise_serial` is the same on one thread without the GIL, for workers.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from numba import njit, prange

SUBPIXEL = 4096  # snapping steps a pixel
GUARD = 2.0  # triangles are clipped where |x| or |y| exceeds this many w
_MAX_CLIPPED = 6  # triangles left of one clipped by five planes (eight corners)


@njit(cache=True, nogil=True, inline="never")
def _write(xy, zw, out, corners, size):
    """Snap three corners (x, y, z, w) to the screen grid; False if no pixel centre can be covered."""
    for k in range(3):
        w = 1.0 / corners[k, 3]
        xy[out, 2 * k] = np.int64(np.rint((corners[k, 0] * w * 0.5 + 0.5) * size[1] * SUBPIXEL))
        xy[out, 2 * k + 1] = np.int64(np.rint((corners[k, 1] * w * 0.5 + 0.5) * size[0] * SUBPIXEL))
        zw[out, k] = corners[k, 2] * w
        zw[out, 3 + k] = w
    low_x = min(xy[out, 0], xy[out, 2], xy[out, 4])
    low_y = min(xy[out, 1], xy[out, 3], xy[out, 5])
    high_x = max(xy[out, 0], xy[out, 2], xy[out, 4])
    high_y = max(xy[out, 1], xy[out, 3], xy[out, 5])
    half = SUBPIXEL // 2
    first = max((low_x + half - 1) // SUBPIXEL, 0), max((low_y + half - 1) // SUBPIXEL, 0)
    last = min((high_x - half) // SUBPIXEL, size[1] - 1), min((high_y - half) // SUBPIXEL, size[0] - 1)
    return first[0] <= last[0] and first[1] <= last[1]


@njit(cache=True, nogil=True)
def _setup(clip, faces, first, last, size, xy, zw, state):
    """Project faces first..last: state 1 drawn, 0 not, 2 to be clipped."""
    corners = np.empty((3, 4), np.float64)
    for f in range(first, last):
        near = guard = outside_left = outside_right = outside_top = outside_bottom = 0
        finite = True
        for k in range(3):
            for axis in range(4):
                value = np.float64(clip[faces[f, k], axis])
                corners[k, axis] = value
                finite = finite and np.isfinite(value)
            x, y, z, w = corners[k, 0], corners[k, 1], corners[k, 2], corners[k, 3]
            near += z < -w or w <= 0.0
            outside_left += x < -w
            outside_right += x > w
            outside_top += y < -w
            outside_bottom += y > w
            guard += abs(x) > GUARD * w or abs(y) > GUARD * w
        if (
            not finite
            or near == 3
            or outside_left == 3
            or outside_right == 3
            or outside_top == 3
            or outside_bottom == 3
        ):
            state[f] = 0
        elif near > 0 or guard > 0:
            state[f] = 2
        else:
            state[f] = 1 if _write(xy, zw, f, corners, size) else 0


@njit(cache=True, parallel=True)
def _setup_parallel(clip, faces, size, xy, zw, state):
    chunk = 4096
    for c in prange((len(faces) + chunk - 1) // chunk):
        _setup(clip, faces, c * chunk, min((c + 1) * chunk, len(faces)), size, xy, zw, state)


@njit(cache=True, nogil=True)
def _clip_polygon(corners, polygon, spare):
    """Cut a triangle (rows x y z w and three weights) at near plane and guard band; returns the corner count."""
    count = 3
    polygon[:3] = corners
    for plane in range(5):
        kept = 0
        for k in range(count):
            a, b = polygon[k], polygon[(k + 1) % count]
            if plane == 0:
                da, db = a[2] + a[3], b[2] + b[3]
            else:
                axis, sign = (plane - 1) // 2, 1.0 if plane % 2 else -1.0
                da, db = GUARD * a[3] + sign * a[axis], GUARD * b[3] + sign * b[axis]
            if da >= 0.0:
                spare[kept] = a
                kept += 1
            if (da >= 0.0) != (db >= 0.0):
                spare[kept] = a + (b - a) * (da / (da - db))
                kept += 1
        count = kept
        polygon[:count] = spare[:count]
    return count


@njit(cache=True, nogil=True)
def _clip_faces(clip, faces, which, size, xy, zw, owner, weights):
    """Triangles of the faces that cross the near plane or the guard band; returns how many were written."""
    written = 0
    corners, polygon, spare = np.zeros((3, 7)), np.zeros((9, 7)), np.zeros((9, 7))
    triangle = np.empty((3, 4))
    for f in which:
        for k in range(3):
            corners[k, :4] = clip[faces[f, k]]
            corners[k, 4:] = 0.0
            corners[k, 4 + k] = 1.0
        count = _clip_polygon(corners, polygon, spare)
        for j in range(1, count - 1):
            fan = (0, j, j + 1)
            usable = True
            for k in range(3):
                triangle[k] = polygon[fan[k], :4]
                usable = usable and triangle[k, 3] > 1e-12
            if usable and _write(xy, zw, written, triangle, size):
                owner[written] = f
                for k in range(3):
                    weights[written, k] = polygon[fan[k], 4:]
                written += 1
    return written


@njit(cache=True, nogil=True)
def _fill(xy, zw, owner, weights, rows, behind_face, behind_depth, face, barycentric, depth):
    """Draw triangles into rows rows[0]..rows[1]; owner < 0 skips a triangle; weights is empty for whole faces."""
    half, width = SUBPIXEL // 2, face.shape[1]
    peel, whole = behind_face.shape[0] > 0, weights.shape[0] == 0
    for t in range(len(owner)):
        f = owner[t]
        if f < 0:
            continue
        low_y = min(xy[t, 1], xy[t, 3], xy[t, 5])
        high_y = max(xy[t, 1], xy[t, 3], xy[t, 5])
        top, bottom = max((low_y + half - 1) // SUBPIXEL, rows[0]), min((high_y - half) // SUBPIXEL, rows[1] - 1)
        if top > bottom:
            continue
        low_x = min(xy[t, 0], xy[t, 2], xy[t, 4])
        high_x = max(xy[t, 0], xy[t, 2], xy[t, 4])
        left, right = max((low_x + half - 1) // SUBPIXEL, 0), min((high_x - half) // SUBPIXEL, width - 1)
        i, j = 1, 2
        area = (xy[t, 2] - xy[t, 0]) * (xy[t, 5] - xy[t, 1]) - (xy[t, 3] - xy[t, 1]) * (xy[t, 4] - xy[t, 0])
        if area == 0 or left > right:
            continue
        if area < 0:
            i, j, area = 2, 1, -area
        x0, y0 = xy[t, 0], xy[t, 1]
        x1, y1 = xy[t, 2 * i], xy[t, 2 * i + 1]
        x2, y2 = xy[t, 2 * j], xy[t, 2 * j + 1]
        dx0, dy0, dx1, dy1, dx2, dy2 = x2 - x1, y2 - y1, x0 - x2, y0 - y2, x1 - x0, y1 - y0
        bias0 = 0 if dy0 < 0 or (dy0 == 0 and dx0 > 0) else -1
        bias1 = 0 if dy1 < 0 or (dy1 == 0 and dx1 > 0) else -1
        bias2 = 0 if dy2 < 0 or (dy2 == 0 and dx2 > 0) else -1
        scale = 1.0 / area
        z0, z1, z2 = zw[t, 0], zw[t, i], zw[t, j]
        q0, q1, q2 = zw[t, 3], zw[t, 3 + i], zw[t, 3 + j]
        px, step = left * SUBPIXEL + half, np.int64(SUBPIXEL)
        for row in range(top, bottom + 1):
            py = row * SUBPIXEL + half
            e0 = dx0 * (py - y1) - dy0 * (px - x1)
            e1 = dx1 * (py - y2) - dy1 * (px - x2)
            e2 = dx2 * (py - y0) - dy2 * (px - x0)
            for column in range(left, right + 1):
                if (e0 + bias0 >= 0) and (e1 + bias1 >= 0) and (e2 + bias2 >= 0):
                    l0, l1, l2 = e0 * scale, e1 * scale, e2 * scale
                    z = np.float32(l0 * z0 + l1 * z1 + l2 * z2)
                    best = depth[row, column]
                    if z < best or (z == best and f < face[row, column]):
                        visible = True
                        if peel:
                            last = behind_depth[row, column]
                            visible = z > last or (z == last and f > behind_face[row, column])
                        if visible:
                            l0, l1, l2 = l0 * q0, l1 * q1, l2 * q2
                            total = 1.0 / (l0 + l1 + l2)
                            l0, l1, l2 = l0 * total, l1 * total, l2 * total
                            if whole:
                                barycentric[row, column, 0] = l0
                                barycentric[row, column, i] = l1
                                barycentric[row, column, j] = l2
                            else:
                                for k in range(3):
                                    mixed = l0 * weights[t, 0, k] + l1 * weights[t, i, k] + l2 * weights[t, j, k]
                                    barycentric[row, column, k] = mixed
                            depth[row, column] = z
                            face[row, column] = f
                e0 -= dy0 * step
                e1 -= dy1 * step
                e2 -= dy2 * step


@njit(cache=True, nogil=True)
def _clear(face, barycentric, depth, rows):
    face[rows[0] : rows[1]] = -1
    barycentric[rows[0] : rows[1]] = 0.0
    depth[rows[0] : rows[1]] = np.inf


@njit(cache=True, parallel=True)
def _fill_parallel(bands, whole, parts, behind_face, behind_depth, face, barycentric, depth):
    height = face.shape[0]
    none = np.zeros((0, 3, 3))
    for band in prange(bands):
        rows = (height * band // bands, height * (band + 1) // bands)
        _clear(face, barycentric, depth, rows)
        _fill(whole[0], whole[1], whole[2], none, rows, behind_face, behind_depth, face, barycentric, depth)
        _fill(parts[0], parts[1], parts[2], parts[3], rows, behind_face, behind_depth, face, barycentric, depth)


@njit(cache=True, nogil=True)
def _owners(state):
    owner = np.empty(len(state), np.int32)
    for f in range(len(state)):
        owner[f] = f if state[f] == 1 else -1
    return owner


@njit(cache=True, nogil=True)
def _clipped(clip, faces, state, size):
    which = np.nonzero(state == 2)[0]
    room = _MAX_CLIPPED * len(which)
    xy, zw = np.empty((room, 6), np.int64), np.empty((room, 6))
    owner, weights = np.empty(room, np.int32), np.empty((room, 3, 3))
    count = _clip_faces(clip, faces, which, size, xy, zw, owner, weights)
    return xy[:count], zw[:count], owner[:count], weights[:count]


@njit(cache=True, nogil=True)
def rasterise_serial(clip, faces, size, behind_face, behind_depth):
    """One picture on the calling thread, GIL released: clip float32 [V, 4], faces int32 [F, 3], size (H, W).

    behind_face int32, behind_depth float32 [H, W], or [0, 0] arrays for the first layer.
    Returns face int32 [H, W], barycentric float32 [H, W, 3], depth float32 [H, W].
    """
    face = np.empty(size, np.int32)
    barycentric = np.empty((size[0], size[1], 3), np.float32)
    depth = np.empty(size, np.float32)
    xy, zw = np.empty((len(faces), 6), np.int64), np.empty((len(faces), 6))
    state = np.empty(len(faces), np.uint8)
    _setup(clip, faces, 0, len(faces), size, xy, zw, state)
    rows = (0, size[0])
    _clear(face, barycentric, depth, rows)
    none = np.zeros((0, 3, 3))
    _fill(xy, zw, _owners(state), none, rows, behind_face, behind_depth, face, barycentric, depth)
    part_xy, part_zw, owner, weights = _clipped(clip, faces, state, size)
    if len(owner):
        _fill(part_xy, part_zw, owner, weights, rows, behind_face, behind_depth, face, barycentric, depth)
    return face, barycentric, depth


def rasterise_parallel(
    clip: np.ndarray, faces: np.ndarray, size: tuple[int, int], behind_face: np.ndarray, behind_depth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `rasterise_serial`, on all of numba's threads."""
    out = np.empty(size, np.int32), np.empty((*size, 3), np.float32), np.empty(size, np.float32)
    _rasterise_into(out, clip, faces, (behind_face, behind_depth))
    return out


def _rasterise_into(
    out: tuple[np.ndarray, np.ndarray, np.ndarray],
    clip: np.ndarray,
    faces: np.ndarray,
    behind: tuple[np.ndarray, np.ndarray],
) -> None:
    size = out[0].shape
    xy, zw = np.empty((len(faces), 6), np.int64), np.empty((len(faces), 6))
    state = np.empty(len(faces), np.uint8)
    _setup_parallel(clip, faces, size, xy, zw, state)
    bands = min(size[0], 4 * numba.get_num_threads())
    parts = _clipped(clip, faces, state, size)
    _fill_parallel(bands, (xy, zw, _owners(state)), parts, *behind, *out)


def rasterise_cpu(
    clip: torch.Tensor,
    faces: torch.Tensor,
    size: tuple[int, int],
    behind: tuple[torch.Tensor, torch.Tensor] | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """clip float32 [B, V, 4], faces int32 [F, 3] -> face [B, H, W], barycentric [B, H, W, 3], depth [B, H, W]."""
    corners = np.ascontiguousarray(clip.detach().numpy())
    index = np.ascontiguousarray(faces.numpy())
    shape = (len(corners), int(size[0]), int(size[1]))
    face, depth = np.empty(shape, np.int32), np.empty(shape, np.float32)
    barycentric = np.empty((*shape, 3), np.float32)
    if behind is None:
        last = np.zeros((len(corners), 0, 0), np.int32), np.zeros((len(corners), 0, 0), np.float32)
    else:
        last = np.ascontiguousarray(behind[0].numpy()), np.ascontiguousarray(behind[1].numpy())
    for b in range(len(corners)):
        _rasterise_into((face[b], barycentric[b], depth[b]), corners[b], index, (last[0][b], last[1][b]))
    return torch.from_numpy(face), torch.from_numpy(barycentric), torch.from_numpy(depth)
