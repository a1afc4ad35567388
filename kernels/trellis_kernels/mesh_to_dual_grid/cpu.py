"""Mesh to dual grid on the CPU: slabs of the grid, each worked through in the processor's cache, any number at once.

All sums are float64 and relative to the voxel's own corner, so the result does not lose precision at large grids, and
a voxel's terms are added in the order of the triangles whatever the slabs, so the result does not depend on `workers`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit

from trellis_kernels.leaf import inlined, leaf
from trellis_kernels.mesh_to_dual_grid.cpu_overlap import overlap_room, overlapped, planes_of
from trellis_kernels.mesh_to_dual_grid.cpu_slab import (
    activate,
    bin_triangles,
    corner_offset,
    count_ranks,
    gather_corners,
    list_voxels,
    row_of,
    scan_slab,
)
from trellis_kernels.mesh_to_dual_grid.cpu_solve import solve_in_box

SLAB_BYTES = 2 << 20  # bit map of a slab: stays in the cache
SLAB_FACES = 1 << 15  # of a slab where they lie evenly: what is known of each triangle stays in the cache
LEAST_SLICES = 8  # thinner slabs would share most small triangles with their neighbours


def slab_slices(n: np.ndarray, faces: int) -> int:
    """x-slices of a slab for a grid of n = (nx, ny, nz) cells and a mesh of so many faces."""
    by_bits = SLAB_BYTES // (int(n[1]) * ((int(n[2]) + 63) // 64) * 8)
    by_faces = max(int(n[0]) * SLAB_FACES // max(faces, 1), LEAST_SLICES)
    return min(max(min(by_bits, by_faces), 1), int(n[0]))


def mesh_to_dual_grid(
    vertices: np.ndarray,
    faces: np.ndarray,
    step: np.ndarray,
    cells: np.ndarray,
    weights: tuple[float, float, float],
    *,
    weld: bool,
    workers: int,
    check: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates int32 [M, 3], local dual vertices float32 [M, 3] and crossings bool [M, 3] in lexicographic order.

    vertices: float32 [V, 3] relative to the grid's corner; faces: int32 [F, 3]; step: float32 [3]; cells: int64 [3];
    weights: of the face, boundary and regularisation terms.
    """
    slices = slab_slices(cells, len(faces))
    slabs = -(-int(cells[0]) // slices)
    starts, triangles = bin_triangles(vertices, faces, step, cells, slices)
    labels = weld_labels(vertices) if weld else np.arange(len(vertices), dtype=np.int32)
    edges = boundary_edges(labels, faces) if weights[1] > 0 else np.empty((0, 2), np.int32)

    def work(slab: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        check()
        x0 = slab * slices
        mine = triangles[starts[slab] : starts[slab + 1]]
        return dual_slab(vertices, faces, mine, edges, step, cells, x0, min(x0 + slices, int(cells[0])), *weights)

    occupied = [slab for slab in range(slabs) if starts[slab] < starts[slab + 1]]
    if workers > 1 and len(occupied) > 1:
        with ThreadPoolExecutor(workers) as pool:
            parts = list(pool.map(work, occupied))
    else:
        parts = [work(slab) for slab in occupied]
    if not parts:
        return np.empty((0, 3), np.int32), np.empty((0, 3), np.float32), np.empty((0, 3), np.bool_)
    coords, dual, crossed = (np.concatenate([part[k] for part in parts]) for k in range(3))
    return coords, dual, crossed


@njit(cache=True, nogil=True)
def weld_labels(vertices):
    """For each vertex the smallest index of a vertex at exactly the same position, int32 [V]."""
    count = vertices.shape[0]
    size = 16
    while size < 2 * count:
        size *= 2
    table = np.full(size, -1, np.int32)
    labels = np.empty(count, np.int32)
    bits = (vertices + np.float32(0.0)).view(np.uint32)  # + 0 makes -0 and 0 one position
    for v in range(count):
        key = np.uint64(bits[v, 0]) * np.uint64(0x9E3779B97F4A7C15)
        key = (key ^ (key >> np.uint64(29)) ^ np.uint64(bits[v, 1])) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(32)) ^ np.uint64(bits[v, 2])) * np.uint64(0x94D049BB133111EB)
        at = np.int64((key ^ (key >> np.uint64(31))) & np.uint64(size - 1))
        while True:
            other = table[at]
            if other < 0:
                table[at] = v
                labels[v] = v
                break
            if bits[other, 0] == bits[v, 0] and bits[other, 1] == bits[v, 1] and bits[other, 2] == bits[v, 2]:
                labels[v] = other
                break
            at = (at + 1) & (size - 1)
    return labels


@njit(cache=True, nogil=True)
def boundary_edges(labels, faces):
    """Undirected edges used by exactly one face, int32 [E, 2] (smaller index first), sorted."""
    count = labels.shape[0]
    starts = np.zeros(count + 1, np.int64)
    for t in range(faces.shape[0]):
        for e in range(3):
            starts[min(labels[faces[t, e]], labels[faces[t, (e + 1) % 3]]) + 1] += 1
    for v in range(count):
        starts[v + 1] += starts[v]
    fill = starts[:-1].copy()
    ends = np.empty(starts[count], np.int32)
    for t in range(faces.shape[0]):
        for e in range(3):
            a, b = labels[faces[t, e]], labels[faces[t, (e + 1) % 3]]
            low, high = min(a, b), max(a, b)
            ends[fill[low]] = high
            fill[low] += 1
    found = np.empty((ends.shape[0], 2), np.int32)
    total = 0
    for v in range(count):
        first, stop = starts[v], starts[v + 1]
        sort_range(ends, first, stop)
        for k in range(first, stop):
            if (k == first or ends[k - 1] != ends[k]) and (k + 1 == stop or ends[k + 1] != ends[k]):
                found[total, 0], found[total, 1] = v, ends[k]
                total += 1
    return found[:total]


@leaf
def sort_range(values, first, stop):
    """Sort values[first:stop] in place (Shell 1959; mostly half a dozen, which one round of insertions sorts)."""
    gap = 1
    while 3 * gap + 1 < stop - first and stop - first > 32:
        gap = 3 * gap + 1
    while gap > 0:
        for k in range(first + gap, stop):
            value, at = values[k], k
            while at >= first + gap and values[at - gap] > value:
                values[at] = values[at - gap]
                at -= gap
            values[at] = value
        gap //= 3


@njit(cache=True, nogil=True)
def dual_slab(vertices, faces, triangles, edges, h, n, x0, x1, face_weight, boundary_weight, regularization):
    """One slab: (coords int32 [m, 3], local dual float32 [m, 3], crossed bool [m, 3])."""
    ny, wz = n[1], (n[2] + 63) >> 6
    bits = np.zeros((x1 - x0) * ny * wz, np.uint64)
    ranks = np.empty(bits.shape[0], np.int32)
    corners = gather_corners(vertices, faces, triangles)
    planes = planes_of(corners)
    hits, depths, ends = scan_slab(corners, h, n, x0, x1)
    for axis in range(3):
        begin, end = ends[axis * triangles.shape[0]], ends[(axis + 1) * triangles.shape[0]]
        activate(hits, begin, end, axis, ny, wz, x0, x1, bits)
    total = count_ranks(bits, ranks)
    coords = np.empty((total, 3), np.int32)
    list_voxels(bits, ny, wz, x0, coords)
    crossed = np.zeros((total, 3), np.bool_)
    sums = np.zeros((total, 9), np.float64)
    for axis in range(3):
        begin, end = ends[axis * triangles.shape[0]], ends[(axis + 1) * triangles.shape[0]]
        add_hits(hits, depths, begin, end, axis, planes, h, ny, wz, x0, x1, bits, ranks, regularization, sums, crossed)
    if face_weight > 0.0:
        add_faces(corners, planes, h, n, x0, x1, bits, ranks, face_weight, sums)
    for e in range(edges.shape[0]):
        add_boundary(vertices, edges[e, 0], edges[e, 1], h, n, x0, x1, bits, ranks, boundary_weight, sums)
    dual = np.empty((total, 3), np.float32)
    box, point = np.empty(3, np.float64), np.empty(3, np.float64)
    for a in range(3):
        box[a] = h[a]
    for row in range(total):
        solve_in_box(sums, row, box, point)
        for a in range(3):
            dual[row, a] = point[a] / box[a]
    return coords, dual, crossed


@inlined
def add_plane(sums, row, planes, k, h, x, y, z, weight):
    """Add weight * (n . (p - v0))^2, p relative to the voxel's corner: A += w n n^T, b += w n (n . (v0 - corner))."""
    p, q, r = planes[k, 0], planes[k, 1], planes[k, 2]
    distance = weight * (
        planes[k, 3] - (p * (h[0] * np.float64(x)) + q * (h[1] * np.float64(y)) + r * (h[2] * np.float64(z)))
    )
    sums[row, 0] += weight * p * p
    sums[row, 1] += weight * p * q
    sums[row, 2] += weight * p * r
    sums[row, 3] += weight * q * q
    sums[row, 4] += weight * q * r
    sums[row, 5] += weight * r * r
    sums[row, 6] += p * distance
    sums[row, 7] += q * distance
    sums[row, 8] += r * distance


@leaf
def add_hits(hits, depths, begin, end, axis, planes, h, ny, wz, x0, x1, bits, ranks, regularization, sums, crossed):
    """Intersection and regularisation terms of crossings along one axis, for the four voxels around each edge."""
    for hit in range(begin, end):
        t = hits[hit, 3]
        depth = depths[hit] - h[axis] * np.float64(hits[hit, axis])
        for corner in range(4):
            dx, dy, dz = corner_offset(axis, corner)
            x, y, z = hits[hit, 0] + dx, hits[hit, 1] + dy, hits[hit, 2] + dz
            if x < x0 or x >= x1:
                continue
            row = row_of(bits, ranks, ny, wz, x - x0, y, z)
            if corner == 0:
                crossed[row, axis] = True
            add_plane(sums, row, planes, t, h, x, y, z, 1.0)
            sums[row, 0] += regularization
            sums[row, 3] += regularization
            sums[row, 5] += regularization
            sums[row, 6] += regularization * (depth if axis == 0 else np.float64(h[0]) * (1 - dx))
            sums[row, 7] += regularization * (depth if axis == 1 else np.float64(h[1]) * (1 - dy))
            sums[row, 8] += regularization * (depth if axis == 2 else np.float64(h[2]) * (1 - dz))


@njit(cache=True, nogil=True)
def add_faces(corners, planes, h, n, x0, x1, bits, ranks, weight, sums):
    """The planes of all triangles, for the voxels that they meet."""
    room = overlap_room(h, n)
    cells, rows = np.empty((sums.shape[0], 3), np.int32), np.empty(sums.shape[0], np.int32)
    for k in range(corners.shape[0]):
        count = overlapped(corners, planes, k, h, n, x0, x1, bits, ranks, room, cells, rows)
        for c in range(count):
            add_plane(sums, rows[c], planes, k, h, cells[c, 0], cells[c, 1], cells[c, 2], weight)


@leaf
def add_boundary(vertices, i0, i1, h, n, x0, x1, bits, ranks, weight, sums):
    """Distance to the line of a boundary edge, for the active voxels that the edge passes (3-D DDA)."""
    dx = np.float64(vertices[i1, 0]) - vertices[i0, 0]
    dy = np.float64(vertices[i1, 1]) - vertices[i0, 1]
    dz = np.float64(vertices[i1, 2]) - vertices[i0, 2]
    length = np.sqrt(dx * dx + dy * dy + dz * dz)
    low, high = min(vertices[i0, 0], vertices[i1, 0]) / h[0], max(vertices[i0, 0], vertices[i1, 0]) / h[0]
    if length < 1e-6 or high < x0 - 1 or low > x1 + 1:
        return
    d = (dx / length, dy / length, dz / length)
    x, tx, stepx, sx = dda_axis(vertices[i0, 0], d[0], h[0])
    y, ty, stepy, sy = dda_axis(vertices[i0, 1], d[1], h[1])
    z, tz, stepz, sz = dda_axis(vertices[i0, 2], d[2], h[2])
    ny, wz = n[1], (n[2] + 63) >> 6
    while True:
        if x0 <= x < x1 and 0 <= y < n[1] and 0 <= z < n[2]:
            row = row_of(bits, ranks, ny, wz, x - x0, y, z)
            if row >= 0:
                add_line(sums, row, vertices, i0, d, h, x, y, z, weight)
        axis = (0 if tx < tz else 2) if tx < ty else (1 if ty < tz else 2)
        if (tx if axis == 0 else (ty if axis == 1 else tz)) > length:
            return
        if axis == 0:
            x, tx = x + sx, tx + stepx
        elif axis == 1:
            y, ty = y + sy, ty + stepy
        else:
            z, tz = z + sz, tz + stepz


@leaf
def dda_axis(start, direction, step):
    """(first cell, parameter of the first crossing, parameter step, +1 or -1) along one axis."""
    cell = int(np.floor(np.float64(start) / step))
    if direction > 0.0:
        return cell, ((cell + 1) * np.float64(step) - start) / direction, step / direction, 1
    if direction < 0.0:
        return cell, (cell * np.float64(step) - start) / direction, -step / direction, -1
    return cell, np.inf, np.inf, 1


@leaf
def add_line(sums, row, vertices, i0, d, h, x, y, z, weight):
    """Add weight * squared distance to the line through vertex i0 along d: A += w (I - d d^T), b += A (v0 - corner)."""
    px = vertices[i0, 0] - h[0] * np.float64(x)
    py = vertices[i0, 1] - h[1] * np.float64(y)
    pz = vertices[i0, 2] - h[2] * np.float64(z)
    along = d[0] * px + d[1] * py + d[2] * pz
    sums[row, 0] += weight * (1.0 - d[0] * d[0])
    sums[row, 1] -= weight * d[0] * d[1]
    sums[row, 2] -= weight * d[0] * d[2]
    sums[row, 3] += weight * (1.0 - d[1] * d[1])
    sums[row, 4] -= weight * d[1] * d[2]
    sums[row, 5] += weight * (1.0 - d[2] * d[2])
    sums[row, 6] += weight * (px - along * d[0])
    sums[row, 7] += weight * (py - along * d[1])
    sums[row, 8] += weight * (pz - along * d[2])
