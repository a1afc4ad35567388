"""Attributes of voxels from a mesh on the CPU: every triangle visits the active voxels it passes through.

A voxel's value is the mean over those triangles of the value at the triangle's point closest to the voxel's centre,
with weight 1 - distance in voxels. Points are clamped to the triangle, so nothing is extrapolated.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

import numpy as np
from numba import njit

from trellis_kernels.leaf import inlined, leaf
from trellis_kernels.mesh_attributes.surface import PaintedMesh
from trellis_kernels.mesh_to_dual_grid.cpu import slab_slices
from trellis_kernels.mesh_to_dual_grid.cpu_overlap import overlap_room, overlapped, planes_of
from trellis_kernels.mesh_to_dual_grid.cpu_slab import (
    bin_triangles,
    corner_offset,
    gather_corners,
    index_voxels,
    row_of,
    scan_slab,
)

LEAST_WEIGHT = 1e-3


def slab_parts(
    vertices: np.ndarray, faces: np.ndarray, coords: np.ndarray, step: np.ndarray, cells: np.ndarray
) -> Iterator[tuple[int, int, np.ndarray, slice]]:
    """For each slab that holds voxels: its x-slices x0 <= x < x1, the triangles near it, the rows of its voxels.

    vertices: float32 [V, 3] relative to the grid's corner; coords: int32 [M, 3] in lexicographic order.
    """
    slices = slab_slices(cells, len(faces))
    slabs = -(-int(cells[0]) // slices)
    starts, triangles = bin_triangles(vertices, faces, step, cells, slices)
    rows = [bisect_left(coords[:, 0], slab * slices) for slab in range(slabs + 1)]
    for slab in range(slabs):
        if rows[slab] < rows[slab + 1]:
            x0, near = slab * slices, triangles[starts[slab] : starts[slab + 1]]
            yield x0, min(x0 + slices, int(cells[0])), near, slice(rows[slab], rows[slab + 1])


def flat_attributes(mesh: PaintedMesh, coords: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """uint8 [M, 6] (base colour, metallic, roughness, alpha) of voxels coords int32 [M, 3] in lexicographic order.

    mesh: vertices in voxels.
    """
    step, paint = np.ones(3, np.float32), (mesh.corner_rgba, mesh.metal_rough)
    values = np.empty((len(coords), 6), np.uint8)
    for x0, x1, near, mine in slab_parts(mesh.vertices, mesh.faces, coords, step, cells):
        flat_slab(mesh.vertices, mesh.faces, near, *paint, coords[mine], step, cells, x0, x1, values[mine])
    return values


@njit(cache=True, nogil=True)
def flat_slab(vertices, faces, triangles, corner_rgba, metal_rough, coords, h, n, x0, x1, values):
    total, (bits, ranks) = coords.shape[0], index_voxels(coords, n[1], (n[2] + 63) >> 6, x0, x1)
    sums = np.zeros((total, 7), np.float64)
    corners, room = gather_corners(vertices, faces, triangles), overlap_room(h, n)
    planes, share, sides = planes_of(corners), np.empty(3, np.float64), np.empty(12, np.float64)
    cells, rows = np.empty((total, 3), np.int32), np.empty(total, np.int32)
    for k in range(triangles.shape[0]):
        count = overlapped(corners, planes, k, h, n, x0, x1, bits, ranks, room, cells, rows)
        sides_of(corners, k, sides)
        for c in range(count):
            x, y, z = cells[c, 0], cells[c, 1], cells[c, 2]
            add_flat(sides, triangles[k], corner_rgba, metal_rough, x, y, z, rows[c], share, sums)
    for row in range(total):
        if sums[row, 6] == 0.0:
            add_crossings(corners, triangles, corner_rgba, metal_rough, h, n, x0, x1, bits, ranks, share, sums)
            break
    for row in range(total):
        weight = sums[row, 6]
        for c in range(6):
            grey = 255 if c == 5 else 128
            values[row, c] = np.uint8(sums[row, c] / weight + 0.5) if weight > 0.0 else grey


@njit(cache=True, nogil=True)
def add_crossings(corners, triangles, corner_rgba, metal_rough, h, n, x0, x1, bits, ranks, share, sums):
    """Give voxels that rounding left without a triangle those that cross one of their edges."""
    empty, sides = sums[:, 6] == 0.0, np.empty(12, np.float64)
    hits, _, ends = scan_slab(corners, h, n, x0, x1)
    for axis in range(3):
        for hit in range(ends[axis * triangles.shape[0]], ends[(axis + 1) * triangles.shape[0]]):
            for corner in range(4):
                dx, dy, dz = corner_offset(axis, corner)
                x, y, z = hits[hit, 0] + dx, hits[hit, 1] + dy, hits[hit, 2] + dz
                if x < x0 or x >= x1:
                    continue
                row = row_of(bits, ranks, n[1], (n[2] + 63) >> 6, x - x0, y, z)
                if row >= 0 and empty[row]:
                    k = hits[hit, 3]
                    sides_of(corners, k, sides)
                    add_flat(sides, triangles[k], corner_rgba, metal_rough, x, y, z, row, share, sums)


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
def sides_of(corners, k, sides):
    """What the points of a triangle are found with, float64 [12]: corner 0, two sides from it, their dot products."""
    for a in range(3):
        sides[a] = np.float64(corners[k, 0, a])
        sides[3 + a] = np.float64(corners[k, 1, a]) - corners[k, 0, a]
        sides[6 + a] = np.float64(corners[k, 2, a]) - corners[k, 0, a]
    sides[9] = sides[3] * sides[3] + sides[4] * sides[4] + sides[5] * sides[5]
    sides[10] = sides[3] * sides[6] + sides[4] * sides[7] + sides[5] * sides[8]
    sides[11] = sides[6] * sides[6] + sides[7] * sides[7] + sides[8] * sides[8]


@inlined
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
