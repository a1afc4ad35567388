"""Attributes of voxels from a mesh on the CPU: every triangle visits the active voxels it passes through.

A voxel's value is the mean over those triangles of the value at the triangle's point closest to the voxel's centre,
with weight 1 - distance in voxels. Points are clamped to the triangle, so nothing is extrapolated.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trellis_kernels.mesh_to_dual_grid.cpu import slab_slices
from trellis_kernels.mesh_to_dual_grid.cpu_slab import (
    bin_triangles,
    corner_offset,
    count_ranks,
    overlapped,
    plane_of,
    row_of,
    scan_slab,
    set_bit,
)

LEAST_WEIGHT = 1e-3


def flat_attributes(
    vertices: np.ndarray,
    faces: np.ndarray,
    corner_rgba: np.ndarray,
    metal_rough: np.ndarray,
    coords: np.ndarray,
    cells: np.ndarray,
) -> np.ndarray:
    """uint8 [M, 6] (base colour, metallic, roughness, alpha) of voxels coords int32 [M, 3] in lexicographic order.

    vertices: float32 [V, 3] in voxels; faces: int32 [F, 3]; corner_rgba: uint8 [F, 3, 4]; metal_rough: uint8 [F, 2].
    """
    step = np.ones(3, np.float32)
    slices = slab_slices(cells)
    slabs = -(-int(cells[0]) // slices)
    starts, triangles = bin_triangles(vertices, faces, 1.0, slices, slabs)
    rows = np.searchsorted(coords[:, 0], np.arange(slabs + 1) * slices)
    parts = [np.empty((0, 6), np.uint8)]
    for slab in range(slabs):
        mine = coords[rows[slab] : rows[slab + 1]]
        if len(mine):
            x0, near = slab * slices, triangles[starts[slab] : starts[slab + 1]]
            x1 = min(x0 + slices, int(cells[0]))
            parts.append(flat_slab(vertices, faces, near, corner_rgba, metal_rough, mine, step, cells, x0, x1))
    return np.concatenate(parts)


@njit(cache=True, nogil=True)
def flat_slab(vertices, faces, triangles, corner_rgba, metal_rough, coords, h, n, x0, x1):
    ny, wz = n[1], (n[2] + 63) >> 6
    bits = np.zeros((x1 - x0) * ny * wz, np.uint64)
    for row in range(coords.shape[0]):
        set_bit(bits, ny, wz, coords[row, 0] - x0, coords[row, 1], coords[row, 2])
    ranks = np.empty(bits.shape[0], np.int32)
    total = count_ranks(bits, ranks)
    sums = np.zeros((total, 7), np.float64)
    plane, tests, share = np.empty(4, np.float64), np.empty((3, 3, 3), np.float64), np.empty(3, np.float64)
    cells, rows = np.empty((total, 3), np.int32), np.empty(total, np.int32)
    for k in range(triangles.shape[0]):
        t = triangles[k]
        i0, i1, i2 = faces[t, 0], faces[t, 1], faces[t, 2]
        plane_of(vertices, i0, i1, i2, plane)
        count = overlapped(vertices, i0, i1, i2, plane, h, n, x0, x1, bits, ranks, tests, cells, rows)
        for c in range(count):
            x, y, z = cells[c, 0], cells[c, 1], cells[c, 2]
            add_flat(vertices, i0, i1, i2, t, corner_rgba, metal_rough, x, y, z, rows[c], share, sums)
    for row in range(total):
        if sums[row, 6] == 0.0:
            add_crossings(vertices, faces, triangles, corner_rgba, metal_rough, h, n, x0, x1, bits, ranks, share, sums)
            break
    values = np.empty((total, 6), np.uint8)
    for row in range(total):
        weight = sums[row, 6]
        for c in range(6):
            grey = 255 if c == 5 else 128
            values[row, c] = np.uint8(sums[row, c] / weight + 0.5) if weight > 0.0 else grey
    return values


@njit(cache=True, nogil=True)
def add_crossings(vertices, faces, triangles, corner_rgba, metal_rough, h, n, x0, x1, bits, ranks, share, sums):
    """Give voxels that rounding left without a triangle those that cross one of their edges."""
    empty = sums[:, 6] == 0.0
    hits, _, ends = scan_slab(vertices, faces, triangles, h, n, x0, x1)
    begin = np.int64(0)
    for k in range(triangles.shape[0]):
        t = triangles[k]
        for hit in range(begin, ends[k]):
            for corner in range(4):
                dx, dy, dz = corner_offset(hits[hit, 3], corner)
                x, y, z = hits[hit, 0] + dx, hits[hit, 1] + dy, hits[hit, 2] + dz
                if x < x0 or x >= x1:
                    continue
                row = row_of(bits, ranks, n[1], (n[2] + 63) >> 6, x - x0, y, z)
                if row >= 0 and empty[row]:
                    i0, i1, i2 = faces[t, 0], faces[t, 1], faces[t, 2]
                    add_flat(vertices, i0, i1, i2, t, corner_rgba, metal_rough, x, y, z, row, share, sums)
        begin = ends[k]


@njit(cache=True, nogil=True)
def add_flat(vertices, i0, i1, i2, t, corner_rgba, metal_rough, x, y, z, row, share, sums):
    distance = closest_point(vertices, i0, i1, i2, x + 0.5, y + 0.5, z + 0.5, share)
    weight = max(1.0 - distance, LEAST_WEIGHT)
    for c in range(4):
        value = share[0] * corner_rgba[t, 0, c] + share[1] * corner_rgba[t, 1, c] + share[2] * corner_rgba[t, 2, c]
        sums[row, 5 if c == 3 else c] += weight * value
    sums[row, 3] += weight * metal_rough[t, 0]
    sums[row, 4] += weight * metal_rough[t, 1]
    sums[row, 6] += weight


@njit(cache=True, nogil=True)
def closest_point(vertices, i0, i1, i2, x, y, z, share):
    """Barycentric coordinates of a triangle's point closest to (x, y, z), and its distance (Ericson 2005, 5.1.5)."""
    ux = np.float64(vertices[i1, 0]) - vertices[i0, 0]
    uy = np.float64(vertices[i1, 1]) - vertices[i0, 1]
    uz = np.float64(vertices[i1, 2]) - vertices[i0, 2]
    wx = np.float64(vertices[i2, 0]) - vertices[i0, 0]
    wy = np.float64(vertices[i2, 1]) - vertices[i0, 1]
    wz = np.float64(vertices[i2, 2]) - vertices[i0, 2]
    px, py, pz = x - vertices[i0, 0], y - vertices[i0, 1], z - vertices[i0, 2]
    uu, uw, ww = ux * ux + uy * uy + uz * uz, ux * wx + uy * wy + uz * wz, wx * wx + wy * wy + wz * wz
    d1, d2 = ux * px + uy * py + uz * pz, wx * px + wy * py + wz * pz
    d3, d4 = d1 - uu, d2 - uw
    d5, d6 = d1 - uw, d2 - ww
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    if d1 <= 0.0 and d2 <= 0.0:
        b, c = 0.0, 0.0
    elif d3 >= 0.0 and d4 <= d3:
        b, c = 1.0, 0.0
    elif d6 >= 0.0 and d5 <= d6:
        b, c = 0.0, 1.0
    elif vc <= 0.0 and d1 >= 0.0 and d3 <= 0.0:
        b, c = d1 / (d1 - d3), 0.0
    elif vb <= 0.0 and d2 >= 0.0 and d6 <= 0.0:
        b, c = 0.0, d2 / (d2 - d6)
    elif va <= 0.0:
        c = (d4 - d3) / ((d4 - d3) + (d5 - d6))
        b = 1.0 - c
    else:
        b, c = vb / (va + vb + vc), vc / (va + vb + vc)
    share[0], share[1], share[2] = 1.0 - b - c, b, c
    px, py, pz = px - b * ux - c * wx, py - b * uy - c * wy, pz - b * uz - c * wz
    return np.sqrt(px * px + py * py + pz * pz)
