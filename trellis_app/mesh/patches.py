"""Divide charts laid flat into connected patches that do not lie on themselves."""

from __future__ import annotations

import numpy as np
from numba import njit


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
def grow_patches(
    corners: np.ndarray, members: np.ndarray, label: np.ndarray, partner: np.ndarray, area: np.ndarray, scale: float,
    patch: np.ndarray, fresh: int,
) -> None:  # fmt: skip
    """Divide a chart into connected patches no two faces of which share a texel centre at `scale` texels a world unit.

    members: its faces; patch int32 [F]: -1 before, and `fresh` + 0, 1, .. after; -2 for faces that stay out. A patch
    starts at the largest face of the chart, the next ones at the first face left.
    """
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    largest = members[0]
    for f in members:
        if patch[f] == -1 and (area[f] > area[largest] or patch[largest] != -1):
            largest = f
        for i in range(3):
            for k in range(2):
                low[k], high[k] = min(low[k], corners[f, i, k]), max(high[k], corners[f, i, k])
    width, height = int((high[0] - low[0]) * scale) + 2, int((high[1] - low[1]) * scale) + 2
    owner = np.full(width * height, -1, np.int32)
    queue, turned_away = np.empty(len(members), np.int32), np.empty(len(members), np.int32)
    for start in range(-1, len(members)):
        seed = largest if start < 0 else members[start]
        if patch[seed] != -1:
            continue
        claims(corners[seed], low, scale, owner, 0, width, fresh, True)
        patch[seed], queue[0], head, tail, away = fresh, seed, 0, 1, 0
        while head < tail:
            f = queue[head]
            head += 1
            for c in range(3):
                g = partner[3 * f + c] // 3
                if g < 0 or patch[g] != -1 or label[g] != label[f]:
                    continue
                if claims(corners[g], low, scale, owner, 0, width, fresh, False):
                    claims(corners[g], low, scale, owner, 0, width, fresh, True)
                    patch[g], queue[tail] = fresh, g
                    tail += 1
                else:
                    patch[g], turned_away[away] = -3, g  # not asked again by this patch
                    away += 1
        for i in range(away):
            patch[turned_away[i]] = -1
        fresh += 1


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
