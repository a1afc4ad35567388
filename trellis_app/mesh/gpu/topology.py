"""Edges, parts and fans of a triangle mesh as torch tensors on any device.

Everything is sorting, gathering and integer scatters, so results do not depend on the order of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trellis_app.types import Mesh

AREA = 4096  # areas are summed as integers: steps in the area of a voxel face
_FEW, _LANES = 4096, 256  # sums that are made in so many parts each


@dataclass(frozen=True)
class EdgeTable:
    """Undirected edges. Half-edge h = 3 f + c runs from corner c to corner c + 1 of face f."""

    halves: torch.Tensor  # int64 [3 F] grouped by edge, faces rising within an edge
    start: torch.Tensor  # int64 [E + 1] into halves

    @property
    def counts(self) -> torch.Tensor:
        """Faces at each edge, int64 [E]."""
        return self.start.diff()

    def pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The two half-edges of every edge with exactly two faces."""
        two = self.start[:-1][self.counts == 2]
        return self.halves[two], self.halves[two + 1]


def after(half: torch.Tensor) -> torch.Tensor:
    """The next half-edge around the face, which is also the corner where a half-edge ends."""
    return torch.where(half % 3 == 2, half - 2, half + 1)


def run_starts(ordered: torch.Tensor) -> torch.Tensor:
    """Where runs of equal values begin in a sorted tensor [N], int64 [runs + 1] with N at the end."""
    fresh = torch.ones(len(ordered), dtype=torch.bool, device=ordered.device)
    fresh[1:] = ordered[1:] != ordered[:-1]
    end = torch.tensor([len(ordered)], device=ordered.device)
    return torch.cat([fresh.nonzero()[:, 0], end])


def edge_table(faces: torch.Tensor, vertex_count: int) -> EdgeTable:
    """All undirected edges of faces [F, 3]."""
    corners = faces.long()
    ends = corners.roll(-1, dims=1)
    key = (torch.minimum(corners, ends) * vertex_count + torch.maximum(corners, ends)).reshape(-1)
    ordered, halves = torch.sort(key, stable=True)
    return EdgeTable(halves, run_starts(ordered))


def connected(count: int, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Smallest node of each node's connected component, int64 [count], of the graph with the edges a[i] - b[i]."""
    label = torch.arange(count, device=a.device)
    while len(a):
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        label.scatter_reduce_(0, high, low, "amin")
        while True:
            shorter = label[label]
            if torch.equal(shorter, label):
                break
            label = shorter
        a, b = label[a], label[b]
        apart = a != b
        a, b = a[apart], b[apart]
    return label


def numbered(label: torch.Tensor) -> tuple[torch.Tensor, int]:
    """(component number of each node in order of the components' first nodes, how many) from `connected`."""
    root = label == torch.arange(len(label), device=label.device)
    number = torch.cumsum(root, 0) - 1
    return number[label], int(number[-1]) + 1 if len(label) else 0


def parts(edges: EdgeTable, face_count: int) -> tuple[torch.Tensor, int]:
    """(part of each face, how many): faces are connected across every shared edge."""
    inner = torch.ones(len(edges.halves), dtype=torch.bool, device=edges.halves.device)
    inner[edges.start[:-1]] = False
    at = inner.nonzero()[:, 0]
    return numbered(connected(face_count, edges.halves[at - 1] // 3, edges.halves[at] // 3))


def sums(values: torch.Tensor, index: torch.Tensor, count: int) -> torch.Tensor:
    """Integer sums of values [N] by index [N], int64 [count]: exact, so the order does not matter."""
    if count > _FEW:
        return torch.zeros(count, dtype=torch.int64, device=values.device).index_add_(0, index, values.long())
    lane = torch.arange(len(index), device=index.device) % _LANES  # threads would wait for each other at few sums
    total = torch.zeros(count * _LANES, dtype=torch.int64, device=values.device)
    return total.index_add_(0, index * _LANES + lane, values.long()).view(count, _LANES).sum(dim=1)


def exact_sums(values: torch.Tensor, index: torch.Tensor, count: int) -> torch.Tensor:
    """Sums of values float64 [N, K] by index [N], float64 [count, K]: added as integers, so the order does not matter.

    The steps are 2^-61 of the sum of all magnitudes: no sum overflows, and what is lost is far below a float32's.
    """
    scale = 2.0**61 / values.abs().sum().clamp_min(1e-100)
    total = torch.zeros(count, values.shape[1], dtype=torch.int64, device=values.device)
    return total.index_add_(0, index, (values * scale).round().long()).double() / scale


def first_alike(keys: torch.Tensor) -> torch.Tensor:
    """The first index with the same key as each, int64 [N]; keys int64 [N]."""
    ordered, order = torch.sort(keys, stable=True)
    start = run_starts(ordered)
    first = torch.empty_like(order)
    first[order] = torch.repeat_interleave(order[start[:-1]], start.diff(), output_size=len(order))
    return first


def turned(faces: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Faces with the marked ones wound the other way."""
    return torch.where(turn[:, None], faces[:, [0, 2, 1]], faces)


def fans(faces: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
    """The first corner of the fan that each corner belongs to, int64 [3 F].

    partner: the half-edge across each half-edge, int64 [3 F], or -1. Corners at a vertex are in one fan if they are
    connected across partnered half-edges.
    """
    corner = torch.arange(len(partner), device=partner.device)
    before = torch.where(corner % 3 == 0, corner + 2, corner - 1)
    across = partner[before]
    forth = torch.where(partner >= 0, after(partner), corner)
    back = torch.where(across >= 0, across, corner)
    first = corner
    while True:
        lower = torch.minimum(first, torch.minimum(first[forth], first[back]))
        if torch.equal(lower, first):
            return first
        first, forth, back = lower, forth[forth], back[back]


def areas(mesh: Mesh, voxel: float) -> torch.Tensor:
    """Face areas as integers, int64 [F]."""
    a, b, c = (mesh.vertices[mesh.faces[:, k].long()] for k in range(3))
    return (torch.linalg.cross(b - a, c - a).norm(dim=1) * (0.5 * AREA / voxel**2)).round_().long()


def large_parts(edges: EdgeTable, area: torch.Tensor, minimum: float) -> torch.Tensor:
    """Faces bool [F] of parts with at least the minimum area; the largest part always stays."""
    part, count = parts(edges, len(area))
    total = sums(area, part, count)
    keep = total >= minimum
    keep[torch.argmax(total)] = True
    return keep[part]
