"""Attributes of voxels from a mesh on the CPU: every triangle visits the active voxels it passes through.

A voxel's value is the mean over those triangles of the value at the triangle's point closest to the voxel's centre,
with weight 1 - distance in voxels. Points are clamped to the triangle, so nothing is extrapolated.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numba import njit

from trellis_kernels.leaf import leaf
from trellis_kernels.mesh_attributes.surface import PaintedMesh
from trellis_kernels.mesh_to_dual_grid.cpu import slab_slices
from trellis_kernels.mesh_to_dual_grid.cpu_slab import (
    bin_triangles,
    corner_offset,
    index_voxels,
    overlapped,
    plane_of,
    row_of,
    scan_slab,
)

LEAST_WEIGHT = 1e-3


def slab_parts(
    vertices: np.ndarray, faces: np.ndarray, coords: np.ndarray, step: np.ndarray, cells: np.ndarray
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """For each slab that holds voxels: its x-slices x0 <= x < x1, the triangles near it, its voxels.

    vertices: float32 [V, 3] relative to the grid's corner; coords: int32 [M, 3] in lexicographic order.
    """
    slices = slab_slices(cells)
    slabs = -(-int(cells[0]) // slices)
    starts, triangles = bin_triangles(vertices, faces, np.float64(step[0]), slices, slabs)
    rows = np.searchsorted(coords[:, 0], np.arange(slabs + 1) * slices)
    for slab in range(slabs):
        if rows[slab] < rows[slab + 1]:
            x0, near = slab * slices, triangles[starts[slab] : starts[slab + 1]]
            yield x0, min(x0 + slices, int(cells[0])), near, coords[rows[slab] : rows[slab + 1]]


def flat_attributes(mesh: PaintedMesh, coords: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """uint8 [M, 6] (base colour, metallic, roughness, alpha) of voxels coords int32 [M, 3] in lexicographic order.

    mesh: vertices in voxels.
    """
    step, paint = np.ones(3, np.float32), (mesh.corner_rgba, mesh.metal_rough)
    parts = [np.empty((0, 6), np.uint8)]
    for x0, x1, near, mine in slab_parts(mesh.vertices, mesh.faces, coords, step, cells):
        parts.append(flat_slab(mesh.vertices, mesh.faces, near, *paint, mine, step, cells, x0, x1))
    return np.concatenate(parts)


@njit(cache=True, nogil=True)
def flat_slab(vertices, faces, triangles, corner_rgba, metal_rough, coords, h, n, x0, x1):
    total, (bits, ranks) = coords.shape[0], index_voxels(coords, n[1], (n[2] + 63) >> 6, x0, x1)
    sums = np.zeros((total, 7), np.float64)
    plane, tests, share = np.empty(4, np.float64), np.empty((3, 3, 3), np.float64), np.empty(3, np.float64)
    cells, rows, sides = np.empty((total, 3), np.int32), np.empty(total, np.int32), np.empty(12, np.float64)
    for k in range(triangles.shape[0]):
        t = triangles[k]
        i0, i1, i2 = faces[t, 0], faces[t, 1], faces[t, 2]
        plane_of(vertices, i0, i1, i2, plane)
        count = overlapped(vertices, i0, i1, i2, plane, h, n, x0, x1, bits, ranks, tests, cells, rows)
        sides_of(vertices, i0, i1, i2, sides)
        for c in range(count):
            x, y, z = cells[c, 0], cells[c, 1], cells[c, 2]
            add_flat(sides, t, corner_rgba, metal_rough, x, y, z, rows[c], share, sums)
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
    empty, sides = sums[:, 6] == 0.0, np.empty(12, np.float64)
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
                    sides_of(vertices, faces[t, 0], faces[t, 1], faces[t, 2], sides)
                    add_flat(sides, t, corner_rgba, metal_rough, x, y, z, row, share, sums)
        begin = ends[k]


@leaf
def add_flat(sides, t, corner_rgba, metal_rough, x, y, z, row, share, sums):
    distance = closest_point(sides, x + 0.5, y + 0.5, z + 0.5, share)
    weight = max(1.0 - distance, LEAST_WEIGHT)
    for c in range(4):
        value = share[0] * corner_rgba[t, 0, c] + share[1] * corner_rgba[t, 1, c] + share[2] * corner_rgba[t, 2, c]
        sums[row, 5 if c == 3 else c] += weight * value
    sums[row, 3] += weight * metal_rough[t, 0]
    sums[row, 4] += weight * metal_rough[t, 1]
    sums[row, 6] += weight


@leaf
def sides_of(vertices, i0, i1, i2, sides):
    """What the points of a triangle are found with, float64 [12]: corner 0, two sides from it, their dot products."""
    for k in range(3):
        sides[k] = np.float64(vertices[i0, k])
        sides[3 + k] = np.float64(vertices[i1, k]) - vertices[i0, k]
        sides[6 + k] = np.float64(vertices[i2, k]) - vertices[i0, k]
    sides[9] = sides[3] * sides[3] + sides[4] * sides[4] + sides[5] * sides[5]
    sides[10] = sides[3] * sides[6] + sides[4] * sides[7] + sides[5] * sides[8]
    sides[11] = sides[6] * sides[6] + sides[7] * sides[7] + sides[8] * sides[8]


@leaf
def closest_point(sides, x, y, z, share):
    """Barycentric coordinates of a triangle's point closest to (x, y, z), and its distance (Ericson 2005, 5.1.5)."""
    px, py, pz = x - sides[0], y - sides[1], z - sides[2]
    uu, uw, ww = sides[9], sides[10], sides[11]
    d1 = sides[3] * px + sides[4] * py + sides[5] * pz
    d2 = sides[6] * px + sides[7] * py + sides[8] * pz
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
        scale = 1.0 / (va + vb + vc)
        b, c = vb * scale, vc * scale
    share[0], share[1], share[2] = 1.0 - b - c, b, c
    px -= b * sides[3] + c * sides[6]
    py -= b * sides[4] + c * sides[7]
    pz -= b * sides[5] + c * sides[8]
    return np.sqrt(px * px + py * py + pz * pz)
