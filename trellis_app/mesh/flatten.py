"""Lay charts flat: project along the mean normal, untangle folds, release what still folds or overlaps.

charts ─project▶ corners ─untangle▶ ─overlaps▶ faces that fold or lie on others leave as new charts ─▶ again
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from trellis_app.mesh.absorb import absorb
from trellis_app.mesh.flat_charts import FlatCharts, connected, upright
from trellis_app.mesh.patches import grow_patches, members, numbered
from trellis_app.mesh.surface import Surface, area_vectors, find_root
from trellis_app.progress import Check, go_on

CRUMB = 400.0  # charts with less than this many texels fold out onto larger neighbours
_ROUNDS = 16  # of smoothing the points of folds
_ATTEMPTS = 10  # rounds of releasing faces; those of the last ones leave one by one
_SQUEEZED = 0.05  # flat over true area below which a face leaves its chart
_FOLDED = 0.12  # the same below which it is untangled first
_ALIKE = 0.5  # cosine between neighbours that leave as one chart


@njit(cache=True, nogil=True)
def _axes(cross: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Frame float64 [3, 3] of a chart: two axes in the plane and the unit mean normal, right-handed."""
    frame = np.zeros((3, 3))
    n = frame[2]
    for f in members:
        for k in range(3):
            n[k] += cross[f, k]
    length = np.sqrt(n[0] ** 2 + n[1] ** 2 + n[2] ** 2)
    if length > 0.0:
        n /= length
    else:
        n[2] = 1.0
    axis = 0 if abs(n[0]) <= abs(n[1]) and abs(n[0]) <= abs(n[2]) else (1 if abs(n[1]) <= abs(n[2]) else 2)
    e = -n[axis] * n
    e[axis] += 1.0
    e /= np.sqrt(e[0] ** 2 + e[1] ** 2 + e[2] ** 2)
    frame[0] = e
    frame[1, 0] = n[1] * e[2] - n[2] * e[1]
    frame[1, 1] = n[2] * e[0] - n[0] * e[2]
    frame[1, 2] = n[0] * e[1] - n[1] * e[0]
    return frame


@njit(cache=True, nogil=True)
def _projected(
    vertices: np.ndarray, faces: np.ndarray, members: np.ndarray, axes: np.ndarray, number: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(point of each corner of a chart's faces int32 [n, 3], positions float64 [P, 2] of the points in its plane).

    number: int32 [V], -1 before and after.
    """
    index, position, count = np.empty((len(members), 3), np.int32), np.empty((3 * len(members), 2)), 0
    for i in range(len(members)):
        for c in range(3):
            v = faces[members[i], c]
            if number[v] < 0:
                number[v] = count
                p = vertices[v]
                for k in range(2):
                    position[count, k] = p[0] * axes[k, 0] + p[1] * axes[k, 1] + p[2] * axes[k, 2]
                count += 1
            index[i, c] = number[v]
    for f in members:
        for c in range(3):
            number[faces[f, c]] = -1
    return index, position[:count]


@njit(cache=True, nogil=True)
def _flat_area(position: np.ndarray, index: np.ndarray, i: int) -> float:
    a, b, c = index[i, 0], index[i, 1], index[i, 2]
    abx, aby = position[b, 0] - position[a, 0], position[b, 1] - position[a, 1]
    acx, acy = position[c, 0] - position[a, 0], position[c, 1] - position[a, 1]
    return 0.5 * (abx * acy - aby * acx)


@njit(cache=True, nogil=True)
def _untangle(
    position: np.ndarray, index: np.ndarray, area: np.ndarray, todo: np.ndarray, chart: np.ndarray, partner: np.ndarray
) -> None:
    """Move the inner points of folded faces and of their neighbours to the middle of the points around them."""
    fixed, moves = np.zeros(len(position), np.bool_), np.zeros(len(position), np.bool_)
    any_folded = False
    for i in range(len(todo)):
        for c in range(3):
            other = partner[3 * todo[i] + c]
            if other < 0 or chart[other // 3] != chart[todo[i]]:
                fixed[index[i, c]] = True
                fixed[index[i, (c + 1) % 3]] = True
        if _flat_area(position, index, i) < _FOLDED * area[todo[i]]:
            any_folded = True
            for c in range(3):
                moves[index[i, c]] = True
    if not any_folded:
        return
    core = moves & ~fixed
    for i in range(len(todo)):
        if core[index[i, 0]] or core[index[i, 1]] or core[index[i, 2]]:
            for c in range(3):
                moves[index[i, c]] = True
    moves &= ~fixed
    active = np.empty(len(todo), np.int64)
    count = 0
    for i in range(len(todo)):
        if moves[index[i, 0]] or moves[index[i, 1]] or moves[index[i, 2]]:
            active[count] = i
            count += 1
    total, weight = np.zeros((len(position), 2)), np.zeros(len(position))
    for _ in range(_ROUNDS):
        for j in range(count):
            for c in range(3):
                total[index[active[j], c]] = 0.0
                weight[index[active[j], c]] = 0.0
        for j in range(count):
            i = active[j]
            for c in range(3):
                p, q, r = index[i, c], index[i, (c + 1) % 3], index[i, (c + 2) % 3]
                total[p, 0] += position[q, 0] + position[r, 0]
                total[p, 1] += position[q, 1] + position[r, 1]
                weight[p] += 2.0
        for j in range(count):
            for c in range(3):
                p = index[active[j], c]
                if moves[p] and weight[p] > 0.0:
                    position[p] = total[p] / weight[p]
                    weight[p] = 0.0


@njit(cache=True, nogil=True)
def _lay(
    position: np.ndarray, index: np.ndarray, area: np.ndarray, members: np.ndarray, corners: np.ndarray,
    patch: np.ndarray,
) -> None:  # fmt: skip
    """Write the corners of a chart's faces, and -2 as the patch of those that are folded or squeezed, else -1."""
    for i in range(len(members)):
        f = members[i]
        folded = _flat_area(position, index, i) < _SQUEEZED * area[f]
        patch[f] = -2 if folded and area[f] > 0.0 else -1
        for c in range(3):
            corners[f, c] = position[index[i, c]]


@njit(cache=True, nogil=True, parallel=True)
def _laid(
    surface: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], label: np.ndarray,
    groups: tuple[np.ndarray, np.ndarray], partner: np.ndarray, scale: float, corners: np.ndarray, patch: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Lay charts flat; the boxes that they need, as patches.grow_patches wants them.

    surface: vertices, faces, and area vectors and areas of the faces; groups: start and member, where
    member[start[k] : start[k + 1]] are the faces of chart k. Writes corners float64 [F, 3, 2], and to patch int32 [F]
    -2 for faces that fold, -1 for others.
    """
    vertices, faces, cross, area = surface
    start, member = groups
    low, size = np.zeros((len(start) - 1, 2)), np.zeros((len(start) - 1, 2), np.int64)
    jobs = 64
    for job in prange(jobs):
        number = np.full(len(vertices), -1, np.int32)
        for k in range((job * 37) % jobs, len(start) - 1, jobs):
            members = member[start[k] : start[k + 1]]
            if len(members) == 0:
                continue
            index, position = _projected(vertices, faces, members, _axes(cross, members), number)
            _untangle(position, index, area, members, label, partner)
            _lay(position, index, area, members, corners, patch)
            for i in range(2):
                least, most = np.inf, -np.inf
                for p in range(len(position)):
                    least, most = min(least, position[p, i]), max(most, position[p, i])
                low[k, i], size[k, i] = least, int((most - least) * scale) + 2
    return low, size


@njit(cache=True, nogil=True)
def _leave_together(
    leaving: np.ndarray, alone: bool, chart: np.ndarray, partner: np.ndarray, cross: np.ndarray, area: np.ndarray,
    fresh: int,
) -> int:  # fmt: skip
    """Give the faces `leaving` (indices) new chart numbers from `fresh` on, the same where neighbours are alike."""
    place = np.full(len(chart), -1, np.int32)
    for i in range(len(leaving)):
        place[leaving[i]] = i
    parent = np.arange(len(leaving))
    for i in range(len(leaving)):
        f = leaving[i]
        for c in range(3):
            other = partner[3 * f + c]
            if alone or other < 0 or place[other // 3] < 0 or chart[other // 3] != chart[f]:
                continue
            g = other // 3
            dot = cross[f, 0] * cross[g, 0] + cross[f, 1] * cross[g, 1] + cross[f, 2] * cross[g, 2]
            if dot > _ALIKE * area[f] * area[g]:
                a, b = find_root(parent, i), find_root(parent, place[g])
                parent[max(a, b)] = min(a, b)
    for i in range(len(leaving)):
        root = find_root(parent, i)
        if root == i:
            chart[leaving[i]] = fresh
            fresh += 1
        else:
            chart[leaving[i]] = chart[leaving[root]]
    return fresh


def lay_flat(
    surface: Surface, chart: np.ndarray, partner: np.ndarray, *, texels: float, check: Check = go_on
) -> FlatCharts:
    """Lay every chart flat so that no texel centre at `texels` a world unit lies in two faces of a chart.

    chart int [F] 0..C-1; partner int [3 F] (charts.half_edge_partners). A chart that lies on itself is divided; faces
    that fold over leave it and become charts of their own with the neighbours that leave beside them.
    """
    label, partner = chart.astype(np.int32), np.ascontiguousarray(partner, dtype=np.int64)
    cross = area_vectors(surface)
    x, y, z = cross.T
    area = np.sqrt(x * x + y * y + z * z)
    corners, final = np.zeros((len(label), 3, 2)), np.full(len(label), -1, np.int32)
    count, todo = 0, np.arange(len(label))
    for attempt in range(_ATTEMPTS):
        check()
        charts = int(label[todo].max()) + 1
        patch = np.full(len(label), -2, np.int32)
        groups = members(label, todo, charts)
        boxes = _laid((surface.vertices, surface.faces, cross, area), label, groups, partner, texels, corners, patch)
        check()
        grow_patches(corners, (label, partner, area), groups, boxes, texels, patch)
        count, left = numbered(patch, todo, final, count)
        if not left:
            break
        todo = todo[patch[todo] < 0]
        relabelled = np.full(len(label), -1, np.int32)
        relabelled[todo] = label[todo]
        _leave_together(todo, attempt >= _ATTEMPTS - 3, relabelled, partner, cross, area, 0)
        label = relabelled
    lost = np.flatnonzero(final < 0)  # slivers that no plane shows the right way round
    corners[lost] = corners[lost, :1]
    final[lost] = count + np.arange(len(lost), dtype=np.int32)
    absorb(surface.vertices, surface.faces, corners, final, partner, area, texels, CRUMB / texels**2)
    return upright(corners, connected(corners, final, partner), partner, area)
