"""Fold small charts out onto their larger neighbours, face by face, as far as there is room.

A face beside a chart is turned about the shared edge into the chart's plane. It joins where it keeps about its size and
covers no texel of the chart; the faces beside it are tried next. Noisy surfaces lose most of their crumbs this way.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trellis_app.mesh.patches import claimed, members, texels_in

_PAD = 24  # texels that a chart may grow on each side
_LEAST, _MOST = 0.2, 4.0  # flat area of a face over its true area
_LONGEST = 3.0  # most that an edge may be stretched
CELL = 32  # texels along the cells in which a chart is drawn where a face wants to join it


@njit(cache=True, nogil=True)
def turned_flat(vertices: np.ndarray, face: np.ndarray, fresh: int, out: np.ndarray) -> None:
    """Place the corner `fresh` of a face in out [3, 2] where it comes to lie when turned about the other two."""
    i, j = (fresh + 1) % 3, (fresh + 2) % 3
    dot, square, reach = 0.0, 0.0, 0.0
    for k in range(3):
        along = np.float64(vertices[face[j], k]) - vertices[face[i], k]
        to = np.float64(vertices[face[fresh], k]) - vertices[face[i], k]
        dot += along * to
        square += along * along
        reach += to * to
    share = dot / max(square, 1e-30)
    height = np.sqrt(max(reach - share * dot, 0.0))
    x, y = out[j, 0] - out[i, 0], out[j, 1] - out[i, 1]
    length = max(np.sqrt(x * x + y * y), 1e-30)
    out[fresh, 0] = out[i, 0] + share * x - height * y / length
    out[fresh, 1] = out[i, 1] + share * y + height * x / length


@njit(cache=True, nogil=True)
def _fold_out(vertices: np.ndarray, face: np.ndarray, marked: np.ndarray, place: np.ndarray, host: int,
              out: np.ndarray) -> int:  # fmt: skip
    """Corners out [3, 2] of a face of which at least two vertices lie in the host; the corner that is new, 3 if none.

    -1 where fewer lie in it.
    """
    fresh, known = 3, 0
    for c in range(3):
        if marked[face[c]] == host:
            out[c, 0], out[c, 1] = place[face[c], 0], place[face[c], 1]
            known += 1
        else:
            fresh = c
    if known == 3:
        return 3
    if known < 2:
        return -1
    turned_flat(vertices, face, fresh, out)
    return fresh


@njit(cache=True, nogil=True)
def keeps_shape(vertices: np.ndarray, face: np.ndarray, flat: np.ndarray, area: float) -> bool:
    """Whether a face laid flat keeps about its area and its edges."""
    a, b = flat[1] - flat[0], flat[2] - flat[0]
    ratio = 0.5 * (a[0] * b[1] - a[1] * b[0]) / max(area, 1e-30)
    if not _LEAST <= ratio <= _MOST:
        return False
    for c in range(3):
        d = (c + 1) % 3
        true = 0.0
        for k in range(3):
            true += (np.float64(vertices[face[c], k]) - vertices[face[d], k]) ** 2
        if (flat[c, 0] - flat[d, 0]) ** 2 + (flat[c, 1] - flat[d, 1]) ** 2 > _LONGEST**2 * true:
            return False
    return True


@njit(cache=True, nogil=True)
def by_cell(
    corners: np.ndarray, faces: np.ndarray, low: np.ndarray, scale: float, columns: int, lines: int
) -> tuple[np.ndarray, np.ndarray]:
    """Faces grouped by the cells of a grid of columns x lines that their boxes touch: int64 [cells + 1] into int32."""
    start = np.zeros(columns * lines + 1, np.int64)
    for f in faces:
        left, right, bottom, top = cells_of(corners[f], low, scale)
        for y in range(bottom, top + 1):
            for x in range(left, right + 1):
                start[y * columns + x + 1] += 1
    for k in range(columns * lines):
        start[k + 1] += start[k]
    fill, listed = start[:-1].copy(), np.empty(start[-1], np.int32)
    for f in faces:
        left, right, bottom, top = cells_of(corners[f], low, scale)
        for y in range(bottom, top + 1):
            for x in range(left, right + 1):
                listed[fill[y * columns + x]] = f
                fill[y * columns + x] += 1
    return start, listed


@njit(cache=True, nogil=True)
def cells_of(corners: np.ndarray, low: np.ndarray, scale: float) -> tuple[int, int, int, int]:
    """First and last column, first and last row of the cells that the box of a face [3, 2] touches."""
    left, right = min(corners[0, 0], corners[1, 0], corners[2, 0]), max(corners[0, 0], corners[1, 0], corners[2, 0])
    bottom, top = min(corners[0, 1], corners[1, 1], corners[2, 1]), max(corners[0, 1], corners[1, 1], corners[2, 1])
    return (
        int((left - low[0]) * scale) // CELL, int((right - low[0]) * scale) // CELL,
        int((bottom - low[1]) * scale) // CELL, int((top - low[1]) * scale) // CELL,
    )  # fmt: skip


@njit(cache=True, nogil=True)
def host_of(
    faces: np.ndarray, corners: np.ndarray, chart: np.ndarray, members: np.ndarray, host: int, marked: np.ndarray,
    place: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """(those of the faces `members` that are in the host, least x and y, largest); marks and places their vertices."""
    mine, count = np.empty(len(members), np.int32), 0
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for f in members:
        if chart[f] != host:
            continue
        mine[count] = f
        count += 1
        for c in range(3):
            marked[faces[f, c]] = host
            for k in range(2):
                place[faces[f, c], k] = corners[f, c, k]
                low[k], high[k] = min(low[k], corners[f, c, k]), max(high[k], corners[f, c, k])
    return mine[:count], low, high


@njit(cache=True, nogil=True)
def _absorb(
    mesh: tuple[np.ndarray, np.ndarray, np.ndarray], corners: np.ndarray, chart: np.ndarray, partner: np.ndarray,
    groups: tuple[np.ndarray, np.ndarray, np.ndarray], size: np.ndarray, scale: float, crumb: float,
) -> None:  # fmt: skip
    """`absorb`, where mesh is vertices, faces and their areas; groups: the faces of each chart and the order of hosts.

    Only those texels of a host are drawn that lie in cells beside faces which want to join.
    """
    vertices, faces, area = mesh
    start, member, order = groups
    marked, place = np.full(len(vertices), -1, np.int32), np.empty((len(vertices), 2))
    refused, queue = np.full(len(chart), -1, np.int32), np.empty(len(chart) + 1, np.int32)
    owner, cells, flat = np.full(1, -1, np.int32), np.empty(1, np.int64), np.empty((3, 2))
    for host in order:
        tail = 0
        for m in range(start[host], start[host + 1]):
            f = member[m]
            if chart[f] != host:
                continue
            for c in range(3):
                g = partner[3 * f + c] // 3
                if g >= 0 and chart[g] != host and size[chart[g]] < min(crumb, size[host]) and refused[g] != host:
                    refused[g], queue[tail] = host, g
                    tail += 1
        if tail == 0:
            continue
        mine, low, high = host_of(faces, corners, chart, member[start[host] : start[host + 1]], host, marked, place)
        low -= _PAD / scale
        high += _PAD / scale
        width, rows = int((high[0] - low[0]) * scale) + 2, int((high[1] - low[1]) * scale) + 2
        if width * rows > len(owner):  # hosts have numbers of their own: what an earlier one wrote may stay
            owner, cells = np.full(width * rows, -1, np.int32), np.empty(width * rows, np.int64)
        columns, lines = width // CELL + 1, rows // CELL + 1
        first, listed = by_cell(corners, mine, low, scale, columns, lines)
        drawn, head = np.zeros(columns * lines, np.bool_), 0
        while head < tail:
            g = queue[head]
            head += 1
            fresh = _fold_out(vertices, faces[g], marked, place, host, flat)
            if fresh < 0 or not keeps_shape(vertices, faces[g], flat, area[g]):
                continue
            if fresh < 3 and not (low[0] < flat[fresh, 0] < high[0] and low[1] < flat[fresh, 1] < high[1]):
                continue
            left, right, bottom, top = cells_of(flat, low, scale)
            for y in range(bottom, top + 1):
                for k in range(y * columns + left, y * columns + right + 1):
                    if not drawn[k]:
                        drawn[k] = True
                        for f in listed[first[k] : first[k + 1]]:
                            for i in range(texels_in(corners[f], low, scale, 0, width, cells)):
                                owner[cells[i]] = host
            if not claimed(owner, cells, texels_in(flat, low, scale, 0, width, cells), host):
                continue
            if fresh < 3:
                marked[faces[g, fresh]] = host
                place[faces[g, fresh], 0], place[faces[g, fresh], 1] = flat[fresh, 0], flat[fresh, 1]
            corners[g] = flat
            size[chart[g]] -= area[g]
            size[host] += area[g]
            chart[g] = host
            for c in range(3):
                other = partner[3 * g + c] // 3
                if other < 0 or chart[other] == host or refused[other] == host:
                    continue
                if size[chart[other]] < min(crumb, size[host]):
                    refused[other], queue[tail] = host, other
                    tail += 1


def absorb(
    vertices: np.ndarray, faces: np.ndarray, corners: np.ndarray, chart: np.ndarray, partner: np.ndarray,
    area: np.ndarray, scale: float, crumb: float,
) -> None:  # fmt: skip
    """Move faces of charts with less than the area `crumb` to larger charts beside them; changes corners and chart.

    corners float64 [F, 3, 2], area float64 [F]: world units; `scale` texels a world unit; chart int32 [F].
    """
    size = np.bincount(chart, weights=area)
    start, member = members(chart, np.arange(len(chart)), len(size))
    order = np.argsort(-size, kind="stable")
    _absorb((vertices, faces, area), corners, chart, partner, (start, member, order), size, scale, crumb)
