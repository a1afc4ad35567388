"""Cut a surface into nearly flat charts on a GPU: the rounds of mesh/charts.py as tensor operations, on any device.

faces ─half_edge_partners▶ face graph ─merge▶ flat charts ─merge crumbs▶ number of each face's chart
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from trellis_app.mesh.charts import CRUMB_STEPS, SATELLITE, UNITS, ChartLimits, merge
from trellis_app.progress import Check, go_on

HANDOVER = 60_000  # pairs of charts from which on one CPU core is faster than the launches of small kernels
_NOBODY = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class ChartGraph:
    """Charts and their shared borders, in integer units."""

    area: torch.Tensor  # int64 [C]
    vector: torch.Tensor  # int64 [C, 3] sum of area times normal
    rim: torch.Tensor  # int64 [C] length of the border
    low: torch.Tensor  # int64 [P] the charts of each neighbouring pair, low < high
    high: torch.Tensor  # int64 [P]
    length: torch.Tensor  # int64 [P] length of the shared border


def half_edge_partners(faces: torch.Tensor) -> torch.Tensor:
    """The half-edge across each half-edge, int64 [3 F], or -1 unless the edge has two oppositely directed faces.

    faces: int [F, 3]; half-edge 3 f + c runs from corner c to corner c + 1 of face f.
    """
    start = faces.long()
    end = start.roll(-1, dims=1).reshape(-1)
    start = start.reshape(-1)
    partner = torch.full_like(start, -1)
    if not len(start):
        return partner
    key = torch.minimum(start, end) * (int(start.max()) + 1) + torch.maximum(start, end)
    key, order = key.sort(stable=True)
    same = key[1:] == key[:-1]
    padded = torch.cat([same.new_zeros(1), same, same.new_zeros(1)])
    two = torch.nonzero(same & ~padded[:-2] & ~padded[2:])[:, 0]
    first, second = order[two], order[two + 1]
    opposed = (start[first] != start[second]) & (start[first] != end[first])
    first, second = first[opposed], second[opposed]
    partner[first], partner[second] = second, first
    return partner


def face_vectors(vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """Area times unit normal of each face, float64 [F, 3]."""
    corners = vertices.double()[faces.long()]
    return 0.5 * torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], dim=1)


def face_graph(vertices: torch.Tensor, faces: torch.Tensor, partner: torch.Tensor) -> ChartGraph:
    """Every face a chart of its own."""
    cross = face_vectors(vertices, faces)
    area = torch.linalg.vector_norm(cross, dim=1)
    corners = vertices.double()[faces.long()]
    sides = torch.linalg.vector_norm(corners - corners.roll(-1, dims=1), dim=2)
    per_area, per_length = UNITS / area.sum().clamp_min(1e-30), UNITS / sides.sum().clamp_min(1e-30)
    sides = (sides * per_length).round().long()
    half = torch.nonzero(partner > torch.arange(len(partner), device=partner.device))[:, 0]
    graph = ChartGraph(
        (area * per_area).round().long(),
        (cross * per_area).round().long(),
        sides.sum(dim=1),
        half // 3,
        partner[half] // 3,
        sides.reshape(-1)[half],
    )
    return _joined(graph, torch.arange(len(faces), device=faces.device), len(faces))


def _joined(graph: ChartGraph, label: torch.Tensor, count: int) -> ChartGraph:
    """The graph of `count` charts after giving chart c the number label[c]; parallel borders become one."""
    low, high = label[graph.low], label[graph.high]
    inner = low == high
    rim = torch.zeros(count, dtype=torch.int64, device=label.device).index_add_(0, label, graph.rim)
    rim.index_add_(0, low[inner], -2 * graph.length[inner])
    key = torch.minimum(low, high) * count + torch.maximum(low, high)
    key, order = key[~inner].sort(stable=True)
    keys, pair = torch.unique_consecutive(key, return_inverse=True)
    length = torch.zeros_like(keys).index_add_(0, pair, graph.length[~inner][order])
    area = torch.zeros(count, dtype=torch.int64, device=label.device).index_add_(0, label, graph.area)
    vector = torch.zeros(count, 3, dtype=torch.int64, device=label.device).index_add_(0, label, graph.vector)
    return ChartGraph(area, vector, rim, keys // count, keys % count, length)


def _wishes(graph: ChartGraph, bounds: tuple[float, float, float]) -> torch.Tensor:
    """Cost float32 [P] of merging each pair; infinite where the limits forbid it."""
    area_low, area_high = graph.area[graph.low].double(), graph.area[graph.high].double()
    low, high = graph.vector[graph.low].double(), graph.vector[graph.high].double()
    together = torch.linalg.vector_norm(low + high, dim=1)
    small = torch.minimum(area_low, area_high)
    apart = torch.linalg.vector_norm(low, dim=1) + torch.linalg.vector_norm(high, dim=1)
    bend = (apart - together).clamp_min(0.0) / small.clamp_min(1.0)
    rim = (graph.rim[graph.low] + graph.rim[graph.high] - 2 * graph.length).double().clamp_min(0.0)
    cost = (bend + 0.02) * rim  # short rims first: charts grow evenly, in few rounds
    fits = (small < bounds[2]) & (bend <= bounds[1]) & (together >= bounds[0] * (area_low + area_high))
    return torch.where(fits, cost, torch.inf).float()


def _chosen(graph: ChartGraph, cost: torch.Tensor) -> torch.Tensor:
    """The chart that each chart joins in this round, int64 [C]; itself where it stays.

    Two charts join where each is the other's cheapest neighbour. A chart far smaller than its cheapest neighbour joins
    it in any case, unless that one is small beside its own.
    """
    device = cost.device
    target = torch.arange(len(graph.area), device=device)
    wanted = torch.nonzero(cost < torch.inf)[:, 0]
    key = (cost[wanted].view(torch.int32).long() << 32) | wanted  # positive floats order like their bits
    best = torch.full_like(graph.area, _NOBODY)
    low, high = graph.low[wanted], graph.high[wanted]
    best.scatter_reduce_(0, low, key, "amin").scatter_reduce_(0, high, key, "amin")
    mutual = (best[low] == key) & (best[high] == key)
    target[high[mutual]] = low[mutual]
    active = torch.nonzero(best < _NOBODY)[:, 0]
    pair = best[active] & 0xFFFFFFFF
    hub = graph.low[pair] + graph.high[pair] - active
    small = graph.area[active] * SATELLITE < graph.area[hub]
    is_satellite = torch.zeros_like(target, dtype=torch.bool)
    is_satellite[active[small]] = True
    joins = small & ~is_satellite[hub]
    target[active[joins]] = target[hub[joins]]
    return target


def _merge(
    graph: ChartGraph, label: torch.Tensor, bounds: tuple[float, float, float], check: Check, least: int
) -> tuple[ChartGraph, torch.Tensor, bool]:
    """Merge until no two charts want to, or at most `least` pairs are left; and whether the merging is over.

    label int64 [F] is the chart of each face, before and after. bounds: least flatness, most bend, and the area
    (units) of which one of the two must have less.
    """
    while len(graph.low) > least:
        check()
        target = _chosen(graph, _wishes(graph, bounds))
        keeps = target == torch.arange(len(target), device=target.device)
        count = int(keeps.sum())
        if count == len(target):
            return graph, label, True
        number = (keeps.cumsum(0) - 1)[target]
        graph = _joined(graph, number, count)
        label = number[label]
    return graph, label, not len(graph.low)


def cut_charts(
    vertices: torch.Tensor, faces: torch.Tensor, partner: torch.Tensor, limits: ChartLimits, *,
    handover: int = HANDOVER, check: Check = go_on,
) -> torch.Tensor:  # fmt: skip
    """Chart of each face, int64 [F] numbered 0..C-1; charts are connected.

    vertices float32 [V, 3]; faces int [F, 3]; partner from `half_edge_partners`. Deterministic on each device. The
    rounds with at most `handover` pairs of charts run on the CPU.
    """
    label = torch.arange(len(faces), device=faces.device)
    graph = face_graph(vertices, faces, partner)
    stages = [(limits.flatness, limits.bend, float("inf"))]
    stages += [(limits.crumb_flatness, limits.crumb_bend, limits.crumb * share * UNITS) for share in CRUMB_STEPS]
    while stages:
        graph, label, over = _merge(graph, label, stages[0], check, handover)
        if not over:
            return _finished_on_cpu(graph, label, stages, check)
        stages = stages[1:]
    return label


def _finished_on_cpu(
    graph: ChartGraph, label: torch.Tensor, stages: list[tuple[float, float, float]], check: Check
) -> torch.Tensor:
    rows = (graph.area, graph.vector, graph.rim, graph.low.int(), graph.high.int(), graph.length)
    area, vector, rim, low, high, length = (row.cpu().numpy() for row in rows)
    small = (area, vector, rim, low, high, length)
    number = np.arange(len(area), dtype=np.int32)
    for bounds in stages:
        small, number = merge(small, number, bounds, check)
    return torch.from_numpy(number).to(label.device).long()[label]
