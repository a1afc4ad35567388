"""The surface modes of mesh/modes.py for meshes on a GPU: the same steps and predicates on torch tensors.

Whole-mesh work is done on the mesh's device; what concerns only a few faces (crowded edges, borders of holes) is handed
to the compiled CPU code. Runs on any device, which is how it is tested.
"""

from __future__ import annotations

import torch

from trellis_app.mesh.gpu.air import open_air
from trellis_app.mesh.gpu.clean import clean, compacted
from trellis_app.mesh.gpu.fans import filled, separate
from trellis_app.mesh.gpu.topology import EdgeTable, edge_table, parts, patches, sums, turned
from trellis_app.mesh.orient import HIDDEN, PARITY, SKY
from trellis_app.mesh.repair import APART, CRUMB, FIN, HOLE
from trellis_app.progress import Check, go_on
from trellis_app.settings import SURFACE_MODES
from trellis_app.types import Mesh

_AREA = 4096  # areas are summed as integers: steps in the area of a voxel face
_VOTE = 100  # votes are summed as integers: steps in a vote


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
    from trellis_app.mesh.gpu.watertight import closed_solid

    return closed_solid(single, voxel=voxel, check=check)


def _areas(mesh: Mesh, voxel: float) -> torch.Tensor:
    """Face areas as integers, int64 [F]."""
    a, b, c = (mesh.vertices[mesh.faces[:, k].long()] for k in range(3))
    return (torch.linalg.cross(b - a, c - a).norm(dim=1) * (0.5 * _AREA / voxel**2)).round_().long()


def _large_parts(mesh: Mesh, edges: EdgeTable, area: torch.Tensor, minimum: float) -> torch.Tensor:
    """Faces bool [F] of parts with at least the minimum area; the largest part always stays."""
    part, count = parts(edges, len(mesh.faces))
    total = sums(area, part, count)
    keep = total >= minimum
    keep[torch.argmax(total)] = True
    return keep[part]


def _single(mesh: Mesh, voxel: float, check: Check) -> Mesh:
    area = _areas(mesh, voxel)
    whole = 0.01 * float(area.sum())
    crumb = min(CRUMB * _AREA, whole)
    edges = edge_table(mesh.faces, len(mesh.vertices))
    keep = _large_parts(mesh, edges, area, crumb)
    check()
    if not bool(keep.all()):
        mesh, area = Mesh(mesh.vertices, mesh.faces[keep]), area[keep]
        edges = edge_table(mesh.faces, len(mesh.vertices))
    vote, keep = _votes(mesh, edges, voxel, check)
    keep = _without_fins(edges, patches(mesh, edges)[:2], area, keep, min(FIN * _AREA, whole))
    if not bool(keep.all()):
        mesh, vote = Mesh(mesh.vertices, mesh.faces[keep]), vote[keep]
        edges = edge_table(mesh.faces, len(mesh.vertices))
    check()
    turn = _outward(mesh, edges, vote)
    mesh = Mesh(mesh.vertices, turned(mesh.faces, turn))
    half = edges.halves
    edges = EdgeTable(torch.where(turn[half // 3], 3 * (half // 3) + 2 - half % 3, half), edges.start)
    check()
    mesh, edges = filled(mesh, edges, HOLE * voxel, bow_ties=True)
    mesh, edges = separate(mesh, edges, apart=APART * voxel)
    check()
    keep = _large_parts(mesh, edges, _areas(mesh, voxel), crumb)
    if not bool(keep.all()):
        mesh = Mesh(mesh.vertices, mesh.faces[keep])
        edges = edge_table(mesh.faces, len(mesh.vertices))
    return compacted(filled(mesh, edges, HOLE * voxel)[0])


def _votes(mesh: Mesh, edges: EdgeTable, voxel: float, check: Check) -> tuple[torch.Tensor, torch.Tensor]:
    """(vote of each face for its front int64 [F], faces that the open air reaches bool [F]; all if it reaches none)."""
    air = open_air(mesh, voxel=voxel, check=check)
    count = len(mesh.faces)
    vote = torch.zeros(count, dtype=torch.int64, device=mesh.faces.device)
    crossed, reached = torch.zeros_like(vote), torch.zeros_like(vote)
    for one in air.along:
        lower = one.lower(air.lattice.shape)
        first, last = one.ends()
        low = first & air.open(lower)
        high = last & air.open(lower + air.lattice.strides[one.axis])
        before, behind = one.ranks(air.lattice.shape[one.axis])
        sky = (behind == 0).long() - (before == 0).long()
        parity = (behind % 2 == 0).long() - (before % 2 == 0).long()
        open_votes = int(SKY * _VOTE) * sky + int(PARITY * _VOTE) * parity
        up = torch.where(low & high, open_votes, _VOTE * (high.long() - low.long()))
        face = one.face.long()
        vote += sums(torch.where(one.rising, up, -up), face, count)
        crossed += sums(torch.ones_like(face), face, count)
        reached += sums(low | high, face, count)
        check()
    patch, patch_count = patches(mesh, edges)[:2]
    hidden = sums(reached, patch, patch_count) < HIDDEN * sums(crossed, patch, patch_count)
    seen = ~hidden[patch]
    return vote, seen if bool(seen.any()) else torch.ones_like(seen)


def _without_fins(
    edges: EdgeTable, patch: tuple[torch.Tensor, int], area: torch.Tensor, keep: torch.Tensor, maximum: float
) -> torch.Tensor:
    """`keep` without small patches that hang on an edge where other kept faces already meet, unless half would go."""
    label, count = patch
    face = edges.halves // 3
    edge = torch.repeat_interleave(torch.arange(len(edges.counts), device=face.device), edges.counts)
    around = sums(keep[face], edge, len(edges.counts))
    crowded = (around > 2)[edge] & keep[face]
    hangs = torch.zeros(count, dtype=torch.bool, device=face.device)
    hangs[label[face[crowded]]] = True
    fin = (hangs & (sums(area, label, count) < maximum))[label]
    rest = keep & ~fin
    return rest if 2 * int(rest.sum()) > int(keep.sum()) else keep


def _outward(mesh: Mesh, edges: EdgeTable, vote: torch.Tensor) -> torch.Tensor:
    """Faces to turn, bool [F]: one winding a patch, the one its faces vote for."""
    patch, count, turn = patches(mesh, edges)
    total = sums(torch.where(turn, -vote, vote), patch, count)
    return turn ^ (total < 0)[patch]
