"""Cut a surface into charts that are nearly flat: bottom-up merging of faces by their normals.

Every face starts as a chart. In each round the neighbours that prefer each other merge (as in greedy region merging;
the error is that of Cohen-Steiner et al., "Variational Shape Approximation", 2004: area minus the length of the area
vector). A chart may be projected along its mean normal without turning a face over.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from trellis_app.mesh.surface import Surface, edge_table, face_cross, find_root, partners_across


@dataclass(frozen=True)
class ChartLimits:
    """How far the faces of one chart may bend."""

    flatness: float = 0.80  # least length of the area vector over the area; 1 is flat
    steepest: float = 0.42  # cosine between a face and the chart's axis below which a face is steep
    steep_share: float = 0.004  # share of the area that may be steep
    crumb: float = 0.0  # charts with less area than this (world units squared) take more bending to disappear

    def relaxed(self) -> tuple[float, float, float]:
        """Flatness, steepest and steep_share where one side is a crumb."""
        return 0.62, 0.2, 0.02


_STEEP = 0.12  # faces at a smaller cosine leave their chart in the end


@dataclass(frozen=True)
class _Faces:
    """What merging needs to know of a surface."""

    cross: np.ndarray  # float64 [F, 3]
    area: np.ndarray  # float64 [F]
    first: np.ndarray  # int32 [E] faces on both sides of the manifold edges
    second: np.ndarray  # int32 [E]
    length: np.ndarray  # float64 [E]
    perimeter: np.ndarray  # float64 [F]


def _gather(surface: Surface) -> _Faces:
    partner = partners_across(surface, edge_table(surface))
    points = surface.vertices.astype(np.float64)[surface.faces]
    sides = np.linalg.norm(points - points[:, (1, 2, 0)], axis=2)
    half = np.flatnonzero(partner > np.arange(len(partner)))
    cross = 0.5 * face_cross(surface)
    area = np.linalg.norm(cross, axis=1)
    first, second = half // 3, partner[half] // 3
    return _Faces(cross, area, first, second, sides.reshape(-1)[half], sides.sum(axis=1))


@njit(cache=True, nogil=True)
def _best_partners(
    low: np.ndarray, high: np.ndarray, length: np.ndarray, vector: np.ndarray, area: np.ndarray, around: np.ndarray,
    limits: tuple[float, float, float],
) -> np.ndarray:  # fmt: skip
    """For each chart the neighbour it would rather merge with, or -1; only mutual choices are kept."""
    count = len(area)
    best, choice = np.full(count, np.inf), np.full(count, -1, np.int32)
    flatness, crumb_flatness, crumb = limits
    for k in range(len(low)):
        a, b = low[k], high[k]
        x, y, z = vector[a, 0] + vector[b, 0], vector[a, 1] + vector[b, 1], vector[a, 2] + vector[b, 2]
        total, long = area[a] + area[b], np.sqrt(x * x + y * y + z * z)
        small = min(area[a], area[b])
        if long < (crumb_flatness if small < crumb else flatness) * total:
            continue
        long_a = np.sqrt(vector[a, 0] ** 2 + vector[a, 1] ** 2 + vector[a, 2] ** 2)
        long_b = np.sqrt(vector[b, 0] ** 2 + vector[b, 1] ** 2 + vector[b, 2] ** 2)
        bend = (long_a + long_b - long) / max(small, 1e-30)
        rim = around[a] + around[b] - 2.0 * length[k]
        cost = (max(bend, 0.0) + 0.02) * rim  # short rims first: charts grow evenly, in few rounds
        if cost < best[a] or (cost == best[a] and b < choice[a]):
            best[a], choice[a] = cost, b
        if cost < best[b] or (cost == best[b] and a < choice[b]):
            best[b], choice[b] = cost, a
    for a in range(count):
        b = choice[a]
        if (b > a and choice[b] != a) or (0 <= b < a and choice[b] != a):
            choice[a] = -1
    return choice


@njit(cache=True, nogil=True)
def _steep_area(
    label: np.ndarray, target: np.ndarray, cross: np.ndarray, area: np.ndarray, axis: np.ndarray, cosine: np.ndarray
) -> np.ndarray:
    """Area of the faces of each merged chart that are steeper than its cosine allows."""
    steep = np.zeros(len(axis))
    for f in range(len(label)):
        chart = target[label[f]]
        if cosine[chart] < -1.0:
            continue
        dot = cross[f, 0] * axis[chart, 0] + cross[f, 1] * axis[chart, 1] + cross[f, 2] * axis[chart, 2]
        if dot < cosine[chart] * area[f]:
            steep[chart] += area[f]
    return steep


def _pairs(faces: _Faces, label: np.ndarray, open_edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(key of each chart pair, pair of each open edge, shared length of each pair); key = low * 2^32 + high."""
    a, b = label[faces.first[open_edges]], label[faces.second[open_edges]]
    key = (np.minimum(a, b).astype(np.int64) << 32) | np.maximum(a, b)
    keys, inverse = np.unique(key, return_inverse=True)
    return keys, inverse, np.bincount(inverse, weights=faces.length[open_edges], minlength=len(keys))


def _merge(faces: _Faces, label: np.ndarray, open_edges: np.ndarray, limits: ChartLimits) -> np.ndarray:
    """Merge charts across the open edges (indices) until no two want to; labels int32 [F] 0..C-1."""
    crumb_flatness, crumb_steepest, crumb_share = limits.relaxed()
    while True:
        open_edges = open_edges[label[faces.first[open_edges]] != label[faces.second[open_edges]]]
        count = int(label.max()) + 1
        area = np.bincount(label, weights=faces.area, minlength=count)
        vector = np.stack([np.bincount(label, weights=faces.cross[:, k], minlength=count) for k in range(3)], axis=1)
        keys, pair, length = _pairs(faces, label, open_edges)
        if not len(keys):
            return label
        low, high = keys >> 32, keys & 0xFFFFFFFF
        rims = np.bincount(label, weights=faces.perimeter, minlength=count)
        around = rims - 2.0 * _inner_length(faces, label, count)
        choice = _best_partners(
            low, high, length, vector, area, around, (limits.flatness, crumb_flatness, limits.crumb)
        )
        target = np.arange(count)
        follow = np.flatnonzero((choice >= 0) & (choice < target))
        if not len(follow):
            return label
        target[follow] = choice[follow]
        axis = vector.copy()
        np.add.at(axis, target[follow], vector[follow])
        axis /= np.maximum(np.linalg.norm(axis, axis=1, keepdims=True), 1e-300)
        total = np.bincount(target, weights=area, minlength=count)
        crumb = np.minimum(area[follow], area[target[follow]]) < limits.crumb
        cosine, share = np.full(count, -2.0), np.zeros(count)
        cosine[target[follow]] = np.where(crumb, crumb_steepest, limits.steepest)
        share[target[follow]] = np.where(crumb, crumb_share, limits.steep_share)
        refused = _steep_area(label, target, faces.cross, faces.area, axis, cosine) > share * total
        undo = follow[refused[target[follow]]]
        refused_keys = (target[undo].astype(np.int64) << 32) | undo
        target[undo] = undo
        open_edges = open_edges[~np.isin(keys, refused_keys)[pair]]
        label = np.unique(target[label], return_inverse=True)[1]


def _inner_length(faces: _Faces, label: np.ndarray, count: int) -> np.ndarray:
    inner = label[faces.first] == label[faces.second]
    return np.bincount(label[faces.first[inner]], weights=faces.length[inner], minlength=count)


@njit(cache=True, nogil=True)
def _connected(label: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Split each label into its connected parts."""
    parent = np.arange(len(label))
    for e in range(len(first)):
        if label[first[e]] == label[second[e]]:
            a, b = find_root(parent, first[e]), find_root(parent, second[e])
            parent[max(a, b)] = min(a, b)
    for f in range(len(label)):
        parent[f] = find_root(parent, f)
    return parent


def chart_axes(surface: Surface, chart: np.ndarray) -> np.ndarray:
    """Unit mean normal of each chart, float64 [C, 3]."""
    cross = face_cross(surface)
    axis = np.stack([np.bincount(chart, weights=cross[:, k]) for k in range(3)], axis=1)
    length = np.linalg.norm(axis, axis=1, keepdims=True)
    return np.where(length > 0, axis / np.maximum(length, 1e-300), (0.0, 0.0, 1.0))


def connected_charts(surface: Surface, label: np.ndarray) -> np.ndarray:
    """The connected parts of each label as charts, int32 [F] numbered 0..C-1."""
    partner = partners_across(surface, edge_table(surface))
    half = np.flatnonzero(partner > np.arange(len(partner)))
    return np.unique(_connected(label, half // 3, partner[half] // 3), return_inverse=True)[1].astype(np.int32)


def cut_charts(surface: Surface, limits: ChartLimits) -> np.ndarray:
    """Chart of each face, int32 [F] numbered 0..C-1; charts are connected, their faces look along the chart's axis."""
    faces = _gather(surface)
    label = _merge(faces, np.arange(len(surface.faces)), np.arange(len(faces.first)), limits)
    return _release_steep(surface, faces, label, limits)


def recut(surface: Surface, chart: np.ndarray, which: np.ndarray, limits: ChartLimits) -> np.ndarray:
    """Cut the charts numbered `which` again with other limits; the rest stays as it is."""
    faces = _gather(surface)
    again = np.isin(chart, which)
    label = np.where(again, len(surface.faces) + np.arange(len(surface.faces)), chart)
    label = np.unique(label, return_inverse=True)[1]
    inside = np.flatnonzero(again[faces.first] & (chart[faces.first] == chart[faces.second]))
    return _release_steep(surface, faces, _merge(faces, label, inside, limits), limits)


def separate_faces(surface: Surface, chart: np.ndarray, out: np.ndarray, limits: ChartLimits) -> np.ndarray:
    """Take the faces of mask `out` from their charts into new charts; what remains of each chart is kept connected."""
    faces = _gather(surface)
    label = np.where(out, len(surface.faces) + np.arange(len(surface.faces)), chart)
    label = np.unique(label, return_inverse=True)[1]
    inside = np.flatnonzero(out[faces.first] & out[faces.second])
    label = _merge(faces, label, inside, limits)
    return np.unique(_connected(label, faces.first, faces.second), return_inverse=True)[1].astype(np.int32)


def _release_steep(surface: Surface, faces: _Faces, label: np.ndarray, limits: ChartLimits) -> np.ndarray:
    """Charts of their own for faces nearly parallel to the axis of theirs, until there are none."""
    for _ in range(8):
        axis = chart_axes(surface, label)[label]
        steep = np.einsum("ij,ij->i", faces.cross, axis) < _STEEP * faces.area
        if not steep.any():
            break
        label = separate_faces(surface, label, steep, limits)
    return np.unique(_connected(label, faces.first, faces.second), return_inverse=True)[1].astype(np.int32)
