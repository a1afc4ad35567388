"""Unroll small charts onto larger neighbours, so that many narrow strips become fewer and wider ones.

chart beside a larger one ─turn face by face about the edges that they share▶ one chart, with a seam where it was round

A straw is cut into a front and a back; turned about a long edge the back lies beside the front. A vertex on the seam
has a place on either side of the chart.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trellis_app.mesh.absorb import CELL, by_cell, cells_of, host_of, keeps_shape, turned_flat
from trellis_app.mesh.patches import claimed, members, texels_in

_PAD, _SLACK = 32, 2  # texels that a chart may grow on each side across its length, and along it: no crosses

Mesh = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # vertices, faces, areas, half-edge across each
Marks = tuple[np.ndarray, np.ndarray]  # the host that last had each vertex, and where
Box = tuple[np.ndarray, np.ndarray, float, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@njit(cache=True, nogil=True)
def _laid_beside(
    mesh: Mesh, corners: np.ndarray, chart: np.ndarray, half: int, host: int, marks: Marks, out: np.ndarray
) -> bool:  # fmt: skip
    """Corners out [3, 2] of the face across `half`, a half-edge of the host; whether the face keeps its shape.

    Its third corner goes where a neighbour in the host has it, else where the host has the vertex, else where it comes
    to lie when the face is turned into the plane.
    """
    vertices, faces, area, partner = mesh
    marked, place = marks
    g, a = partner[half] // 3, partner[half] % 3
    b, third = (a + 1) % 3, (a + 2) % 3
    out[a], out[b] = corners[half // 3, (half + 1) % 3], corners[half // 3, half % 3]
    for known, edge in ((b, b), (a, third)):
        beyond = partner[3 * g + edge]
        if beyond < 0 or chart[beyond // 3] != host:
            continue
        n, first, last = beyond // 3, beyond % 3, (beyond + 1) % 3
        same, fresh = (last, first) if known == b else (first, last)
        if corners[n, same, 0] == out[known, 0] and corners[n, same, 1] == out[known, 1]:
            out[third] = corners[n, fresh]
            if keeps_shape(vertices, faces[g], out, area[g]):
                return True
    vertex = faces[g, third]
    if marked[vertex] == host:
        out[third] = place[vertex]
        if keeps_shape(vertices, faces[g], out, area[g]):
            return True
    turned_flat(vertices, faces[g], third, out)
    return keeps_shape(vertices, faces[g], out, area[g])


@njit(cache=True, nogil=True)
def _has_room(box: Box, corners: np.ndarray, flat: np.ndarray, host: int) -> bool:
    """Whether a face laid flat [3, 2] is within the box and covers no texel of the host; then it claims its texels.

    box: least x and y, largest, texels a world unit, faces of the host by cell (`by_cell`), which cells are drawn, the
    host of each texel, and room for a list of texels.
    """
    low, high, scale, first, listed, drawn, owner, cells = box
    for c in range(3):
        if not (low[0] < flat[c, 0] < high[0] and low[1] < flat[c, 1] < high[1]):
            return False
    width = int((high[0] - low[0]) * scale) + 2
    columns = width // CELL + 1
    left, right, bottom, top = cells_of(flat, low, scale)
    for y in range(bottom, top + 1):
        for k in range(y * columns + left, y * columns + right + 1):
            if drawn[k]:
                continue
            drawn[k] = True
            for f in listed[first[k] : first[k + 1]]:
                for i in range(texels_in(corners[f], low, scale, 0, width, cells)):
                    owner[cells[i]] = host
    return claimed(owner, cells, texels_in(flat, low, scale, 0, width, cells), host)


@njit(cache=True, nogil=True)
def _unroll_from(
    mesh: Mesh, corners: np.ndarray, chart: np.ndarray, size: np.ndarray, queue: np.ndarray, host: int, largest: float,
    around: tuple[Marks, Box],
) -> None:  # fmt: skip
    """Turn what lies beyond the half-edge queue[0] of the host onto its plane, and on from there."""
    faces, area, partner = mesh[1], mesh[2], mesh[3]
    marks, box = around
    marked, place = marks
    flat, head, tail = np.empty((3, 2)), 0, 1
    while head < tail:
        half = queue[head]
        head += 1
        g = partner[half] // 3
        if chart[g] == host or size[chart[g]] > min(largest, size[host]):
            continue
        if not _laid_beside(mesh, corners, chart, half, host, marks, flat) or not _has_room(box, corners, flat, host):
            continue
        size[chart[g]] -= area[g]
        size[host] += area[g]
        chart[g] = host
        corners[g] = flat
        for c in range(3):
            if marked[faces[g, c]] != host:
                marked[faces[g, c]], place[faces[g, c]] = host, flat[c]
            across = partner[3 * g + c]
            if across >= 0 and chart[across // 3] != host:
                queue[tail] = 3 * g + c
                tail += 1


@njit(cache=True, nogil=True)
def _unroll(
    mesh: Mesh, corners: np.ndarray, chart: np.ndarray, groups: tuple[np.ndarray, np.ndarray, np.ndarray],
    size: np.ndarray, scale: float, largest: float,
) -> None:  # fmt: skip
    """`unrolled` in place; groups: the faces of each chart and the order of hosts."""
    vertices, faces, partner = mesh[0], mesh[1], mesh[3]
    start, member, order = groups
    marks = np.full(len(vertices), -1, np.int32), np.empty((len(vertices), 2))
    queue, seeds = np.empty(3 * len(chart) + 1, np.int64), np.empty(3 * len(chart), np.int64)
    owner, cells = np.full(1, -1, np.int32), np.empty(1, np.int64)
    for host in order:
        count = 0
        for f in member[start[host] : start[host + 1]]:
            for h in range(3 * f, 3 * f + 3):
                g = partner[h] // 3
                if chart[f] == host and g >= 0 and size[chart[g]] <= min(largest, size[host]) and chart[g] != host:
                    seeds[count] = h
                    count += 1
        if count == 0:
            continue
        mine, low, high = host_of(faces, corners, chart, member[start[host] : start[host + 1]], host, *marks)
        along = 0 if high[0] - low[0] >= high[1] - low[1] else 1
        for k in range(2):
            low[k] -= (_SLACK if k == along else _PAD) / scale
            high[k] += (_SLACK if k == along else _PAD) / scale
        width, rows = int((high[0] - low[0]) * scale) + 2, int((high[1] - low[1]) * scale) + 2
        if width * rows > len(owner):  # hosts have numbers of their own: what an earlier one wrote may stay
            owner, cells = np.full(width * rows, -1, np.int32), np.empty(width * rows, np.int64)
        columns, lines = width // CELL + 1, rows // CELL + 1
        first, listed = by_cell(corners, mine, low, scale, columns, lines)
        box = (low, high, scale, first, listed, np.zeros(columns * lines, np.bool_), owner, cells)
        for seed in seeds[:count]:  # one after the other: each is followed as far as it goes
            queue[0] = seed
            _unroll_from(mesh, corners, chart, size, queue, host, largest, (marks, box))


def unrolled(
    mesh: Mesh, corners: np.ndarray, chart: np.ndarray, *, scale: float, largest: float
) -> tuple[np.ndarray, np.ndarray]:
    """New (corners float64 [F, 3, 2], chart int32 [F], some without faces) of charts that lie upright.

    Charts with at most the area `largest` are turned onto larger ones beside them where no texel at `scale` a world
    unit is covered twice. Neighbours in one chart need not meet: see the seam above.
    """
    size = np.bincount(chart, weights=mesh[2])
    start, member = members(chart, np.arange(len(chart)), len(size))
    corners, chart = corners.copy(), chart.copy()
    _unroll(mesh, corners, chart, (start, member, np.argsort(-size, kind="stable")), size, scale, largest)
    return corners, chart
