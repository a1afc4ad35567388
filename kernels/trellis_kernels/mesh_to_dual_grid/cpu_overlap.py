"""Which active voxels of a slab a triangle meets, after Schwarz and Seidel 2010.

A voxel meets a triangle where it meets its plane and, in each projection along an axis, its three edges' half planes.
Every test is linear in the cell, so along a line of cells the voxels that pass it are one interval.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trellis_kernels.leaf import inlined, leaf
from trellis_kernels.mesh_to_dual_grid.cpu_slab import row_of

TIE = 1e-9  # voxels: a constraint met this closely counts as met
FLAT = 1e-9  # a slope this small is none: the triangle's box bounds it as well
FAR = 1e18  # voxels: no bound


@njit(cache=True, nogil=True)
def planes_of(corners):
    """Unit normal (zero for a degenerate triangle) and offset n . v0 of triangles [T, 3, 3]: float64 [T, 4]."""
    planes = np.empty((corners.shape[0], 4), np.float64)
    for k in range(corners.shape[0]):
        ux = np.float64(corners[k, 1, 0]) - corners[k, 0, 0]
        uy = np.float64(corners[k, 1, 1]) - corners[k, 0, 1]
        uz = np.float64(corners[k, 1, 2]) - corners[k, 0, 2]
        wx = np.float64(corners[k, 2, 0]) - corners[k, 1, 0]
        wy = np.float64(corners[k, 2, 1]) - corners[k, 1, 1]
        wz = np.float64(corners[k, 2, 2]) - corners[k, 1, 2]
        x, y, z = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
        length = np.sqrt(x * x + y * y + z * z)
        scale = 1.0 / length if length > 0.0 else 0.0
        x, y, z = x * scale, y * scale, z * scale
        planes[k, 0], planes[k, 1], planes[k, 2] = x, y, z
        planes[k, 3] = x * corners[k, 0, 0] + y * corners[k, 0, 1] + z * corners[k, 0, 2]
    return planes


@njit(cache=True, nogil=True)
def overlap_room(h, n):
    """What `overlapped` works in: 1 / h, corners in voxels, bounds of the three projections, bounds of z by y."""
    scale = np.empty(3, np.float64)
    for a in range(3):
        scale[a] = 1.0 / np.float64(h[a])
    return scale, np.empty((3, 3), np.float64), np.empty((9, 3), np.float64), np.empty((n[1], 2), np.float64)


@leaf
def cell_range(corners, k, a, h, n):
    """First and last cell of triangle k along axis a."""
    low = np.float64(min(corners[k, 0, a], corners[k, 1, a], corners[k, 2, a]))
    high = np.float64(max(corners[k, 0, a], corners[k, 1, a], corners[k, 2, a]))
    return max(int(low / h[a]), 0), min(int(high / h[a] + 1.0), n[a]) - 1


@leaf
def bound_sides(local, u, w, turned, bounds, first):
    """Bounds of w for cells at u, one a side of the triangle: bounds[first + side] = (slope, least, most) at u = 0."""
    sign = -1.0 if turned else 1.0
    for side in range(3):
        stop = (side + 1) % 3
        a, b = sign * (local[side, w] - local[stop, w]), sign * (local[stop, u] - local[side, u])
        reach = max(a, 0.0) + max(b, 0.0) - a * local[side, u] - b * local[side, w]
        scale = -1.0 / b if abs(b) > FLAT else 0.0
        bounds[first + side, 0] = a * scale
        bounds[first + side, 1] = reach * scale - TIE if b > FLAT else -FAR
        bounds[first + side, 2] = reach * scale + TIE if b < -FLAT else FAR


@leaf
def least(bounds, first, u):
    """Greatest lower bound of three sides."""
    a = bounds[first, 0] * u + bounds[first, 1]
    b = bounds[first + 1, 0] * u + bounds[first + 1, 1]
    return max(a, b, bounds[first + 2, 0] * u + bounds[first + 2, 1])


@leaf
def most(bounds, first, u):
    """Least upper bound of three sides."""
    a = bounds[first, 0] * u + bounds[first, 2]
    b = bounds[first + 1, 0] * u + bounds[first + 1, 2]
    return min(a, b, bounds[first + 2, 0] * u + bounds[first + 2, 2])


@inlined
def overlapped(corners, planes, k, h, n, x0, x1, bits, ranks, room, cells, rows):
    """Fill cells [*, 3] and rows [*] with the active voxels of the slab that triangle k meets; returns their number."""
    scale, local, bounds, spans = room
    wz = (n[2] + 63) >> 6
    if planes[k, 0] == 0.0 and planes[k, 1] == 0.0 and planes[k, 2] == 0.0:
        return 0
    x_first, x_last = cell_range(corners, k, 0, h, n)
    y_first, y_last = cell_range(corners, k, 1, h, n)
    z_first, z_last = cell_range(corners, k, 2, h, n)
    begin, end = max(x_first, x0), min(x_last, x1 - 1)
    if begin > end:
        return 0
    if x_first == x_last and y_first == y_last and z_first == z_last:
        row = row_of(bits, ranks, n[1], wz, x_first - x0, y_first, z_first)
        if row < 0:
            return 0
        cells[0, 0], cells[0, 1], cells[0, 2] = x_first, y_first, z_first
        rows[0] = row
        return 1
    for i in range(3):
        local[i, 0] = corners[k, i, 0] * scale[0] - x_first
        local[i, 1] = corners[k, i, 1] * scale[1] - y_first
        local[i, 2] = corners[k, i, 2] * scale[2] - z_first
    bound_sides(local, 0, 1, planes[k, 2] < 0.0, bounds, 0)
    bound_sides(local, 0, 2, planes[k, 1] >= 0.0, bounds, 3)
    bound_sides(local, 1, 2, planes[k, 0] < 0.0, bounds, 6)
    across_x, across_y, above, below = 0.0, 0.0, FAR, FAR
    if abs(planes[k, 2]) > FLAT:
        slope = 1.0 / (planes[k, 2] * h[2])
        across_x, across_y = planes[k, 0] * h[0] * slope, planes[k, 1] * h[1] * slope
        above = max(across_x, 0.0) + max(across_y, 0.0) + 1.0 + TIE
        below = TIE - min(across_x, 0.0) - min(across_y, 0.0)
    level = local[0, 2] + across_x * local[0, 0] + across_y * local[0, 1]
    for y in range(y_last - y_first + 1):
        spans[y, 0], spans[y, 1] = max(least(bounds, 6, y), 0.0), min(most(bounds, 6, y), z_last - z_first)
    count = 0
    for x in range(begin, end + 1):
        u = np.float64(x - x_first)
        y_low = int(np.ceil(max(least(bounds, 0, u), 0.0)))
        y_high = int(np.floor(min(most(bounds, 0, u), y_last - y_first)))
        z_low, z_high, middle = least(bounds, 3, u), most(bounds, 3, u), level - across_x * u
        for y in range(y_low, y_high + 1):
            low = max(z_low, spans[y, 0], middle - across_y * y - above)
            high = min(z_high, spans[y, 1], middle - across_y * y + below)
            for z in range(z_first + int(np.ceil(low)), z_first + int(np.floor(high)) + 1):
                row = row_of(bits, ranks, n[1], wz, x - x0, y_first + y, z)
                if row >= 0:
                    cells[count, 0], cells[count, 1], cells[count, 2] = x, y_first + y, z
                    rows[count] = row
                    count += 1
    return count
