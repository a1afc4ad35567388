"""Where a triangle surface crosses the edges of a cubic lattice, and which lattice points are connected.

The lattice is the corner grid of the decoder's voxels, moved by a few thousandths of a step. Vertices are snapped to
1/1024 of a step: lattice lines then miss every vertex, and the crossings of a closed surface are exact: an even number
on every line. Free lattice points form runs along z, cut by crossings; runs that touch over an uncrossed edge belong to
one region. The cost grows with the surface and the number of lattice lines, not with the volume.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import njit
from trellis_kernels.leaf import leaf

from trellis_app.mesh.surface import Surface, find_root, number_roots
from trellis_app.progress import Check, go_on

UNIT = 65536  # integer units in a lattice step
SNAP = 64  # vertices lie on multiples of this many units
SHIFT = np.array([97, 211, 331])  # of the lattice in units: no vertex, no plain plane goes through a lattice point
_MARGIN = 3  # free lattice steps around the surface
_LONGEST = 1600  # lattice steps along the longest side: a finer lattice is not needed to tell in from out


@dataclass(frozen=True)
class Lattice:
    """Lattice point (i, j, k) lies at low + step (i, j, k); its flat index is (i ny + j) nz + k."""

    low: np.ndarray  # float64 [3]
    step: float  # world units
    shape: tuple[int, int, int]  # points along x, y, z

    @property
    def strides(self) -> tuple[int, int, int]:
        """Flat index step along x, y, z."""
        return self.shape[1] * self.shape[2], self.shape[2], 1


def lattice_around(vertices: np.ndarray, voxel: float) -> Lattice:
    """The lattice of voxel corners around vertices [V, 3]; coarser than a voxel where the surface is very large."""
    low, high = vertices.min(axis=0).astype(np.float64), vertices.max(axis=0).astype(np.float64)
    step = max(float(voxel), float((high - low).max()) / _LONGEST)
    first = np.floor((low + 0.5) / step) - _MARGIN
    last = np.ceil((high + 0.5) / step) + _MARGIN
    nx, ny, nz = (int(n) + 1 for n in last - first)
    return Lattice(first * step - 0.5 + SHIFT * (step / UNIT), step, (nx, ny, nz))


@dataclass(frozen=True)
class Crossings:
    """Crossings of the lattice edges along one axis, ordered by line, edge and depth."""

    axis: int
    start: np.ndarray  # int64 [lines + 1] first crossing of each line; lines are numbered along the next axis first
    lower: np.ndarray  # int32 [K] position of the edge's lower end on its line
    point: np.ndarray  # int64 [K] flat index of the edge's lower end
    depth: np.ndarray  # float32 [K] position on the edge, 0 to 1
    face: np.ndarray  # int32 [K]
    rising: np.ndarray  # bool [K] the face's normal points along the axis
    first: np.ndarray  # bool [K] the lowest crossing of its edge
    last: np.ndarray  # bool [K] the highest crossing of its edge
    below: np.ndarray  # int32 [K] crossings before it on its line
    above: np.ndarray  # int32 [K] crossings after it on its line


@njit(cache=True, nogil=True)
def _cross_lines(
    snapped: np.ndarray,
    faces: np.ndarray,
    axis: int,
    fill: bool,
    line: np.ndarray,
    depth: np.ndarray,
    face: np.ndarray,
    rising: np.ndarray,
) -> int:
    """Count (fill False) or write the crossings of all lattice lines along `axis`; returns how many there are."""
    b, c = (axis + 1) % 3, (axis + 2) % 3
    count = 0
    for f in range(len(faces)):
        p0, p1, p2 = faces[f, 0], faces[f, 1], faces[f, 2]
        x0, y0 = snapped[p0, b], snapped[p0, c]
        x1, y1 = snapped[p1, b], snapped[p1, c]
        x2, y2 = snapped[p2, b], snapped[p2, c]
        left, right = -(-min(x0, x1, x2) // UNIT), max(x0, x1, x2) // UNIT
        bottom, top = -(-min(y0, y1, y2) // UNIT), max(y0, y1, y2) // UNIT
        if left > right or bottom > top:
            continue
        area = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
        if area == 0:
            continue
        z0, z1, z2 = snapped[p0, axis], snapped[p1, axis], snapped[p2, axis]
        up = area > 0
        if not up:
            x1, y1, z1, x2, y2, z2, area = x2, y2, z2, x1, y1, z1, -area
        bias0 = 0 if y2 < y1 or (y2 == y1 and x2 > x1) else -1
        bias1 = 0 if y0 < y2 or (y0 == y2 and x0 > x2) else -1
        bias2 = 0 if y1 < y0 or (y1 == y0 and x1 > x0) else -1
        for m in range(left, right + 1):
            for n in range(bottom, top + 1):
                px, py = m * UNIT, n * UNIT
                e0 = (x2 - x1) * (py - y1) - (y2 - y1) * (px - x1)
                e1 = (x0 - x2) * (py - y2) - (y0 - y2) * (px - x2)
                e2 = (x1 - x0) * (py - y0) - (y1 - y0) * (px - x0)
                if e0 + bias0 < 0 or e1 + bias1 < 0 or e2 + bias2 < 0:
                    continue
                if fill:
                    line[count, 0], line[count, 1] = m, n
                    depth[count] = (e0 * (z0 / UNIT) + e1 * (z1 / UNIT) + e2 * (z2 / UNIT)) / area
                    face[count], rising[count] = f, up
                count += 1
    return count


@njit(cache=True, nogil=True)
def _ranks(line: np.ndarray, same_edge: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(first, last of their edge, crossings before, crossings after on the line) of crossings in order."""
    count = len(line)
    first, last = np.ones(count, np.bool_), np.ones(count, np.bool_)
    below, above = np.zeros(count, np.int32), np.zeros(count, np.int32)
    for i in range(1, count):
        if line[i] == line[i - 1]:
            below[i] = below[i - 1] + 1
            if same_edge[i] == same_edge[i - 1]:
                first[i], last[i - 1] = False, False
    for i in range(count - 2, -1, -1):
        if line[i] == line[i + 1]:
            above[i] = above[i + 1] + 1
    return first, last, below, above


def _crossings_along(snapped: np.ndarray, faces: np.ndarray, lattice: Lattice, axis: int) -> Crossings:
    none = np.empty((0, 2), np.int32), np.empty(0), np.empty(0, np.int32), np.empty(0, np.bool_)
    count = _cross_lines(snapped, faces, axis, False, *none)
    line, depth = np.empty((count, 2), np.int32), np.empty(count)
    face, rising = np.empty(count, np.int32), np.empty(count, np.bool_)
    _cross_lines(snapped, faces, axis, True, line, depth, face, rising)
    b, c = (axis + 1) % 3, (axis + 2) % 3
    key = ((line[:, 0].astype(np.int64) * lattice.shape[c] + line[:, 1]) * lattice.shape[axis] * 4096) + np.floor(
        depth * 4096
    ).astype(np.int64)
    order = np.argsort(key, kind="stable")
    line, depth, face, rising = line[order], depth[order], face[order], rising[order]
    lower = np.clip(np.floor(depth), 0, lattice.shape[axis] - 2).astype(np.int64)
    across = line[:, 0].astype(np.int64) * lattice.shape[c] + line[:, 1]
    point = line[:, 0] * lattice.strides[b] + line[:, 1] * lattice.strides[c] + lower * lattice.strides[axis]
    start = np.zeros(lattice.shape[b] * lattice.shape[c] + 1, np.int64)
    np.cumsum(np.bincount(across, minlength=len(start) - 1), out=start[1:])
    depth = (depth - lower).astype(np.float32)
    return Crossings(axis, start, lower.astype(np.int32), point, depth, face, rising, *_ranks(across, point))


def crossings(surface: Surface, lattice: Lattice, *, check: Check = go_on) -> tuple[Crossings, Crossings, Crossings]:
    """All crossings of the surface with the lattice's edges along x, y and z."""
    near = np.rint((surface.vertices - lattice.low + SHIFT * (lattice.step / UNIT)) * (UNIT / SNAP / lattice.step))
    snapped = SNAP * near.astype(np.int64) - SHIFT
    check()
    with ThreadPoolExecutor(3) as pool:
        x, y, z = pool.map(lambda axis: _crossings_along(snapped, surface.faces, lattice, axis), range(3))
    check()
    return x, y, z


@dataclass(frozen=True)
class Regions:
    """Regions of lattice points that free edges connect; region 0 is the open air around the surface."""

    cuts: np.ndarray  # int64 [C] lower ends of the crossed edges along z, rising
    region: np.ndarray  # int32 [runs] of each run along z; runs are numbered by line, then height
    height: int  # points on a line along z

    def of(self, points: np.ndarray) -> np.ndarray:
        """Region of lattice points (flat indices), int32."""
        return self.region[points // self.height + np.searchsorted(self.cuts, points)]


@njit(cache=True, nogil=True)
def _line_starts(keys: np.ndarray, lines: int, height: int) -> np.ndarray:
    """Where each line's keys begin, int64 [lines + 1]."""
    start = np.zeros(lines + 1, np.int64)
    for key in keys:
        start[key // height + 1] += 1
    for line in range(lines):
        start[line + 1] += start[line]
    return start


@leaf
def _join_lines(
    parent: np.ndarray,
    cuts: np.ndarray,
    start: np.ndarray,
    blocked: np.ndarray,
    blocked_start: np.ndarray,
    a: int,
    b: int,
    height: int,
) -> None:
    """Join the runs of line a with the runs of line b that they touch over a free edge."""
    i, j, w = start[a], start[b], blocked_start[a]
    low = 0
    while True:
        end_a = cuts[i] - a * height if i < start[a + 1] else height - 1
        end_b = cuts[j] - b * height if j < start[b + 1] else height - 1
        high = min(end_a, end_b)
        closed = 0
        while w < blocked_start[a + 1] and blocked[w] - a * height <= high:
            closed += 1
            w += 1
        if closed < high - low + 1:
            x, y = find_root(parent, a + i), find_root(parent, b + j)
            parent[max(x, y)] = min(x, y)
        if high == height - 1:
            return
        low = high + 1
        i += end_a == high
        j += end_b == high


@njit(cache=True, nogil=True)
def _join_slabs(
    parent: np.ndarray,
    keys: tuple[np.ndarray, ...],
    starts: tuple[np.ndarray, ...],
    rows: tuple[int, int],
    size: tuple[int, int, int],
) -> None:
    """Join the runs of the lines with x in rows[0] .. rows[1] to those of the next lines along x and y."""
    nx, ny, nz = size
    for x in range(rows[0], rows[1]):
        for y in range(ny):
            line = x * ny + y
            if x + 1 < nx:
                _join_lines(parent, keys[2], starts[2], keys[0], starts[0], line, line + ny, nz)
            if y + 1 < ny:
                _join_lines(parent, keys[2], starts[2], keys[1], starts[1], line, line + 1, nz)


def _distinct(points: np.ndarray) -> np.ndarray:
    """The different values, rising; as np.unique, which takes twice as long."""
    ordered = np.sort(points)
    fresh = np.ones(len(ordered), dtype=bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    return ordered[fresh]


def regions(blocked: tuple[np.ndarray, np.ndarray, np.ndarray], lattice: Lattice, *, check: Check = go_on) -> Regions:
    """Regions of the lattice whose edges with the given lower ends (int64, per axis, any order) are closed."""
    nx, ny, nz = lattice.shape
    keys = [_distinct(points) for points in blocked]
    starts = [_line_starts(k, nx * ny, nz) for k in keys]
    parent = np.arange(nx * ny + len(keys[2]))
    for x in range(0, nx, 64):
        check()
        _join_slabs(parent, tuple(keys), tuple(starts), (x, min(x + 64, nx)), (nx, ny, nz))
    return Regions(keys[2], number_roots(parent), nz)
