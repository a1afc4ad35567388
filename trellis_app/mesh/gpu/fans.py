"""Cutting touching sheets apart and closing small holes: what concerns the few faces at crowded edges and borders."""

from __future__ import annotations

import numpy as np
import torch

from trellis_app.mesh.gpu.topology import AREA, EdgeTable, after, areas, edge_table, fans, parts, run_starts, sums
from trellis_app.mesh.repair import TORN, Border, divide_crowded_edges, hole_fans, partners_by_solid
from trellis_app.mesh.surface import Surface
from trellis_app.mesh.surface import edge_table as surface_edges
from trellis_app.types import Mesh

_FINE = 1 << 20  # directions are summed as integers: steps in a unit


def _submesh(mesh: Mesh, which: torch.Tensor) -> tuple[Surface, np.ndarray]:
    """(the faces with the given numbers on the CPU, the mesh vertex of each of its vertices)."""
    source, index = torch.unique(mesh.faces[which].long(), return_inverse=True)
    vertices = mesh.vertices[source].cpu().numpy()
    return Surface(vertices, index.int().reshape(-1, 3).cpu().numpy()), source.cpu().numpy()


def _crowded(edges: EdgeTable) -> tuple[torch.Tensor, torch.Tensor]:
    """(half-edges of the edges with more than two faces grouped by edge, where each edge's begin)."""
    crowded = edges.counts > 2
    sizes = edges.counts[crowded]
    halves = edges.halves[torch.repeat_interleave(crowded, edges.counts)]
    return halves, torch.cat([torch.zeros_like(sizes[:1]) if len(sizes) else sizes, torch.cumsum(sizes, 0)])


def partners(mesh: Mesh, edges: EdgeTable) -> torch.Tensor:
    """The half-edge across each half-edge, int64 [3 F], or -1; at crowded edges, bounds of solids are pairs."""
    partner = torch.full((mesh.faces.numel(),), -1, dtype=torch.int64, device=mesh.faces.device)
    corner = mesh.faces.reshape(-1)
    first, second = edges.pairs()
    opposed = corner[first] != corner[second]
    first, second = first[opposed], second[opposed]
    partner[first], partner[second] = second, first
    halves, start = _crowded(edges)
    if not len(halves):
        return partner
    which, index = torch.unique(halves // 3, return_inverse=True)
    part, _ = _submesh(mesh, which)
    local = (3 * index + halves % 3).int().cpu().numpy()
    across = partners_by_solid(part.vertices, part.faces, start.int().cpu().numpy(), local)
    found = torch.from_numpy(across).to(partner.device).long()
    mine = (found >= 0).nonzero()[:, 0]
    other = found[mine]
    partner[3 * which[mine // 3] + mine % 3] = 3 * which[other // 3] + other % 3
    return partner


def separate(mesh: Mesh, edges: EdgeTable, *, apart: float) -> tuple[Mesh, EdgeTable]:
    """Cut an oriented mesh until edges have at most two faces, oppositely directed, and vertices one fan.

    As `separate` of mesh/repair.py: copies of a vertex move `apart` (world units) towards the inside of their sheet.
    """
    first = fans(mesh.faces, partners(mesh, edges))
    fresh = first == torch.arange(len(first), device=first.device)
    source = mesh.faces.reshape(-1)[fresh].long()
    number = torch.cumsum(fresh, 0) - 1
    copies = sums(torch.ones_like(source), source, len(mesh.vertices))
    cut = (copies > 1)[source]
    crowded = _crowded(edges)[0]
    if not len(crowded) and not bool(cut.any()):
        return mesh, edges
    mesh = Mesh(mesh.vertices[source], number[first].int().reshape(-1, 3))
    mesh, cut = _divided(mesh, cut, crowded)
    return _moved_inwards(mesh, cut, apart), edge_table(mesh.faces, len(mesh.vertices))


def _divided(mesh: Mesh, cut: torch.Tensor, halves: torch.Tensor) -> tuple[Mesh, torch.Tensor]:
    """Give face pairs at edges that are still crowded a middle vertex of their own; marks the new vertices as cut.

    halves: the half-edges at edges that were crowded before.
    """
    corner = mesh.faces.reshape(-1)
    begin, end = corner[halves].long(), corner[after(halves)].long()
    key, order = torch.sort(torch.minimum(begin, end) * len(mesh.vertices) + torch.maximum(begin, end), stable=True)
    start = run_starts(key)
    crowded = torch.repeat_interleave(start.diff() > 2, start.diff())
    which = torch.unique(halves[order[crowded]] // 3)
    if not len(which):
        return mesh, cut
    part, source = _submesh(mesh, which)
    known, count = len(part.vertices), len(part.faces)
    for _ in range(8):
        edges = surface_edges(part)
        if (edges.counts <= 2).all():
            break
        part = divide_crowded_edges(
            part, edges, partners_by_solid(part.vertices, part.faces, edges.start, edges.halves)
        )
    device, fresh = mesh.faces.device, len(part.vertices) - known
    index = np.concatenate([source, len(mesh.vertices) + np.arange(fresh)]).astype(np.int32)
    changed = torch.from_numpy(index[part.faces]).to(device)
    faces = mesh.faces.clone()
    faces[which] = changed[:count]
    vertices = torch.cat([mesh.vertices, torch.from_numpy(part.vertices[known:].astype(np.float32)).to(device)])
    cut = torch.cat([cut, torch.ones(fresh, dtype=torch.bool, device=device)])
    return Mesh(vertices, torch.cat([faces, changed[count:]])), cut


def _moved_inwards(mesh: Mesh, which: torch.Tensor, distance: float) -> Mesh:
    """Move the marked vertices against their mean normal, and a little less towards their neighbours' mean."""
    corner = which[mesh.faces.reshape(-1).long()].nonzero()[:, 0]
    vertex, number = torch.unique(mesh.faces.reshape(-1)[corner].long(), return_inverse=True)
    points = mesh.vertices[mesh.faces[corner // 3].long()].double()
    normal = torch.linalg.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    inward = points.mean(dim=1) - mesh.vertices[mesh.faces.reshape(-1)[corner].long()]

    def mean(values: torch.Tensor) -> torch.Tensor:
        scale = _FINE / values.abs().amax().clamp_min(1e-30)
        whole = torch.stack([sums((values[:, k] * scale).round(), number, len(vertex)) for k in range(3)], dim=1)
        return torch.nn.functional.normalize(whole.double(), dim=1)

    moved = mesh.vertices.clone()
    moved[vertex] += (distance * torch.nn.functional.normalize(0.7 * mean(inward) - mean(normal), dim=1)).float()
    return Mesh(moved, mesh.faces)


def filled(
    mesh: Mesh, edges: EdgeTable, max_perimeter: float, *, bow_ties: bool = False, wide: float = 0.0
) -> tuple[Mesh, EdgeTable]:
    """Close border loops shorter than `max_perimeter` (world units), as `fill_holes` of mesh/repair.py."""
    half = edges.halves[edges.start[:-1][edges.counts == 1]]
    if not len(half):
        return mesh, edges
    corner = mesh.faces.reshape(-1)
    ends = torch.stack([corner[half], corner[after(half)]]).long()
    vertex, index = torch.unique(ends, return_inverse=True)
    blocked = torch.zeros(len(vertex), dtype=torch.bool, device=half.device)
    fan = ends
    if bow_ties:
        first = fans(mesh.faces, partners(mesh, edges))
        fan = torch.stack([first[half], first[after(half)]])
    else:
        blocked = sums(torch.ones_like(index.reshape(-1)), index.reshape(-1), len(vertex)) != 2
    begin, end = index.cpu().numpy()
    begin_fan, end_fan = fan.cpu().numpy()
    border = Border(begin, end, begin_fan, end_fan, blocked[index[0]].cpu().numpy())
    limit: float | np.ndarray = max_perimeter
    if wide > max_perimeter:
        part, count = parts(edges, len(mesh.faces))
        area = sums(areas(mesh, max_perimeter), part, count).double() * (max_perimeter**2 / AREA)
        limit = (TORN * area).sqrt().clamp(max_perimeter, wide)[part[half // 3]].cpu().numpy()
    patches, centres = hole_fans(border, mesh.vertices[vertex].double().cpu().numpy(), limit)
    if not len(patches):
        return mesh, edges
    number = torch.cat([vertex, len(mesh.vertices) + torch.arange(len(centres), device=vertex.device)]).int()
    faces = torch.cat([mesh.faces, number[torch.from_numpy(patches).to(vertex.device).long()]])
    vertices = torch.cat([mesh.vertices, torch.from_numpy(centres).to(vertex.device)])
    return Mesh(vertices, faces), edge_table(faces, len(vertices))
