"""The surface modes of mesh/modes.py for meshes on a GPU: the same steps and predicates on torch tensors.

Whole-mesh work is done on the mesh's device; what concerns only a few faces (crowded edges, borders of holes) is handed
to the compiled CPU code. Runs on any device, which is how it is tested.
"""

from __future__ import annotations

import torch

from trellis_app.mesh.gpu.air import open_air
from trellis_app.mesh.gpu.clean import clean, compacted
from trellis_app.mesh.gpu.fans import filled, separate
from trellis_app.mesh.gpu.hidden import hidden_regions
from trellis_app.mesh.gpu.orient import hidden_faces, outward, patches, settled, sides_of
from trellis_app.mesh.gpu.topology import (
    AREA,
    EdgeTable,
    areas,
    connected,
    edge_table,
    large_parts,
    numbered,
    sums,
    turned,
)
from trellis_app.mesh.gpu.watertight import closed_solid
from trellis_app.mesh.repair import APART, CRUMB, FIN, HOLE, SETTLING, WIDE
from trellis_app.progress import Check, go_on
from trellis_app.settings import SURFACE_MODES
from trellis_app.types import Mesh


def prepare_surface(mesh: Mesh, mode: str, *, voxel: float, check: Check = go_on) -> Mesh:
    """The mesh in the given mode (one of SURFACE_MODES) on its device; `voxel` is the side of a voxel in world units.

    Deterministic. The result is empty only if the input has no valid face. Raises ValueError for another mode, and
    whatever `check` raises.
    """
    if mode not in SURFACE_MODES:
        raise ValueError(f"mode must be one of {', '.join(SURFACE_MODES)}, got {mode!r}")
    cleaned = clean(mesh)
    check()
    if mode == "decoded" or not len(cleaned.faces):
        return cleaned
    single = _single(cleaned, voxel, check)
    if mode == "single":
        return single
    return closed_solid(single, voxel=voxel, check=check)


def _single(mesh: Mesh, voxel: float, check: Check) -> Mesh:
    edges = edge_table(mesh.faces, len(mesh.vertices))
    area = areas(mesh, voxel)
    whole = 0.01 * float(area.sum())
    crumb = min(CRUMB * AREA, whole)
    mesh, edges = _kept(mesh, edges, large_parts(edges, area, crumb))
    check()
    air = open_air(mesh, voxel=voxel, check=check)
    sides = sides_of(air, len(mesh.faces), check=check)
    patched, known = mesh, patches(mesh, edges)
    keep = ~(hidden_faces(known.patch, known.count, sides) | hidden_regions(edges, sides, air, check))
    del air
    mesh, edges, sides = *_kept(mesh, edges, keep), sides.picked(keep)
    keep = _without_fins(edges, areas(mesh, voxel), min(FIN * AREA, whole))
    mesh, edges, sides = *_kept(mesh, edges, keep), sides.picked(keep)
    check()
    turn = outward(edges, sides, known if mesh is patched else patches(mesh, edges))
    del patched, known
    half = edges.halves
    edges = EdgeTable(torch.where(turn[half // 3], 3 * (half // 3) + 2 - half % 3, half), edges.start)
    wound = Mesh(mesh.vertices, turned(mesh.faces, turn))
    mesh, edges = filled(wound, edges, HOLE * voxel, bow_ties=True, wide=WIDE * voxel)
    check()
    mesh, edges = separate(mesh, edges, apart=APART * voxel)
    check()
    mesh, edges = filled(mesh, edges, HOLE * voxel)
    for _ in range(SETTLING if mesh is not wound else 0):
        before = len(mesh.faces)
        mesh, edges = settled(mesh, edges, voxel=voxel, crumb=crumb, check=check)
        check()
        if before == len(mesh.faces):
            break
    return compacted(mesh)


def _kept(mesh: Mesh, edges: EdgeTable, keep: torch.Tensor) -> tuple[Mesh, EdgeTable]:
    """The mesh of the marked faces and its edges."""
    if bool(keep.all()):
        return mesh, edges
    faces = mesh.faces[keep]
    return Mesh(mesh.vertices, faces), edge_table(faces, len(mesh.vertices))


def _without_fins(edges: EdgeTable, area: torch.Tensor, maximum: float) -> torch.Tensor:
    """Faces bool [F] that are no fins: small patches at an edge where other faces meet; all if half would go."""
    first, second = edges.pairs()
    patch, count = numbered(connected(len(area), first // 3, second // 3))
    crowded = torch.repeat_interleave(edges.counts > 2, edges.counts)
    hangs = torch.zeros(count, dtype=torch.bool, device=area.device)
    hangs[patch[edges.halves[crowded] // 3]] = True
    fin = (hangs & (sums(area, patch, count) < maximum))[patch]
    return ~fin if 2 * int(fin.sum()) < len(fin) else torch.ones_like(fin)
