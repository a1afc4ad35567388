"""Door of the op: what meets what in a triangle mesh, and the planes around its vertices."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch

from trellis_kernels.choice import REFERENCE, TRITON, choose


@dataclass(frozen=True)
class Links:
    """What meets what in a mesh."""

    head: (
        torch.Tensor
    )  # int32 [V] first corner 3 f + c in the list of each vertex, -1 none; their order may differ from run to run
    tail: torch.Tensor  # int32 [V] last corner
    following: torch.Tensor  # int32 [3 F] next corner of the same vertex, -1 at the end
    border: torch.Tensor  # bool [V] at an edge without exactly two faces
    halves: torch.Tensor  # int64 [E] the lowest half-edge 3 f + c of each edge, rising; it runs to the next corner
    faces_at: torch.Tensor  # int32 [E] faces at each edge


def module(implementation: str, device: torch.device) -> ModuleType:
    """The implementation that runs on a device."""
    if choose(implementation, device, (REFERENCE, TRITON)) == REFERENCE:
        from trellis_kernels.mesh_links import reference

        return reference
    from trellis_kernels.mesh_links import triton

    return triton


def link(faces: torch.Tensor, vertex_count: int, *, implementation: str = "auto") -> Links:
    """Corner lists and edges of faces int32 [F, 3], none of which names a vertex twice."""
    return module(implementation, faces.device).link(faces, vertex_count)


def plane_quadrics(
    points: torch.Tensor, faces: torch.Tensor, *, pull: float, implementation: str = "auto"
) -> torch.Tensor:
    """Quadrics float32 [V, 10] of points [V, 3]: a third of the area of each face at a vertex times its plane.

    pull: weight of the squared distance to the vertex itself, relative to the planes'.
    """
    return module(implementation, points.device).plane_quadrics(points, faces, pull)
