"""Divide charts laid flat into connected patches that do not lie on themselves, on all cores."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

_TEXELS = 1 << 26  # of the boxes of charts that are divided at a time


@njit(cache=True, nogil=True)
def texels_in(
    corners: np.ndarray, low: np.ndarray, scale: float, start: int, width: int, cells: np.ndarray
) -> int:  # fmt: skip
    """Write the texels whose centres a face holds to `cells`, and return how many there are.

    corners float64 [3, 2], low float64 [2] of the chart's box, in world units; `scale` texels a world unit. The box has
    rows of `width` texels, numbered from `start` on. A centre on an edge belongs to one face (top-left rule on corners
    snapped to 1/256 texel). cells: int64, as many as the box has at least.
    """
    x0, y0 = int((corners[0, 0] - low[0]) * scale * 256.0), int((corners[0, 1] - low[1]) * scale * 256.0)
    x1, y1 = int((corners[1, 0] - low[0]) * scale * 256.0), int((corners[1, 1] - low[1]) * scale * 256.0)
    x2, y2 = int((corners[2, 0] - low[0]) * scale * 256.0), int((corners[2, 1] - low[1]) * scale * 256.0)
    count = 0
    if (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0) <= 0:
        return count
    b0 = 0 if y2 < y1 or (y2 == y1 and x2 > x1) else -1
    b1 = 0 if y0 < y2 or (y0 == y2 and x0 > x2) else -1
    b2 = 0 if y1 < y0 or (y1 == y0 and x1 > x0) else -1
    left, right = (min(x0, x1, x2) + 127) >> 8, (max(x0, x1, x2) - 128) >> 8
    px = left * 256 + 128
    for row in range((min(y0, y1, y2) + 127) >> 8, ((max(y0, y1, y2) - 128) >> 8) + 1):
        py = row * 256 + 128
        e0 = (x2 - x1) * (py - y1) - (y2 - y1) * (px - x1) + b0
        e1 = (x0 - x2) * (py - y2) - (y0 - y2) * (px - x2) + b1
        e2 = (x1 - x0) * (py - y0) - (y1 - y0) * (px - x0) + b2
        for column in range(left, right + 1):
            if (e0 | e1 | e2) >= 0:
                cells[count] = start + row * width + column
                count += 1
            e0, e1, e2 = e0 - 256 * (y2 - y1), e1 - 256 * (y0 - y2), e2 - 256 * (y1 - y0)
    return count


@njit(cache=True, nogil=True)
def claimed(owner: np.ndarray, cells: np.ndarray, count: int, patch: int) -> bool:
    """Whether none of the first `count` cells belongs to the patch already; then they do."""
    for i in range(count):
        if owner[cells[i]] == patch:
            return False
    for i in range(count):
        owner[cells[i]] = patch
    return True


Box = tuple[np.ndarray, float, int, int, np.ndarray, np.ndarray]


@njit(cache=True, nogil=True)
def _room(box: Box, corners: np.ndarray, contested: bool, number: int) -> bool:
    """Whether patch `number` has room for a face, which claims its texels; what nobody contests has room."""
    if not contested:
        return True
    low, scale, start, width, owner, cells = box
    return claimed(owner, cells, texels_in(corners, low, scale, start, width, cells), -2 - number)


@njit(cache=True, nogil=True)
def _grow_in_chart(
    corners: np.ndarray, faces: np.ndarray, contested: np.ndarray, mesh: tuple[np.ndarray, np.ndarray, np.ndarray],
    box: Box, patch: np.ndarray, fresh: int,
) -> None:  # fmt: skip
    """Divide one chart (its faces, patch -1) into connected patches numbered from `fresh` on; mesh as below.

    box: `texels_in` of the chart's faces, and who owns which texel, in numbers below -1.
    """
    label, partner, area = mesh
    largest = faces[0]
    for f in faces:
        if patch[f] == -1 and (area[f] > area[largest] or patch[largest] != -1):
            largest = f
    queue, turned_away = np.empty(len(faces), np.int32), np.empty(len(faces), np.int32)
    for start in range(-1, len(faces)):
        seed = largest if start < 0 else faces[start]
        if patch[seed] != -1:
            continue
        _room(box, corners[seed], contested[seed], fresh)
        patch[seed], queue[0], head, tail, away = fresh, seed, 0, 1, 0
        while head < tail:
            f = queue[head]
            head += 1
            for c in range(3):
                g = partner[3 * f + c] // 3
                if g < 0 or patch[g] != -1 or label[g] != label[f]:
                    continue
                if _room(box, corners[g], contested[g], fresh):
                    patch[g], queue[tail] = fresh, g
                    tail += 1
                else:
                    patch[g], turned_away[away] = -3, g  # not asked again by this patch
                    away += 1
        for i in range(away):
            patch[turned_away[i]] = -1
        fresh += 1


@njit(cache=True, nogil=True, parallel=True)
def _grow(
    corners: np.ndarray, mesh: tuple[np.ndarray, np.ndarray, np.ndarray], groups: tuple[np.ndarray, np.ndarray],
    boxes: tuple[np.ndarray, np.ndarray], offset: np.ndarray, scale: float, patch: np.ndarray, charts: tuple[int, int],
) -> None:  # fmt: skip
    """`grow_patches` of the charts from the first to before the last one of `charts`.

    offset int64 [C + 1]: where the texels of these charts' boxes begin. Threads race for a texel, but whoever wins it,
    all faces that share it are found.
    """
    label = mesh[0]
    start, member = groups
    low, size = boxes
    first, last = charts
    owner, most = np.empty(offset[last] - offset[first], np.int32), 0
    for k in range(first, last):
        most = max(most, size[k, 0] * size[k, 1])
    contested, chunk = np.zeros(len(label), np.bool_), 4096
    chunks = (start[last] - start[first] + chunk - 1) // chunk
    for draw in (True, False):
        for job in prange(chunks):
            cells = np.empty(most, np.int64)
            for m in range(start[first] + job * chunk, min(start[first] + (job + 1) * chunk, start[last])):
                f, k = member[m], label[member[m]]
                if patch[f] != -1:
                    continue
                count = texels_in(corners[f], low[k], scale, offset[k] - offset[first], size[k, 0], cells)
                for i in range(count):
                    if draw:
                        owner[cells[i]] = f
                    elif owner[cells[i]] != f:
                        contested[f] = contested[owner[cells[i]]] = True
    jobs = 64
    for job in prange(jobs):
        cells = np.empty(most, np.int64)
        for k in range(first + (job * 37) % jobs, last, jobs):
            if start[k + 1] > start[k]:
                faces = member[start[k] : start[k + 1]]
                box = (low[k], scale, offset[k] - offset[first], size[k, 0], owner, cells)
                _grow_in_chart(corners, faces, contested, mesh, box, patch, start[k])


def grow_patches(
    corners: np.ndarray, mesh: tuple[np.ndarray, np.ndarray, np.ndarray], groups: tuple[np.ndarray, np.ndarray],
    boxes: tuple[np.ndarray, np.ndarray], scale: float, patch: np.ndarray,
) -> None:  # fmt: skip
    """Divide charts into connected patches no two faces of which share a texel centre at `scale` texels a world unit.

    mesh: chart int32 [F] and area of each face, and between them the half-edge across each; groups: start and member,
    where member[start[k] : start[k + 1]] are the faces of chart k; boxes: the least x and y of each chart float64
    [C, 2], and the texels across and up int64 [C, 2]. patch int32 [F]: -1 before, and start[k] + 0, 1, .. after; -2 for
    faces that stay out. A patch starts at the largest face of the chart, the next ones at the first face left.
    """
    offset = np.concatenate([[0], np.cumsum(boxes[1].prod(axis=1))])
    first, count = 0, len(offset) - 1
    while first < count:
        last = max(int(np.searchsorted(offset, offset[first] + _TEXELS, side="right")) - 1, first + 1)
        _grow(corners, mesh, groups, boxes, offset, scale, patch, (first, last))
        first = last


@njit(cache=True, nogil=True)
def numbered(patch: np.ndarray, todo: np.ndarray, final: np.ndarray, count: int) -> tuple[int, int]:
    """Give the patches of the faces todo consecutive numbers from `count` on: (numbers used, faces without a patch)."""
    number = np.full(len(patch), -1, np.int32)
    left = 0
    for f in todo:
        if patch[f] < 0:
            left += 1
            continue
        if number[patch[f]] < 0:
            number[patch[f]] = count
            count += 1
        final[f] = number[patch[f]]
    return count, left


@njit(cache=True, nogil=True)
def members(label: np.ndarray, todo: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Faces todo grouped by label: int64 [C + 1] into int32 [n]."""
    start = np.zeros(count + 1, np.int64)
    for f in todo:
        start[label[f] + 1] += 1
    for c in range(count):
        start[c + 1] += start[c]
    fill, member = start[:-1].copy(), np.empty(len(todo), np.int32)
    for f in todo:
        member[fill[label[f]]] = f
        fill[label[f]] += 1
    return start, member
