"""Cut a surface into charts that are nearly flat: bottom-up merging of faces by their normals.

Every face starts as a chart. In each round the neighbours that prefer each other merge (as in greedy region merging;
the error is that of Cohen-Steiner et al., "Variational Shape Approximation", 2004: area minus the length of the area
vector). Sums are kept as integers, so the order of additions does not matter; mesh/gpu/charts.py does the same in
parallel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from trellis_app.mesh.surface import Surface, area_vectors
from trellis_app.progress import Check, go_on

UNITS = 2.0**40  # integer units of the whole area, and of the length of all edges
SATELLITE = 16  # a chart with less than this part of its neighbour's area joins it without being asked back
CRUMB_STEPS = (0.1, 1.0)  # crumbs disappear in this order of size, in parts of ChartLimits.crumb

Graph = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class ChartLimits:
    """How far the faces of one chart may bend."""

    flatness: float = 0.80  # least length of the area vector over the area; 1 is flat
    bend: float = 0.60  # most that a part's area vector may shorten by joining, over the part's area; 1 - cosine
    crumb: float = 0.0  # share of the whole area below which a chart takes more bending to disappear
    crumb_flatness: float = 0.55
    crumb_bend: float = 0.95


@njit(cache=True, nogil=True)
def _joined(graph: Graph, number: np.ndarray, count: int) -> Graph:
    """The graph of `count` charts after giving chart c the number number[c]; parallel borders become one, in order."""
    old_area, old_vector, old_rim, low, high, length = graph
    area, vector, rim = np.zeros(count, np.int64), np.zeros((count, 3), np.int64), np.zeros(count, np.int64)
    for c in range(len(number)):
        area[number[c]] += old_area[c]
        vector[number[c]] += old_vector[c]
        rim[number[c]] += old_rim[c]
    a, b, pairs = np.empty(len(low), np.int32), np.empty(len(low), np.int32), 0
    long = np.empty(len(low), np.int64)
    by_high, by_low = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    for k in range(len(low)):
        x, y = number[low[k]], number[high[k]]
        if x == y:
            rim[x] -= 2 * length[k]
            continue
        a[pairs], b[pairs], long[pairs] = min(x, y), max(x, y), length[k]
        by_low[a[pairs] + 1] += 1
        by_high[b[pairs] + 1] += 1
        pairs += 1
    for c in range(count):
        by_low[c + 1] += by_low[c]
        by_high[c + 1] += by_high[c]
    first, order = np.empty(pairs, np.int32), np.empty(pairs, np.int32)
    for k in range(pairs):
        first[by_high[b[k]]] = k
        by_high[b[k]] += 1
    for i in range(pairs):
        k = first[i]
        order[by_low[a[k]]] = k
        by_low[a[k]] += 1
    new_low, new_high, new_length = np.empty(pairs, np.int32), np.empty(pairs, np.int32), np.zeros(pairs, np.int64)
    fresh = -1
    for i in range(pairs):
        k = order[i]
        if fresh < 0 or new_low[fresh] != a[k] or new_high[fresh] != b[k]:
            fresh += 1
            new_low[fresh], new_high[fresh] = a[k], b[k]
        new_length[fresh] += long[k]
    fresh += 1
    return area, vector, rim, new_low[:fresh].copy(), new_high[:fresh].copy(), new_length[:fresh].copy()


@njit(cache=True, nogil=True)
def _chosen(graph: Graph, flatness: float, most_bend: float, crumb: float) -> tuple[np.ndarray, int]:
    """(new number int32 [C] of each chart, how many are left) after one round of merging.

    Two charts join where each is the other's cheapest neighbour. A chart far smaller than its cheapest neighbour joins
    it in any case, unless that one is small beside its own. Only pairs with a chart of less area than `crumb` count.
    """
    area, vector, rim, low, high, length = graph
    count = len(area)
    best, pair = np.full(count, np.float32(np.inf)), np.full(count, -1, np.int32)
    size = np.empty(count)
    for c in range(count):
        x, y, z = np.float64(vector[c, 0]), np.float64(vector[c, 1]), np.float64(vector[c, 2])
        size[c] = np.sqrt(x * x + y * y + z * z)
    for k in range(len(low)):
        a, b = low[k], high[k]
        small, total = np.float64(min(area[a], area[b])), np.float64(area[a] + area[b])
        if small >= crumb:
            continue
        x, y, z = (
            np.float64(vector[a, 0] + vector[b, 0]), np.float64(vector[a, 1] + vector[b, 1]),
            np.float64(vector[a, 2] + vector[b, 2]),
        )  # fmt: skip
        together = np.sqrt(x * x + y * y + z * z)
        bend = max(size[a] + size[b] - together, 0.0) / max(small, 1.0)
        if bend > most_bend or together < flatness * total:
            continue
        around = max(np.float64(rim[a] + rim[b] - 2 * length[k]), 0.0)
        cost = np.float32((bend + 0.02) * around)  # short rims first: charts grow evenly, in few rounds
        if cost < best[a]:
            best[a], pair[a] = cost, k
        if cost < best[b]:
            best[b], pair[b] = cost, k
    target = np.arange(count)
    satellite = np.zeros(count, np.bool_)
    for c in range(count):
        if pair[c] >= 0:
            hub = low[pair[c]] + high[pair[c]] - c
            satellite[c] = area[c] * SATELLITE < area[hub]
            if pair[hub] == pair[c] and c > hub:
                target[c] = hub
    for c in range(count):
        if satellite[c]:
            hub = low[pair[c]] + high[pair[c]] - c
            if not satellite[hub]:
                target[c] = target[hub]
    number, left = np.empty(count, np.int32), 0
    for c in range(count):
        if target[c] == c:
            number[c] = left
            left += 1
    for c in range(count):
        number[c] = number[target[c]]
    return number, left


def merge(
    graph: Graph, label: np.ndarray, bounds: tuple[float, float, float], check: Check
) -> tuple[Graph, np.ndarray]:
    """Merge until no two charts want to; label int32 [F] is the chart of each face, before and after.

    bounds: least flatness, most bend, and the area (units) of which one of the two must have less.
    """
    while len(graph[3]):
        check()
        number, left = _chosen(graph, *bounds)
        if left == len(number):
            break
        graph, label = _joined(graph, number, left), number[label]
    return graph, label


def _face_graph(surface: Surface, partner: np.ndarray) -> Graph:
    """Every face a chart of its own."""
    cross = area_vectors(surface)
    area = np.linalg.norm(cross, axis=1)
    corners = surface.vertices.astype(np.float64)[surface.faces]
    sides = np.linalg.norm(corners - np.roll(corners, -1, axis=1), axis=2)
    per_area, per_length = UNITS / max(area.sum(), 1e-30), UNITS / max(sides.sum(), 1e-30)
    sides = np.rint(sides * per_length).astype(np.int64)
    half = np.flatnonzero(partner > np.arange(len(partner)))
    graph = (
        np.rint(area * per_area).astype(np.int64), np.rint(cross * per_area).astype(np.int64), sides.sum(axis=1),
        (half // 3).astype(np.int32), (partner[half] // 3).astype(np.int32), sides.reshape(-1)[half],
    )  # fmt: skip
    return _joined(graph, np.arange(len(area), dtype=np.int32), len(area))


def cut_charts(surface: Surface, partner: np.ndarray, limits: ChartLimits, *, check: Check = go_on) -> np.ndarray:
    """Chart of each face, int32 [F] numbered 0..C-1; charts are connected.

    partner: the half-edge across each half-edge, int [3 F], -1 without one (surface.partners_across). Deterministic.
    """
    label = np.arange(len(surface.faces), dtype=np.int32)
    graph, label = merge(_face_graph(surface, partner), label, (limits.flatness, limits.bend, np.inf), check)
    for share in CRUMB_STEPS:
        bounds = (limits.crumb_flatness, limits.crumb_bend, limits.crumb * share * UNITS)
        graph, label = merge(graph, label, bounds, check)
    return label
