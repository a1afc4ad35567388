"""The last look at a surface that was cut where sheets touch, as mesh/settling.py, in torch."""

from __future__ import annotations

import torch

from trellis_app.mesh.gpu.air import Air, open_air
from trellis_app.mesh.gpu.hidden import hidden_faces
from trellis_app.mesh.gpu.orient import VOTE, sides_of, unreached
from trellis_app.mesh.gpu.topology import EdgeTable, areas, edge_table, parts, sums, turned
from trellis_app.mesh.orient import HIDDEN, SURE
from trellis_app.mesh.settling import DOUBLED, SHREDS
from trellis_app.progress import Check, go_on
from trellis_app.types import Mesh


def settled(
    mesh: Mesh, edges: EdgeTable, *, voxel: float, flake: float, crumb: float, check: Check = go_on
) -> tuple[Mesh, EdgeTable]:
    """The parts that are seen and not too small (`crumb`, `flake`: as summed by `areas`), each as a whole: closed ones
    with positive volume, open ones as they are seen best."""
    if not len(mesh.faces):
        return mesh, edges
    part, count = parts(edges, len(mesh.faces))
    air = open_air(mesh, voxel=voxel, check=check)
    sides = sides_of(air, len(mesh.faces), check=check)
    unlit = unreached(part, count, sides)
    hidden, sides = hidden_faces(part, count, edges, sides, air, check=check)
    hidden = (sums(~hidden, part, count) < HIDDEN * torch.bincount(part, minlength=count))[part]
    hidden &= ~hidden.all()
    closed = torch.ones(count, dtype=torch.bool, device=part.device)
    closed[part[edges.halves[edges.start[:-1][edges.counts == 1]] // 3]] = False
    away = sums(SURE * VOTE * sides.outward + sides.vote, part, count) < 0
    turn = torch.where(closed, _volumes(mesh, part, count, voxel) < 0, away)[part]
    area = sums(torch.where(hidden, 0, areas(mesh, voxel)), part, count)
    shreds = area[area < crumb].sum() > SHREDS * area.sum()
    least = torch.where(unlit | ~shreds, crumb, flake)
    doubled = _doubled_parts(air, torch.where(turn, ~part, part), area)
    drop = hidden | doubled[part] | (area[part] < least.clamp_max(float(area.max())))
    faces = turned(mesh.faces, turn)
    mesh = Mesh(mesh.vertices, faces[~drop] if bool(drop.any()) else faces)
    return mesh, edge_table(mesh.faces, len(mesh.vertices))


def _doubled_parts(air: Air, label: torch.Tensor, area: torch.Tensor) -> torch.Tensor:
    """As `doubled_parts` of mesh/settling.py."""
    part = torch.maximum(label, ~label)
    count, doubled = torch.zeros_like(area), torch.zeros_like(area)
    for one in air.along:
        face, points = one.face.long(), air.lattice.shape[one.axis]
        count.index_add_(0, part[face], torch.ones_like(face))
        line, height = one.key // points, one.key % points + one.depth.double()
        rising = one.rising ^ (label[face] < 0)
        close = (line[1:] == line[:-1]) & (height[1:] - height[:-1] < DOUBLED) & (rising[1:] == rising[:-1])
        a, b = part[face[:-1][close]], part[face[1:][close]]
        second = (area[a] < area[b]) | ((area[a] == area[b]) & (a > b))
        doubled.index_add_(0, torch.where(second, a, b), (a != b).long())
    return 2 * doubled > count


def _volumes(mesh: Mesh, part: torch.Tensor, count: int, voxel: float) -> torch.Tensor:
    """Signed volume of each part in fine integer steps, int64 [parts]; meaningful where it is closed."""
    middle = mesh.vertices.double().mean(dim=0)
    a, b, c = (mesh.vertices[mesh.faces[:, k].long()].double() - middle for k in range(3))
    volume = (a * torch.linalg.cross(b, c)).sum(dim=1)
    return sums((volume * (2.0**20 / voxel**3)).round(), part, count)
