"""What shape a mesh is in: in numbers, and in plain words."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from trellis_app.mesh.hidden import hidden_parts, looked_at
from trellis_app.mesh.intersections import self_intersections
from trellis_app.mesh.surface import Edges, Surface, components, edge_table, find_root, split_corners, weld_vertices
from trellis_app.mesh.texel_use import texel_use

_LATTICE = 256  # lattice steps along the longest side when sides are examined
_RASTER = 1024  # texels a side at which UVs are examined, at most


@dataclass(frozen=True)
class HealthReport:
    """Counts of a triangle mesh; parts are connected across shared edges. None: not examined."""

    faces: int
    vertices: int
    parts: int
    boundary_edges: int  # edges with one face
    non_manifold_edges: int  # edges with more than two faces
    inconsistent_edges: int  # edges whose two faces are wound against each other
    watertight: bool  # every edge has exactly two faces, wound alike
    boundary_loops: int = 0  # holes and open rims
    non_manifold_vertices: int = 0  # vertices where surfaces only touch
    flipped_share: float | None = None  # of the area that has open air on one side: how much faces away from it
    self_intersections: int | None = None  # pairs of faces that cut through each other
    inner_shells: int | None = None  # parts that cannot be seen from outside
    uv_overlap: float | None = None  # of the covered texels: how many belong to several faces
    uv_use: float | None = None  # of all texels: how many are covered
    texels_per_face: float | None = None  # mean
    file_bytes: int | None = None

    def record(self) -> dict[str, int | float | bool | None]:
        """The fields by name, for JSON; shares have four digits."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}

    def verdict(self) -> tuple[str, str]:
        """("good", "fair" or "poor", the state in one short phrase)."""
        where = "Watertight" if self.watertight else "Manifold, open" if not self.non_manifold_edges else "Not manifold"
        title = f"{where}, {_counted(self.parts, 'part')}" if self.faces else "Empty"
        return ("poor" if self._bad() else "fair" if self._blemished() else "good"), title

    def _bad(self) -> bool:
        shares = (self.flipped_share or 0.0) > 0.05 or (self.uv_overlap or 0.0) > 0.02
        return not self.faces or self.non_manifold_edges > 0 or self.inconsistent_edges > 0 or shares

    def _blemished(self) -> bool:
        touching = self.non_manifold_vertices or self.inner_shells or self.boundary_loops > self.parts
        return bool(touching) or (self.self_intersections or 0) > 0 or (self.flipped_share or 0.0) > 0.005

    def sentences(self) -> tuple[str, ...]:
        """The findings in plain words, worst first; at least one."""
        if not self.faces:
            return ("The mesh has no triangles.",)
        found = [
            (self.non_manifold_edges, f"{_counted(self.non_manifold_edges, 'edge')} with more than two triangles."),
            (self.inconsistent_edges, f"{_counted(self.inconsistent_edges, 'edge')} between triangles that face "
             "opposite ways."),
            (_notable(self.flipped_share), f"{_percent(self.flipped_share)} of the surface faces inward."),
            (_notable(self.uv_overlap), f"{_percent(self.uv_overlap)} of the texture in use is claimed twice."),
            (self.self_intersections, f"{_counted(self.self_intersections or 0, 'pair')} of triangles cut through each "
             "other."),
            (self.inner_shells, f"{_counted(self.inner_shells or 0, 'part')} inside that nobody can see."),
            (self.boundary_loops, f"{_counted(self.boundary_loops, 'hole')} or open rims: not ready for 3D printing."),
            (self.non_manifold_vertices, f"{_counted(self.non_manifold_vertices, 'point')} where surfaces only touch."),
        ]  # fmt: skip
        closed = "The mesh is watertight and ready for 3D printing." if self.watertight else "The mesh has no defects."
        return tuple(sentence for count, sentence in found if count) or (closed,)


def _counted(count: int, name: str) -> str:
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def _notable(share: float | None) -> bool:
    return share is not None and share >= 0.001


def _percent(share: float | None) -> str:
    return f"{100 * (share or 0.0):.1f} %"


@dataclass(frozen=True)
class TextureSpace:
    """The UVs of a mesh and the texture they lie in."""

    uvs: np.ndarray  # float [V, 2] of the vertices
    size: int  # texels a side


def report(
    vertices: np.ndarray,
    faces: np.ndarray,
    *,
    weld: bool = False,
    deep: bool = False,
    texture: TextureSpace | None = None,
    file_bytes: int | None = None,
) -> HealthReport:
    """Examine vertices [V, 3] and faces int [F, 3]; with `weld`, vertices at the same position count as one.

    deep: also look for flipped area, self-intersections and inner shells (a second for 100,000 faces).
    """
    surface = Surface(np.asarray(vertices, dtype=np.float32), np.asarray(faces, dtype=np.int32))
    surface = weld_vertices(surface) if weld else surface
    edges = edge_table(surface)
    counts = edges.counts
    part = components(surface, edges, across_non_manifold=True)
    two = edges.start[:-1][counts == 2]
    start = surface.faces.reshape(-1)
    inconsistent = int((start[edges.halves[two]] == start[edges.halves[two + 1]]).sum())
    boundary, crowded = int((counts == 1).sum()), int((counts > 2).sum())
    closed = boundary == crowded == inconsistent == 0
    flipped, inner = _sides(surface, edges, part, leaks=not closed) if deep and len(faces) else (None, None)
    use = texel_use(texture.uvs, faces, min(texture.size, _RASTER)) if texture is not None and len(faces) else None
    texels = 0 if use is None or texture is None else use.covered * (texture.size**2 / use.texels)
    return HealthReport(
        faces=len(faces),
        vertices=int(np.count_nonzero(np.bincount(surface.faces.reshape(-1)))),
        parts=int(part.max()) + 1 if len(part) else 0,
        boundary_edges=boundary,
        non_manifold_edges=crowded,
        inconsistent_edges=inconsistent,
        watertight=bool(len(faces)) and closed,
        boundary_loops=_loops(edges.pairs[counts == 1]),
        non_manifold_vertices=_touching_vertices(surface, edges),
        flipped_share=flipped,
        self_intersections=self_intersections(surface) if deep else None,
        inner_shells=inner,
        uv_overlap=None if use is None else use.shared / max(use.covered, 1),
        uv_use=None if use is None else use.covered / use.texels,
        texels_per_face=None if use is None else texels / len(faces),
        file_bytes=file_bytes,
    )


def _loops(pairs: np.ndarray) -> int:
    """Connected chains among edges int [N, 2]."""
    ends, index = np.unique(pairs, return_inverse=True)
    parent = np.arange(len(ends))
    for a, b in index.reshape(-1, 2).tolist():
        x, y = find_root(parent, a), find_root(parent, b)
        parent[max(x, y)] = min(x, y)
    return int((parent == np.arange(len(parent))).sum())


def _touching_vertices(surface: Surface, edges: Edges) -> int:
    """Vertices off crowded edges whose faces form more than one fan."""
    two = edges.start[:-1][edges.counts == 2]
    first, second = edges.halves[two], edges.halves[two + 1]
    start = surface.faces.reshape(-1)
    opposed = start[first] != start[second]
    partner = np.full(len(start), -1, dtype=np.int32)
    partner[first[opposed]], partner[second[opposed]] = second[opposed], first[opposed]
    fans = np.bincount(split_corners(surface.faces, partner)[1], minlength=len(surface.vertices))
    rough = np.concatenate(
        [edges.pairs[edges.counts > 2].reshape(-1), edges.pairs[edges.counts == 2][~opposed].ravel()]
    )
    fans[rough] = 0
    return int((fans > 1).sum())


def _sides(surface: Surface, edges: Edges, part: np.ndarray, *, leaks: bool) -> tuple[float, int]:
    """(share of the area that faces away from the open air, parts that cannot be seen from it)."""
    extent = float(np.ptp(surface.vertices[surface.faces.reshape(-1)], axis=0).max())
    hidden, sides = looked_at(surface, edges, part, voxel=max(extent, 1e-12) / _LATTICE, leaks=leaks)
    away = sides.inward.sum() / max(int((sides.inward + sides.outward).sum()), 1)
    return float(away), int(hidden_parts(hidden, part).sum())
