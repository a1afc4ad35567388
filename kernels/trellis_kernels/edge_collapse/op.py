"""Door of the op: one round of edge collapses that do not touch each other.

`edge_keys` prices every edge, `independent_edges` picks edges that are the cheapest of their neighbourhood, `examine`
refuses those that would fold or pinch the surface, `merge` performs the rest. No two picked edges have ends that are
equal or adjacent, so every step is free of races and gives the same bytes whatever the order of execution.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch

from trellis_kernels.choice import REFERENCE, TRITON, choose

NEVER = torch.iinfo(torch.int64).max  # the key of an edge that must not collapse
TRIES = 4  # after so many refusals an edge rests until one of its ends changes


@dataclass(frozen=True)
class CollapseMesh:
    """A mesh while it shrinks; all tensors are changed in place. Lengths in units of about one edge."""

    points: torch.Tensor  # float32 [V, 3]
    quadrics: torch.Tensor  # float32 [V, 10] xx xy xz yy yz zz x y z 1, about the vertex's own position
    border: torch.Tensor  # bool [V] at an edge without exactly two faces
    faces: torch.Tensor  # int32 [F, 3]
    ahead: torch.Tensor  # float32 [F, 3] unit normals that the faces had at the start
    alive: torch.Tensor  # bool [F]
    head: torch.Tensor  # int32 [V] first corner of each vertex, as in mesh_links; dead faces stay in the lists
    tail: torch.Tensor  # int32 [V]
    following: torch.Tensor  # int32 [3 F]
    edges: torch.Tensor  # int32 [E, 2]; both ends equal where the edge is gone
    refused: torch.Tensor  # int8 [E] how often each edge was refused since its ends changed


@dataclass(frozen=True)
class Verdict:
    """What would become of some edges."""

    vanishing: torch.Tensor  # int32 [K] faces that vanish, 0 where the edge must not collapse
    points: torch.Tensor  # float32 [K, 3] of the merged vertices
    quadrics: torch.Tensor  # float32 [K, 10] of the merged vertices


def unit_normals(points: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """Of faces int [F, 3] with corners in points float32 [V, 3], float32 [F, 3]; zero where there is none."""
    a, b, c = points[faces.long()].unbind(1)
    return torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=1, eps=1e-30)


def module(implementation: str, device: torch.device) -> ModuleType:
    """The implementation that runs on a device."""
    if choose(implementation, device, (REFERENCE, TRITON)) == REFERENCE:
        from trellis_kernels.edge_collapse import reference

        return reference
    from trellis_kernels.edge_collapse import triton

    return triton


def edge_keys(mesh: CollapseMesh, *, implementation: str = "auto") -> tuple[torch.Tensor, torch.Tensor]:
    """(cost float32 [E], key int64 [E]) of collapsing each edge to its best point.

    The cost is the quadric error times 8 for each refusal; inf, and the key NEVER, where the edge is gone or rests.
    Keys order edges by cost in steps of a quarter of a doubling, then by a hash of the edge's number: without that,
    a smooth field of costs has few local minima.
    """
    return module(implementation, mesh.points.device).edge_keys(mesh)


def independent_edges(
    mesh: CollapseMesh, keys: torch.Tensor, limit: int, *, implementation: str = "auto"
) -> torch.Tensor:
    """Edges int64 [K], rising, whose key is at most `limit` and less than that of every edge with a near end.

    Near is an end that is equal or adjacent (by an edge) to an end of this one.
    """
    return module(implementation, mesh.points.device).independent_edges(mesh, keys, limit)


def examine(mesh: CollapseMesh, picked: torch.Tensor, *, implementation: str = "auto") -> Verdict:
    """Whether the picked edges int64 [K] may collapse, and to what.

    Refused are collapses that break the link condition (Dey et al. 1999), join two borders, close a tetrahedron, turn a
    triangle by more than about 75 degrees (80 from the start), or make a needle worse (only until the third refusal).
    """
    return module(implementation, mesh.points.device).examine(mesh, picked)


def merge(mesh: CollapseMesh, picked: torch.Tensor, verdict: Verdict, *, implementation: str = "auto") -> None:
    """Collapse independent edges int64 [K] that were allowed: the second end merges into the first."""
    module(implementation, mesh.points.device).merge(mesh, picked, verdict)
