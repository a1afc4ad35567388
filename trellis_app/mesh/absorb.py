"""Fold small charts out onto their larger neighbours, face by face, as far as there is room.

A face beside a chart is turned about the shared edge into the chart's plane. It joins where it keeps about its size and
covers no texel of the chart; the faces beside it are tried next. Noisy surfaces lose most of their crumbs this way.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_PAD = 24  # texels that a chart may grow on each side
_LEAST, _MOST = 0.2, 4.0  # flat area of a face over its true area
_LONGEST = 3.0  # most that an edge may be stretched


@njit(cache=True, nogil=True)
def claims(
    corners: np.ndarray, low: np.ndarray, scale: float, owner: np.ndarray, start: int, width: int, patch: int,
    write: bool,
) -> bool:  # fmt: skip
    """Whether no texel centre of a face belongs to the patch already; writes the patch's number into them if asked.

    corners float64 [3, 2], low float64 [2] of the patch's box, in world units; `scale` texels a world unit; owner
    int32 holds the box's rows of `width` texels from `start` on. A centre on an edge belongs to one face (top-left
    rule on corners snapped to 1/256 texel).
    """
    x0, y0 = int((corners[0, 0] - low[0]) * scale * 256.0), int((corners[0, 1] - low[1]) * scale * 256.0)
    x1, y1 = int((corners[1, 0] - low[0]) * scale * 256.0), int((corners[1, 1] - low[1]) * scale * 256.0)
    x2, y2 = int((corners[2, 0] - low[0]) * scale * 256.0), int((corners[2, 1] - low[1]) * scale * 256.0)
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    if area <= 0:
        return True
    b0 = 0 if y2 < y1 or (y2 == y1 and x2 > x1) else -1
    b1 = 0 if y0 < y2 or (y0 == y2 and x0 > x2) else -1
    b2 = 0 if y1 < y0 or (y1 == y0 and x1 > x0) else -1
    for row in range((min(y0, y1, y2) + 127) >> 8, ((max(y0, y1, y2) - 128) >> 8) + 1):
        py = row * 256 + 128
        for column in range((min(x0, x1, x2) + 127) >> 8, ((max(x0, x1, x2) - 128) >> 8) + 1):
            px = column * 256 + 128
            if (
                (x2 - x1) * (py - y1) - (y2 - y1) * (px - x1) + b0 >= 0
                and (x0 - x2) * (py - y2) - (y0 - y2) * (px - x2) + b1 >= 0
                and (x1 - x0) * (py - y0) - (y1 - y0) * (px - x0) + b2 >= 0
            ):
                cell = start + row * width + column
                if write:
                    owner[cell] = patch
                elif owner[cell] == patch:
                    return False
    return True


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
    return fresh


@njit(cache=True, nogil=True)
def _keeps_shape(vertices: np.ndarray, face: np.ndarray, flat: np.ndarray, area: float) -> bool:
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
def _members(chart: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Faces grouped by chart: int64 [C + 1] into int32 [F]."""
    start = np.zeros(count + 1, np.int64)
    for f in range(len(chart)):
        start[chart[f] + 1] += 1
    for c in range(count):
        start[c + 1] += start[c]
    fill, member = start[:-1].copy(), np.empty(len(chart), np.int32)
    for f in range(len(chart)):
        member[fill[chart[f]]] = f
        fill[chart[f]] += 1
    return start, member


@njit(cache=True, nogil=True)
def absorb(
    vertices: np.ndarray, faces: np.ndarray, corners: np.ndarray, chart: np.ndarray, partner: np.ndarray,
    area: np.ndarray, scale: float, crumb: float,
) -> None:  # fmt: skip
    """Move faces of charts with less than the area `crumb` to larger charts beside them; changes corners and chart.

    corners float64 [F, 3, 2], area float64 [F]: world units; `scale` texels a world unit; chart int32 [F].
    """
    count = 0
    for f in range(len(chart)):
        count = max(count, chart[f] + 1)
    start, member = _members(chart, count)
    size = np.zeros(count)
    for f in range(len(chart)):
        size[chart[f]] += area[f]
    marked, place = np.full(len(vertices), -1, np.int32), np.empty((len(vertices), 2))
    refused, queue = np.full(len(chart), -1, np.int32), np.empty(len(chart) + 1, np.int32)
    flat = np.empty((3, 2))
    for host in np.argsort(-size):
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
        low, high = np.full(2, np.inf), np.full(2, -np.inf)
        for m in range(start[host], start[host + 1]):
            f = member[m]
            if chart[f] == host:
                for c in range(3):
                    marked[faces[f, c]] = host
                    for k in range(2):
                        place[faces[f, c], k] = corners[f, c, k]
                        low[k], high[k] = min(low[k], corners[f, c, k]), max(high[k], corners[f, c, k])
        low -= _PAD / scale
        high += _PAD / scale
        width, rows = int((high[0] - low[0]) * scale) + 2, int((high[1] - low[1]) * scale) + 2
        owner = np.full(width * rows, -1, np.int32)
        for m in range(start[host], start[host + 1]):
            if chart[member[m]] == host:
                claims(corners[member[m]], low, scale, owner, 0, width, host, True)
        head = 0
        while head < tail:
            g = queue[head]
            head += 1
            fresh = _fold_out(vertices, faces[g], marked, place, host, flat)
            if fresh < 0 or not _keeps_shape(vertices, faces[g], flat, area[g]):
                continue
            if fresh < 3 and not (low[0] < flat[fresh, 0] < high[0] and low[1] < flat[fresh, 1] < high[1]):
                continue
            if not claims(flat, low, scale, owner, 0, width, host, False):
                continue
            claims(flat, low, scale, owner, 0, width, host, True)
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
