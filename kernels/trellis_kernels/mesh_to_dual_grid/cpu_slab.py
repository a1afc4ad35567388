"""Slabs of a voxel grid as bit maps: scan conversion of triangles, ranks of voxels, walks along a triangle.

The grid is worked on in slabs of x-slices `x0 <= x < x1`, small enough for the processor's cache. Active voxels of a
slab are bits, 64 of one (x, y) column to a word, `bits[((x - x0) * ny + y) * wz + z // 64]`; with the running count of
bits before each word (`ranks`) a voxel's row is found in two reads, and rows are in lexicographic order of (x, y, z).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trellis_kernels.leaf import leaf

ONE = np.uint64(1)
TIE = 1e-9  # voxels: a constraint met this closely counts as met
FLAT = 1e-14  # a slope this small is none


@leaf
def popcount(word):
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@leaf
def set_bit(bits, ny, wz, x, y, z):
    bits[(x * ny + y) * wz + (z >> 6)] |= ONE << np.uint64(z & 63)


@leaf
def row_of(bits, ranks, ny, wz, x, y, z):
    """Row of the voxel (x counted from the slab's first slice), or -1 where it is not active."""
    at = (x * ny + y) * wz + (z >> 6)
    mask = ONE << np.uint64(z & 63)
    word = bits[at]
    if word & mask == np.uint64(0):
        return np.int64(-1)
    return np.int64(ranks[at]) + popcount(word & (mask - ONE))


@leaf
def count_ranks(bits, ranks):
    """Fill `ranks` with the number of set bits before each word; returns the total."""
    total = np.int64(0)
    for at in range(bits.shape[0]):
        ranks[at] = total
        if bits[at] != np.uint64(0):
            total += popcount(bits[at])
    return total


@njit(cache=True, nogil=True)
def index_voxels(coords, ny, wz, x0, x1):
    """Bit map and ranks of voxels int32 [m, 3], all within the slab and in lexicographic order."""
    bits = np.zeros((x1 - x0) * ny * wz, np.uint64)
    for row in range(coords.shape[0]):
        set_bit(bits, ny, wz, coords[row, 0] - x0, coords[row, 1], coords[row, 2])
    ranks = np.empty(bits.shape[0], np.int32)
    count_ranks(bits, ranks)
    return bits, ranks


@leaf
def list_voxels(bits, ny, wz, x0, coords):
    """Write the coordinates of the set bits, in row order."""
    row = 0
    for at in range(bits.shape[0]):
        word = bits[at]
        while word != np.uint64(0):
            lowest = word & (~word + ONE)
            column = at // wz
            coords[row, 0] = x0 + column // ny
            coords[row, 1] = column % ny
            coords[row, 2] = (at % wz) * 64 + popcount(lowest - ONE)
            row += 1
            word ^= lowest


@njit(cache=True, nogil=True)
def bin_triangles(vertices, faces, hx, slices, slabs):
    """Triangles that may touch each slab of `slices` x-slices, one voxel of margin: (starts [slabs + 1], triangles)."""
    count = faces.shape[0]
    spans = np.empty((count, 2), np.int32)
    starts = np.zeros(slabs + 1, np.int64)
    for t in range(count):
        a, b, c = vertices[faces[t, 0], 0], vertices[faces[t, 1], 0], vertices[faces[t, 2], 0]
        first = int(np.floor((min(a, b, c) / hx - 1.5) / slices))
        last = int(np.floor((max(a, b, c) / hx + 1.5) / slices))
        first, last = max(first, 0), min(last, slabs - 1)
        spans[t, 0], spans[t, 1] = first, last
        for slab in range(first, last + 1):
            starts[slab + 1] += 1
    for slab in range(slabs):
        starts[slab + 1] += starts[slab]
    fill = starts[:-1].copy()
    triangles = np.empty(starts[-1], np.int32)
    for t in range(count):
        for slab in range(spans[t, 0], spans[t, 1] + 1):
            triangles[fill[slab]] = t
            fill[slab] += 1
    return starts, triangles


@leaf
def cell_of(value, step, cells):
    return min(max(int(value / step), 0), cells - 1)


@leaf
def lines_between(cells, a, x0, x1):
    """How many grid lines across axis a a triangle with vertices in cells [3, 3] may pass within the slab."""
    first, last = min(cells[0, a], cells[1, a], cells[2, a]), max(cells[0, a], cells[1, a], cells[2, a])
    if a == 0:
        first, last = max(first, x0 - 1), min(last, x1)
    return max(last - first, 0)


@leaf
def scan_axis(vertices, corner, cells, axis, h, n, x0, x1, hits, depths, count):
    """Append the crossings of one triangle with the grid lines along `axis`; returns the new count.

    corner int32 [3]: its vertices; cells int64 [3, 3]: the cells that hold them.

    hits [*, 4] gets (x, y, z, axis) of the voxel whose far edge is crossed, depths [*] the position along the line.
    Only crossings that touch a voxel of the slab are kept. Rounding follows the specification of the format
    (double interpolation, float32 line positions), so that crossings on grid lines fall to the same side everywhere.
    """
    a0, a1 = (axis + 1) % 3, (axis + 2) % 3
    p, q, r = 0, 1, 2
    if vertices[corner[p], a1] > vertices[corner[q], a1]:
        p, q = q, p
    if vertices[corner[q], a1] > vertices[corner[r], a1]:
        q, r = r, q
    if vertices[corner[p], a1] > vertices[corner[q], a1]:
        p, q = q, p
    low, middle, high = cells[p, a1], cells[q, a1], cells[r, a1]
    if low == high:
        return count
    i0, i1, i2 = corner[p], corner[q], corner[r]
    h0, h2 = np.float64(h[a0]), np.float64(h[axis])
    for half in range(2):
        first, last, apex, other = (low, middle, i0, i2) if half == 0 else (middle, high, i2, i0)
        if a1 == 0:
            first, last = max(first, x0 - 1), min(last, x1)
        py, px, pz = np.float64(vertices[apex, a1]), np.float64(vertices[apex, a0]), np.float64(vertices[apex, axis])
        by, bx, bz = np.float64(vertices[i1, a1]), np.float64(vertices[i1, a0]), np.float64(vertices[i1, axis])
        cy, cx, cz = np.float64(vertices[other, a1]), np.float64(vertices[other, a0]), np.float64(vertices[other, axis])
        for row in range(first, last):
            y = np.float64(np.float32(row + 1) * h[a1])
            s = (y - py) / (by - py) if by != py else 0.0
            lx, lz = (1.0 - s) * px + s * bx, (1.0 - s) * pz + s * bz
            s = (y - py) / (cy - py) if cy != py else 0.0
            rx, rz = (1.0 - s) * px + s * cx, (1.0 - s) * pz + s * cz
            if lx > rx:
                lx, rx, lz, rz = rx, lx, rz, lz
            begin, end = cell_of(lx, h0, n[a0]), cell_of(rx, h0, n[a0])
            if a0 == 0:
                begin, end = max(begin, x0 - 1), min(end, x1)
            elif axis == 0 and end - begin > 8:
                begin, end = clip_columns(begin, end, lx / h0, rx / h0, lz / h2, rz / h2, x0, x1)
            for column in range(begin, end):
                x = np.float64(np.float32(column + 1) * h[a0])
                s = (x - lx) / (rx - lx) if lx != rx else 0.0
                z = (1.0 - s) * lz + s * rz
                cell = int(z / h2)
                if cell < 0 or cell >= n[axis] or (axis == 0 and (cell < x0 or cell >= x1)):
                    continue
                hits[count, a0], hits[count, a1], hits[count, axis], hits[count, 3] = column, row, cell, axis
                depths[count] = z
                count += 1
    return count


@leaf
def clip_columns(begin, end, lx, rx, lz, rz, x0, x1):
    """Columns of a scan line whose depth can lie within the slab (two columns of margin), all in voxels."""
    if max(lz, rz) < x0 - 1 or min(lz, rz) > x1 + 1:
        return begin, begin
    if abs(rz - lz) < 1.0 or rx - lx < 1.0:
        return begin, end
    a = lx + (x0 - 1 - lz) * (rx - lx) / (rz - lz)
    b = lx + (x1 + 1 - lz) * (rx - lx) / (rz - lz)
    return max(begin, int(np.floor(min(a, b))) - 2), min(end, int(np.ceil(max(a, b))) + 2)


@njit(cache=True, nogil=True)
def grow(hits, depths, count, extra):
    """The hit buffers, enlarged where `extra` more would not fit."""
    if count + extra <= depths.shape[0]:
        return hits, depths
    size = max(2 * depths.shape[0], count + extra)
    wider, deeper = np.empty((size, 4), np.int32), np.empty(size, np.float64)
    wider[:count], deeper[:count] = hits[:count], depths[:count]
    return wider, deeper


@njit(cache=True, nogil=True)
def scan_slab(vertices, faces, triangles, h, n, x0, x1):
    """All crossings of a slab: (hits [K, 4], depths [K], ends [T] of each triangle's hits)."""
    hits, depths = np.empty((1024, 4), np.int32), np.empty(1024, np.float64)
    ends, cells = np.empty(triangles.shape[0], np.int64), np.empty((3, 3), np.int64)
    count = np.int64(0)
    for k in range(triangles.shape[0]):
        corner = faces[triangles[k]]
        for i in range(3):
            for a in range(3):
                cells[i, a] = cell_of(np.float64(vertices[corner[i], a]), np.float64(h[a]), n[a])
        across_x = lines_between(cells, 0, x0, x1)
        across_y = lines_between(cells, 1, x0, x1)
        across_z = lines_between(cells, 2, x0, x1)
        for axis in range(3):
            bound = (across_y if axis == 0 else across_x) * (across_y if axis == 2 else across_z)
            if bound > 0:
                hits, depths = grow(hits, depths, count, bound)
                count = scan_axis(vertices, corner, cells, axis, h, n, x0, x1, hits, depths, count)
        ends[k] = count
    return hits[:count], depths[:count], ends


@leaf
def activate(hits, ny, wz, x0, x1, bits):
    """Set the bits of the four voxels around each crossed edge, within the slab."""
    for k in range(hits.shape[0]):
        x, y, z, axis = hits[k, 0] - x0, hits[k, 1], hits[k, 2], hits[k, 3]
        for corner in range(4):
            dx, dy, dz = corner_offset(axis, corner)
            if 0 <= x + dx < x1 - x0:
                set_bit(bits, ny, wz, x + dx, y + dy, z + dz)


@leaf
def corner_offset(axis, corner):
    """Offset of one of the four voxels around the far edge along `axis`; corner 0 is the voxel itself."""
    u, w = corner >> 1, corner & 1
    if axis == 0:
        return 0, u, w
    if axis == 1:
        return w, 0, u
    return u, w, 0


@leaf
def plane_of(vertices, i0, i1, i2, plane):
    """Unit normal (zero for a degenerate triangle) and offset n . v0 of a triangle."""
    ux = np.float64(vertices[i1, 0]) - vertices[i0, 0]
    uy = np.float64(vertices[i1, 1]) - vertices[i0, 1]
    uz = np.float64(vertices[i1, 2]) - vertices[i0, 2]
    wx = np.float64(vertices[i2, 0]) - vertices[i1, 0]
    wy = np.float64(vertices[i2, 1]) - vertices[i1, 1]
    wz = np.float64(vertices[i2, 2]) - vertices[i1, 2]
    x, y, z = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
    length = np.sqrt(x * x + y * y + z * z)
    scale = 1.0 / length if length > 0.0 else 0.0
    plane[0], plane[1], plane[2] = x * scale, y * scale, z * scale
    plane[3] = plane[0] * vertices[i0, 0] + plane[1] * vertices[i0, 1] + plane[2] * vertices[i0, 2]


@leaf
def narrow(low, high, slope, offset):
    """Integers k of [low, high] with slope * k + offset >= 0; an empty range has high < low."""
    if slope > FLAT:
        bound = int(np.ceil(-offset / slope - TIE))
        return max(low, bound), high
    if slope < -FLAT:
        bound = int(np.floor(-offset / slope + TIE))
        return low, min(high, bound)
    if offset < -FLAT:
        return low, low - 1
    return low, high


@leaf
def edge_tests(vertices, i0, i1, i2, plane, h, u, w, tests):
    """Three conservative edge tests in the (u, w) projection: tests[u, e] = (a, b, c), met iff a i + b j + c >= 0."""
    sign = -1.0 if plane[3 - u - w] < 0.0 else 1.0
    for e in range(3):
        start, stop = (i0, i1) if e == 0 else ((i1, i2) if e == 1 else (i2, i0))
        eu = np.float64(vertices[stop, u]) - vertices[start, u]
        ew = np.float64(vertices[stop, w]) - vertices[start, w]
        nu, nw = -sign * ew, sign * eu
        tests[u, e, 0], tests[u, e, 1] = nu * h[u], nw * h[w]
        tests[u, e, 2] = max(nu, 0.0) * h[u] + max(nw, 0.0) * h[w] - nu * vertices[start, u] - nw * vertices[start, w]


@leaf
def cell_range(vertices, i0, i1, i2, a, h, n):
    """First and last cell of a triangle along axis a."""
    low = np.float64(min(vertices[i0, a], vertices[i1, a], vertices[i2, a]))
    high = np.float64(max(vertices[i0, a], vertices[i1, a], vertices[i2, a]))
    return max(int(low / h[a]), 0), min(int(high / h[a] + 1.0), n[a]) - 1


@leaf
def overlapped(vertices, i0, i1, i2, plane, h, n, x0, x1, bits, ranks, tests, cells, rows):
    """Active voxels of the slab whose box meets the triangle, after Schwarz and Seidel 2010; returns their number.

    Every test is linear in z, so a column's voxels are one interval. cells [*, 3] and rows [*] are filled.
    """
    ny, wz = n[1], (n[2] + 63) >> 6
    if plane[0] == 0.0 and plane[1] == 0.0 and plane[2] == 0.0:
        return 0
    x_first, x_last = cell_range(vertices, i0, i1, i2, 0, h, n)
    y_first, y_last = cell_range(vertices, i0, i1, i2, 1, h, n)
    z_first, z_last = cell_range(vertices, i0, i1, i2, 2, h, n)
    x_first, x_last = max(x_first, x0), min(x_last, x1 - 1)
    if x_first > x_last:
        return 0
    if x_first == x_last and y_first == y_last and z_first == z_last:
        row = row_of(bits, ranks, ny, wz, x_first - x0, y_first, z_first)
        if row < 0:
            return 0
        cells[0, 0], cells[0, 1], cells[0, 2] = x_first, y_first, z_first
        rows[0] = row
        return 1
    edge_tests(vertices, i0, i1, i2, plane, h, 0, 1, tests)
    edge_tests(vertices, i0, i1, i2, plane, h, 1, 2, tests)
    edge_tests(vertices, i0, i1, i2, plane, h, 2, 0, tests)
    nx, nY, nz = plane[0] * h[0], plane[1] * h[1], plane[2] * h[2]
    reach = max(nx, 0.0) + max(nY, 0.0) + max(nz, 0.0)
    under = min(nx, 0.0) + min(nY, 0.0) + min(nz, 0.0)
    count = 0
    for x in range(x_first, x_last + 1):
        y_low, y_high = y_first, y_last
        for e in range(3):
            y_low, y_high = narrow(y_low, y_high, tests[0, e, 1], tests[0, e, 0] * x + tests[0, e, 2])
        for y in range(y_low, y_high + 1):
            low, high = z_first, z_last
            base = nx * x + nY * y - plane[3]
            low, high = narrow(low, high, nz, base + reach)
            low, high = narrow(low, high, -nz, -(base + under))
            for e in range(3):
                low, high = narrow(low, high, tests[1, e, 1], tests[1, e, 0] * y + tests[1, e, 2])
                low, high = narrow(low, high, tests[2, e, 0], tests[2, e, 1] * x + tests[2, e, 2])
            for z in range(low, high + 1):
                row = row_of(bits, ranks, ny, wz, x - x0, y, z)
                if row >= 0:
                    cells[count, 0], cells[count, 1], cells[count, 2] = x, y, z
                    rows[count] = row
                    count += 1
    return count
