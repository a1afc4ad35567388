"""One round of edge collapses as the original does it (spec 5.5): what the golden vectors describe, not what we run.

Every edge offers its cost to the faces at its two ends; an edge that is the cheapest in all of them collapses, so no
two collapses of a round share a face. `trellis_kernels.edge_collapse` picks edges by the same rule.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trellis_app.types import Mesh

_LENGTH, _NEEDLE = 1e-2, 1e-3  # weights of the squared length and of the needle-shape penalty


@dataclass(frozen=True)
class Candidates:
    """The possible collapses of a mesh, one an edge."""

    edges: torch.Tensor  # int64 [E, 2] rising pairs in lexicographic order
    cost: torch.Tensor  # float [E], the sum of `terms`, inf where a face would turn over
    terms: torch.Tensor  # float [E, 3] distance to the planes, length, needle shape
    point: torch.Tensor  # float [E, 3] where the merged vertex goes


def _edges(faces: torch.Tensor, vertex_count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(rising vertex pairs int64 [E, 2] in lexicographic order, whether a vertex is on the border bool [V])."""
    pairs = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).sort(dim=1).values
    key, count = torch.unique(pairs[:, 0] * vertex_count + pairs[:, 1], return_counts=True)
    edges = torch.stack([key // vertex_count, key % vertex_count], dim=1)
    border = torch.zeros(vertex_count, dtype=torch.bool, device=faces.device)
    border[edges[count == 1].reshape(-1)] = True
    return edges, border


def _incident(
    edges: torch.Tensor, faces: torch.Tensor, vertex_count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All pairs of an edge and a face at one of its ends: (edge, face, end 0 or 1), int64 [P] each."""
    corner_vertex = faces.reshape(-1)
    order = torch.argsort(corner_vertex, stable=True)
    count = torch.bincount(corner_vertex, minlength=vertex_count)
    first = count.cumsum(0) - count
    ends = edges.reshape(-1)
    repeat = count[ends]
    slot = torch.repeat_interleave(torch.arange(len(ends), device=faces.device), repeat)
    rank = torch.arange(len(slot), device=faces.device) - torch.repeat_interleave(repeat.cumsum(0) - repeat, repeat)
    return slot // 2, order[first[ends[slot]] + rank] // 3, slot % 2


def _cross(corners: torch.Tensor) -> torch.Tensor:
    return torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def candidates(mesh: Mesh) -> Candidates:
    """Cost and new point of collapsing each edge.

    Point: the midpoint, or the end on the border if exactly one is. Cost: summed squared distances to the planes around
    both ends, plus small multiples of the squared length and of the mean needle shape of the faces that survive.
    """
    vertices, faces = mesh.vertices, mesh.faces.long()
    edges, border = _edges(faces, len(vertices))
    a, b = vertices[edges[:, 0]], vertices[edges[:, 1]]
    on_a, on_b = border[edges[:, 0]], border[edges[:, 1]]
    point = torch.where((on_a & ~on_b)[:, None], a, torch.where((on_b & ~on_a)[:, None], b, (a + b) / 2))
    edge, face, end = _incident(edges, faces, len(vertices))
    cross = _cross(vertices[faces])
    unit = torch.nn.functional.normalize(cross, dim=1, eps=1e-30)
    distance = ((point[edge] - vertices[faces[face, 0]]) * unit[face]).sum(1)
    quadric = torch.zeros_like(point[:, 0]).index_add_(0, edge, distance**2)
    survives = ~(faces[face] == edges[edge, 1 - end][:, None]).any(1)
    edge, face, end = edge[survives], face[survives], end[survives]
    moved = faces[face] == edges[edge, end][:, None]
    corners = torch.where(moved[:, :, None], point[edge][:, None, :], vertices[faces[face]])
    new_cross = _cross(corners)
    turns = torch.zeros(len(edges), device=vertices.device).index_add_(
        0, edge, ((new_cross * cross[face]).sum(1) < 0).float()
    )
    squares = ((corners - corners[:, [1, 2, 0]]) ** 2).sum(dim=(1, 2)).clamp_min(1e-12)
    needle = 1 - (2 * 3**0.5 * new_cross.norm(dim=1) / squares).clamp(0, 1)
    ones = torch.ones_like(needle)
    kept = torch.zeros_like(quadric).index_add_(0, edge, ones).clamp_min(1)
    shape = torch.zeros_like(quadric).index_add_(0, edge, needle) / kept
    squared = ((a - b) ** 2).sum(1)
    terms = torch.stack([quadric, _LENGTH * squared, _NEEDLE * shape * squared], dim=1)
    return Candidates(edges, torch.where(turns > 0, torch.inf, terms.sum(1)), terms, point)


def cheapest(found: Candidates, mesh: Mesh) -> torch.Tensor:
    """The cheapest of the edges that touch each face, int64 [F] (ties: first)."""
    faces = mesh.faces.long()
    edge, face, _ = _incident(found.edges, faces, len(mesh.vertices))
    order = torch.argsort(found.cost, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=faces.device)
    least = torch.full((len(faces),), len(order), dtype=torch.int64, device=faces.device)
    return order[least.scatter_reduce_(0, face, rank[edge], "amin")]


def chosen(found: Candidates, mesh: Mesh, threshold: float) -> torch.Tensor:
    """Edges int64 [K] that collapse: cost at most `threshold`, and the cheapest of every face they touch."""
    edge, face, _ = _incident(found.edges, mesh.faces.long(), len(mesh.vertices))
    beaten = torch.zeros(len(found.edges), dtype=torch.bool, device=edge.device)
    beaten[edge[cheapest(found, mesh)[face] != edge]] = True
    return torch.nonzero(~beaten & (found.cost <= threshold))[:, 0]


def collapse_round(mesh: Mesh, threshold: float) -> Mesh:
    """Collapse all chosen edges at once: the lower vertex moves, the higher goes; the order of the rest stays."""
    found = candidates(mesh)
    picked = chosen(found, mesh, threshold)
    low, high = found.edges[picked].unbind(1)
    vertices = mesh.vertices.clone()
    vertices[low] = found.point[picked].to(vertices.dtype)
    target = torch.arange(len(vertices), device=vertices.device)
    target[high] = low
    keep = torch.ones(len(vertices), dtype=torch.bool, device=vertices.device)
    keep[high] = False
    faces = (keep.cumsum(0) - 1)[target[mesh.faces.long()]]
    alive = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    return Mesh(vertices[keep], faces[alive].int())
