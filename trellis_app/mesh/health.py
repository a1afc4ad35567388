"""What shape a mesh is in, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trellis_app.mesh.surface import Surface, components, edge_table, weld_vertices


@dataclass(frozen=True)
class HealthReport:
    """Counts of a triangle mesh; parts are connected across shared edges."""

    faces: int
    vertices: int
    parts: int
    boundary_edges: int  # edges with one face
    non_manifold_edges: int  # edges with more than two faces
    inconsistent_edges: int  # edges whose two faces are wound against each other
    watertight: bool  # every edge has exactly two faces, wound alike


def report(vertices: np.ndarray, faces: np.ndarray, *, weld: bool = False) -> HealthReport:
    """Examine vertices [V, 3] and faces int [F, 3]; with `weld`, vertices at the same position count as one."""
    surface = Surface(np.asarray(vertices, dtype=np.float32), np.asarray(faces, dtype=np.int32))
    surface = weld_vertices(surface) if weld else surface
    edges = edge_table(surface)
    counts = edges.counts
    part = components(surface, edges, across_non_manifold=True)
    two = edges.start[:-1][counts == 2]
    start = surface.faces.reshape(-1)
    inconsistent = int((start[edges.halves[two]] == start[edges.halves[two + 1]]).sum())
    boundary, crowded = int((counts == 1).sum()), int((counts > 2).sum())
    return HealthReport(
        faces=len(faces),
        vertices=len(np.unique(surface.faces)),
        parts=int(part.max()) + 1 if len(part) else 0,
        boundary_edges=boundary,
        non_manifold_edges=crowded,
        inconsistent_edges=inconsistent,
        watertight=bool(len(faces)) and boundary == crowded == inconsistent == 0,
    )
