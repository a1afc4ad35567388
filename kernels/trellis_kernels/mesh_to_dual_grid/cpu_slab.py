"""Slabs of a voxel grid as bit maps: ranks of voxels, triangles of a slab, their crossings with the grid lines.

The grid is worked on in slabs of x-slices `x0 <= x < x1`, small enough for the processor's cache. Active voxels of a
slab are bits, 64 of one (x, y) column to a word, `bits[((x - x0) * ny + y) * wz + z // 64]`; with the running count of
bits before each word (`ranks`) a voxel's row is found in two reads, and rows are in lexicographic order of (x, y, z).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trellis_kernels.leaf import inlined, leaf

ONE = np.uint64(1)
LANES = 256  # rows of y that the triangles of a slab are sorted by
MARGIN = 0.01  # voxels around a triangle, against rounding


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
def bin_triangles(vertices, faces, h, n, slices):
    """Triangles that touch each slab of `slices` x-slices: (starts [slabs + 1], triangles).

    Within a slab they go by rows of y, in the order of the mesh where they share one, so that those that follow each
    other touch voxels near each other. The order of a voxel's triangles does not depend on the slabs.
    """
    slabs, lanes = -(-n[0] // slices), min(n[1], LANES)
    spans = np.empty((faces.shape[0], 3), np.int32)
    counts = np.zeros(slabs * lanes + 1, np.int64)
    hx, hy = np.float64(h[0]), np.float64(h[1]) * n[1] / lanes
    for t in range(faces.shape[0]):
        i, j, k = faces[t, 0], faces[t, 1], faces[t, 2]
        low, high = (
            min(vertices[i, 0], vertices[j, 0], vertices[k, 0]),
            max(vertices[i, 0], vertices[j, 0], vertices[k, 0]),
        )
        # Depths are cut off towards zero, so a triangle less than a voxel before the box still reaches its first slice.
        spans[t, 0] = max(int(low / hx - MARGIN), 0) // slices
        spans[t, 1] = min(int(high / hx + MARGIN), n[0] - 1) // slices
        spans[t, 2] = cell_of(np.float64(vertices[i, 1]), hy, lanes)
        for slab in range(spans[t, 0], spans[t, 1] + 1):
            counts[slab * lanes + spans[t, 2] + 1] += 1
    for at in range(1, counts.shape[0]):
        counts[at] += counts[at - 1]
    starts = counts[::lanes].copy()
    triangles = np.empty(counts[-1], np.int32)
    for t in range(faces.shape[0]):
        for slab in range(spans[t, 0], spans[t, 1] + 1):
            at = slab * lanes + spans[t, 2]
            triangles[counts[at]] = t
            counts[at] += 1
    return starts, triangles


@njit(cache=True, nogil=True)
def gather_corners(vertices, faces, triangles):
    """Corners float32 [T, 3, 3] of some triangles."""
    corners = np.empty((triangles.shape[0], 3, 3), np.float32)
    for k in range(triangles.shape[0]):
        for i in range(3):
            v = faces[triangles[k], i]
            corners[k, i, 0], corners[k, i, 1], corners[k, i, 2] = vertices[v, 0], vertices[v, 1], vertices[v, 2]
    return corners


@leaf
def cell_of(value, step, cells):
    return min(max(int(value / step), 0), cells - 1)


@leaf
def lines_between(cells, k, a, x0, x1):
    """How many grid lines across axis a triangle k may pass within the slab."""
    first = min(cells[k, 0, a], cells[k, 1, a], cells[k, 2, a])
    last = max(cells[k, 0, a], cells[k, 1, a], cells[k, 2, a])
    if a == 0:
        first, last = max(first, x0 - 1), min(last, x1)
    return max(last - first, 0)


@inlined
def scan_triangle(corners, cells, k, axis, h, n, x0, x1, hits, depths, count):
    """Append the crossings of triangle k with the grid lines along `axis`; returns the new count.

    Rounding follows the specification of the format (double interpolation, float32 line positions), so that crossings
    on grid lines fall to the same side everywhere.
    """
    u, w = (axis + 1) % 3, (axis + 2) % 3
    p, q, r = 0, 1, 2
    if corners[k, p, w] > corners[k, q, w]:
        p, q = q, p
    if corners[k, q, w] > corners[k, r, w]:
        q, r = r, q
    if corners[k, p, w] > corners[k, q, w]:
        p, q = q, p
    first, middle, last = cells[k, p, w], cells[k, q, w], cells[k, r, w]
    if w == 0:
        first, last = max(first, x0 - 1), min(last, x1)
    hu, depth = np.float64(h[u]), np.float64(h[axis])
    by, bx, bz = np.float64(corners[k, q, w]), np.float64(corners[k, q, u]), np.float64(corners[k, q, axis])
    for row in range(first, last):
        apex, other = (p, r) if row < middle else (r, p)
        py, px, pz = (
            np.float64(corners[k, apex, w]),
            np.float64(corners[k, apex, u]),
            np.float64(corners[k, apex, axis]),
        )
        cy, cx, cz = (
            np.float64(corners[k, other, w]),
            np.float64(corners[k, other, u]),
            np.float64(corners[k, other, axis]),
        )
        y = np.float64(np.float32(row + 1) * h[w])
        s = (y - py) / (by - py) if by != py else 0.0
        lx, lz = (1.0 - s) * px + s * bx, (1.0 - s) * pz + s * bz
        s = (y - py) / (cy - py) if cy != py else 0.0
        rx, rz = (1.0 - s) * px + s * cx, (1.0 - s) * pz + s * cz
        if lx > rx:
            lx, rx, lz, rz = rx, lx, rz, lz
        begin, end = cell_of(lx, hu, n[u]), cell_of(rx, hu, n[u])
        if u == 0:
            begin, end = max(begin, x0 - 1), min(end, x1)
        elif axis == 0 and end - begin > 8:
            begin, end = clip_columns(begin, end, lx / hu, rx / hu, lz / depth, rz / depth, x0, x1)
        for column in range(begin, end):
            x = np.float64(np.float32(column + 1) * h[u])
            s = (x - lx) / (rx - lx) if lx != rx else 0.0
            z = (1.0 - s) * lz + s * rz
            cell = int(z / depth)
            if cell < 0 or cell >= n[axis] or (axis == 0 and (cell < x0 or cell >= x1)):
                continue
            hits[count, u], hits[count, w], hits[count, axis], hits[count, 3] = column, row, cell, k
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
    """The hit buffers, enlarged for at least `extra` more."""
    size = max(2 * depths.shape[0], count + extra)
    wider, deeper = np.empty((size, 4), np.int32), np.empty(size, np.float64)
    for hit in range(count):
        for c in range(4):
            wider[hit, c] = hits[hit, c]
        deeper[hit] = depths[hit]
    return wider, deeper


@njit(cache=True, nogil=True)
def scan_slab(corners, h, n, x0, x1):
    """Crossings of triangles [T, 3, 3] with grid lines, axis by axis: (hits [K, 4], depths [K], ends [3 T + 1]).

    hits: (x, y, z) of the voxel whose far edge is crossed, and the triangle; depths: position along the line. Those of
    triangle k along axis a are from ends[a T + k] to ends[a T + k + 1]. Only crossings that touch a voxel of the slab
    are kept.
    """
    total = corners.shape[0]
    hits, depths = np.empty((1024, 4), np.int32), np.empty(1024, np.float64)
    cells, ends = np.empty((total, 3, 3), np.int32), np.zeros(3 * total + 1, np.int64)
    for k in range(total):
        for i in range(3):
            for a in range(3):
                cells[k, i, a] = cell_of(np.float64(corners[k, i, a]), np.float64(h[a]), n[a])
    count = np.int64(0)
    for axis in range(3):
        for k in range(total):
            bound = lines_between(cells, k, (axis + 1) % 3, x0, x1) * lines_between(cells, k, (axis + 2) % 3, x0, x1)
            if bound > 0:
                if count + bound > depths.shape[0]:
                    hits, depths = grow(hits, depths, count, bound)
                count = scan_triangle(corners, cells, k, axis, h, n, x0, x1, hits, depths, count)
            ends[axis * total + k + 1] = count
    return hits[:count], depths[:count], ends


@leaf
def activate(hits, begin, end, axis, ny, wz, x0, x1, bits):
    """Set the bits of the four voxels around each crossed edge along `axis`, within the slab."""
    for k in range(begin, end):
        x, y, z = hits[k, 0] - x0, hits[k, 1], hits[k, 2]
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
