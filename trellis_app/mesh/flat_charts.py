"""Charts laid flat: each turned until its box is tight, at the scale of the surface, at the origin; on all cores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from trellis_app.mesh.patches import members
from trellis_app.mesh.surface import find_root, number_roots

_ANGLES = 24  # out of a quarter turn, that are tried


@dataclass(frozen=True)
class FlatCharts:
    """Charts laid flat, each with its least x and y at 0."""

    chart: np.ndarray  # int32 [F] 0..C-1, connected
    corners: np.ndarray  # float64 [F, 3, 2] world units, counter-clockwise
    extent: np.ndarray  # float64 [C, 2] width and height
    filled: np.ndarray  # float64 [C] area of the faces
    start: np.ndarray  # int64 [C + 1] into `member`
    member: np.ndarray  # int32 [F] faces grouped by chart, rising within a chart


@njit(cache=True, nogil=True)
def _meet(corners: np.ndarray, half: int, other: int) -> bool:
    """Whether a half-edge lies where the one across it lies, that is, is no seam."""
    f, g = half // 3, other // 3
    for i in range(2):
        for k in range(2):
            if corners[f, (half + i) % 3, k] != corners[g, (other + 1 - i) % 3, k]:
                return False
    return True


@njit(cache=True, nogil=True)
def _rim(corners: np.ndarray, faces: np.ndarray, chart: np.ndarray, partner: np.ndarray) -> np.ndarray:
    """Where the half-edges begin that bound a chart with these faces or are seams, float64 [n, 2]."""
    out, count = np.empty((3 * len(faces), 2)), 0
    for f in faces:
        for c in range(3):
            other = partner[3 * f + c]
            if other < 0 or chart[other // 3] != chart[f] or not _meet(corners, 3 * f + c, other):
                out[count, 0], out[count, 1] = corners[f, c, 0], corners[f, c, 1]
                count += 1
    return out[:count]


@njit(cache=True, nogil=True)
def _tight_angle(rim: np.ndarray) -> float:
    """The angle out of a quarter turn under which the box of points [n, 2] has the least area."""
    best, angle = np.inf, 0.0
    for k in range(_ANGLES):
        turn = 0.5 * np.pi * k / _ANGLES
        c, s = np.cos(turn), np.sin(turn)
        left, right, bottom, top = np.inf, -np.inf, np.inf, -np.inf
        for i in range(len(rim)):
            x, y = c * rim[i, 0] - s * rim[i, 1], s * rim[i, 0] + c * rim[i, 1]
            left, right, bottom, top = min(left, x), max(right, x), min(bottom, y), max(top, y)
        box = (right - left) * (top - bottom)
        if box < best * (1.0 - 1e-6):
            best, angle = box, turn
    return angle


@njit(cache=True, nogil=True)
def _cross(corners: np.ndarray, f: int) -> float:
    """Twice the signed area of a face."""
    ax, ay = corners[f, 1, 0] - corners[f, 0, 0], corners[f, 1, 1] - corners[f, 0, 1]
    bx, by = corners[f, 2, 0] - corners[f, 0, 0], corners[f, 2, 1] - corners[f, 0, 1]
    return ax * by - ay * bx


@njit(cache=True, nogil=True)
def _growth(corners: np.ndarray, faces: np.ndarray, area: np.ndarray) -> float:
    """How much a chart must grow to keep its surface area, 1 .. sqrt 2."""
    true, flat = 0.0, 0.0
    for f in faces:
        true += area[f]
        flat += max(0.5 * _cross(corners, f), 0.0)
    return np.sqrt(min(max(true / max(flat, 1e-30), 1.0), 2.0))


@njit(cache=True, nogil=True, parallel=True)
def _set_upright(
    corners: np.ndarray, chart: np.ndarray, groups: tuple[np.ndarray, np.ndarray], partner: np.ndarray,
    area: np.ndarray, out: np.ndarray, extent: np.ndarray, filled: np.ndarray,
) -> None:  # fmt: skip
    """Write corners, extents and areas of charts as they stand in FlatCharts; groups: `start` and `member` there."""
    start, member = groups
    jobs = 64
    for job in prange(jobs):
        for k in range((job * 37) % jobs, len(start) - 1, jobs):
            faces = member[start[k] : start[k + 1]]
            angle, growth = _tight_angle(_rim(corners, faces, chart, partner)), _growth(corners, faces, area)
            c, s = growth * np.cos(angle), growth * np.sin(angle)
            left, right, bottom, top = np.inf, -np.inf, np.inf, -np.inf
            for f in faces:
                for i in range(3):
                    x, y = c * corners[f, i, 0] - s * corners[f, i, 1], s * corners[f, i, 0] + c * corners[f, i, 1]
                    left, right, bottom, top = min(left, x), max(right, x), min(bottom, y), max(top, y)
                    out[f, i, 0], out[f, i, 1] = x, y
            for f in faces:
                for i in range(3):
                    out[f, i, 0] -= left
                    out[f, i, 1] -= bottom
                filled[k] += 0.5 * abs(_cross(out, f))
            extent[k, 0], extent[k, 1] = right - left, top - bottom


def upright(corners: np.ndarray, chart: np.ndarray, partner: np.ndarray, area: np.ndarray) -> FlatCharts:
    """Connected charts int32 [F] (all of 0..C-1) from corners float64 [F, 3, 2] in a plane of each.

    partner int64 [3 F] (surface.partners_across); area float64 [F] of the faces.
    """
    count = int(chart.max()) + 1
    start, member = members(chart, np.arange(len(chart)), count)
    flat = FlatCharts(chart, np.empty_like(corners), np.zeros((count, 2)), np.zeros(count), start, member)
    _set_upright(corners, chart, (start, member), partner, area, flat.corners, flat.extent, flat.filled)
    return flat


@njit(cache=True, nogil=True)
def connected(corners: np.ndarray, chart: np.ndarray, partner: np.ndarray) -> np.ndarray:
    """Parts of the charts that hang together where they lie, int32 [F] numbered by their first face."""
    parent = np.arange(len(chart))
    for h in range(len(partner)):
        other = partner[h]
        if other > h and chart[h // 3] == chart[other // 3] and _meet(corners, h, other):
            a, b = find_root(parent, h // 3), find_root(parent, other // 3)
            parent[max(a, b)] = min(a, b)
    return number_roots(parent)


@njit(cache=True, nogil=True)
def _pieces(corners: np.ndarray, chart: np.ndarray, cell: np.ndarray, partner: np.ndarray) -> np.ndarray:
    """Connected parts of connected charts int32 [F] within cells, int32 [F] numbered by their first face."""
    parent, first = np.arange(len(chart)), np.full(len(cell), -1)
    place = np.zeros(len(chart), np.int64)
    for f in range(len(chart)):
        k = chart[f]
        if first[k] < 0:
            first[k] = f
        if cell[k] < np.inf:
            x, y = corners[f, 0, 0] + corners[f, 1, 0], corners[f, 0, 1] + corners[f, 1, 1]
            x, y = (x + corners[f, 2, 0]) / 3.0 / cell[k], (y + corners[f, 2, 1]) / 3.0 / cell[k]
            place[f] = (np.int64(x) << 32) | np.int64(y)
        else:
            parent[f] = first[k]
    for h in range(len(partner)):
        other = partner[h]
        if other > h and cell[chart[h // 3]] < np.inf:
            f, g = h // 3, other // 3
            if chart[f] == chart[g] and place[f] == place[g] and _meet(corners, h, other):
                a, b = find_root(parent, f), find_root(parent, g)
                parent[max(a, b)] = min(a, b)
    return number_roots(parent)


def divided(flat: FlatCharts, cell: np.ndarray, partner: np.ndarray, area: np.ndarray) -> FlatCharts:
    """The charts cut along square cells of their own side, float64 [C] in world units, infinite for those kept whole.

    partner int64 [3 F]; area float64 [F] of the faces.
    """
    return upright(flat.corners, _pieces(flat.corners, flat.chart, cell, partner), partner, area)
