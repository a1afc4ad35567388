"""The surface modes of mesh/modes.py for meshes on a GPU: the same steps and predicates on torch tensors.

Whole-mesh work is done on the mesh's device; what concerns only a few faces (crowded edges, borders of holes) is handed
to the compiled CPU code. Runs on any device, which is how it is tested.
"""

from __future__ import annotations

import torch

from trellis_app.mesh.gpu.air import open_air
from trellis_app.mesh.gpu.clean import clean, compacted
from trellis_app.mesh.gpu.fans import filled, separate
from trellis_app.mesh.gpu.hidden import hidden_faces
from trellis_app.mesh.gpu.orient import outward, patches, sides_of
from trellis_app.mesh.gpu.settling import settled
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
from trellis_app.mesh.repair import APART, CRUMB, FIN, FLAKE, HOLE, LITTER, SETTLING, WIDE
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
    mesh, edges = _kept(mesh, edges, _without_litter(large_parts(edges, area, crumb), area))
    check()
    air = open_air(mesh, voxel=voxel, check=check)
    sides = sides_of(air, len(mesh.faces), check=check)
    patched, known = mesh, patches(mesh, edges)
    hidden, sides = hidden_faces(known.patch, known.count, edges, sides, air, check=check)
    del air
    mesh, edges, sides = *_kept(mesh, edges, ~hidden), sides.picked(~hidden)
    area = areas(mesh, voxel)
    keep = _without_litter(_without_fins(edges, area, min(FIN * AREA, whole)), area)
    mesh, edges, sides = *_kept(mesh, edges, keep), sides.picked(keep)
    if mesh is not patched:
        area = areas(mesh, voxel)
        keep = _without_litter(large_parts(edges, area, crumb), area)
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
    flake = min(FLAKE * AREA, whole)
    for _ in range(SETTLING if mesh is not wound else 0):
        before = len(mesh.faces)
        mesh, edges = settled(mesh, edges, voxel=voxel, flake=flake, crumb=crumb, check=check)
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


def _without_litter(keep: torch.Tensor, area: torch.Tensor) -> torch.Tensor:
    """The marked faces, bool [F], unless the others make up too much of the area; then all."""
    return keep | (area[~keep].sum() > LITTER * area.sum())


def _without_fins(edges: EdgeTable, area: torch.Tensor, maximum: float) -> torch.Tensor:
    """Faces bool [F] that are no fins, as `fins` of mesh/repair.py."""
    first, second = edges.pairs()
    patch, count = numbered(connected(len(area), first // 3, second // 3))
    small = (sums(area, patch, count) < maximum)[patch]
    edge = torch.repeat_interleave(edges.counts)
    crowded = edges.halves[(edges.counts > 2)[edge]] // 3
    among = small[edges.halves // 3]
    face, edge = edges.halves[among] // 3, edge[among]
    beside = edge[1:] == edge[:-1]
    cluster, count = numbered(connected(len(area), face[:-1][beside], face[1:][beside]))
    hangs = torch.zeros(count, dtype=torch.bool, device=area.device)
    hangs[cluster[crowded]] = True
    fin = small & (hangs & (sums(area, cluster, count) < maximum))[cluster]
    return ~fin
