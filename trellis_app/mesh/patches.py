"""Divide charts laid flat into connected patches that do not lie on themselves."""

from __future__ import annotations

import numpy as np
from numba import njit

from trellis_app.mesh.absorb import claims


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
