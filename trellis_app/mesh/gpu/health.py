"""What shape a mesh on a GPU is in: the counts of mesh/health.py as tensor operations, on any device."""

from __future__ import annotations

import torch

from trellis_app.mesh.gpu.topology import after, connected, edge_table, fans, parts, sums
from trellis_app.mesh.health import HealthReport
from trellis_app.types import Mesh


def report(mesh: Mesh) -> HealthReport:
    """As mesh.health.report with no options: the same counts."""
    corner, count = mesh.faces.reshape(-1).long(), len(mesh.vertices)
    edges = edge_table(mesh.faces, count)
    faces_at = edges.counts
    first, second = edges.pairs()
    opposed = corner[first] != corner[second]
    partner = torch.full_like(corner, -1)
    partner[first[opposed]], partner[second[opposed]] = second[opposed], first[opposed]
    half = edges.halves[edges.start[:-1]]  # one of each edge
    rough = faces_at > 2
    rough = torch.cat([half[rough], first[~opposed]])
    numbers = torch.stack(
        [
            (sums(torch.ones_like(corner), corner, count) > 0).sum(),
            (faces_at == 1).sum(),
            (faces_at > 2).sum(),
            (~opposed).sum(),
            _touching_vertices(mesh, partner, rough),
        ]
    )
    vertices, boundary, crowded, inconsistent, touching = numbers.tolist()
    _, part_count = parts(edges, len(mesh.faces))
    return HealthReport(
        faces=len(mesh.faces),
        vertices=vertices,
        parts=part_count,
        boundary_edges=boundary,
        non_manifold_edges=crowded,
        inconsistent_edges=inconsistent,
        watertight=len(mesh.faces) > 0 and boundary == crowded == inconsistent == 0,
        boundary_loops=_loops(mesh, half[faces_at == 1]) if boundary else 0,
        non_manifold_vertices=touching,
    )


def _touching_vertices(mesh: Mesh, partner: torch.Tensor, rough: torch.Tensor) -> torch.Tensor:
    """How many vertices, off the edges of the half-edges `rough`, have faces that form more than one fan."""
    corner = mesh.faces.reshape(-1).long()
    first = fans(mesh.faces, partner)
    fans_at = sums(first == torch.arange(len(first), device=first.device), corner, len(mesh.vertices))
    fans_at[corner[rough]] = 0
    fans_at[corner[after(rough)]] = 0
    return (fans_at > 1).sum()


def _loops(mesh: Mesh, half: torch.Tensor) -> int:
    """Connected chains among the edges of the half-edges."""
    corner = mesh.faces.reshape(-1).long()
    ends, index = torch.unique(torch.stack([corner[half], corner[after(half)]]), return_inverse=True)
    label = connected(len(ends), index[0], index[1])
    return int((label == torch.arange(len(label), device=label.device)).sum())
