"""Fewer triangles by quadric edge collapse on the GPU: rounds of collapses that do not touch each other.

Garland and Heckbert, "Surface Simplification Using Quadric Error Metrics", 1997, with the quadrics of
`trellis_app.mesh.simplify`, kept about each vertex's own position so that float32 suffices. Each round prices all
edges, takes those that are the cheapest of their neighbourhood and below a rising limit, and merges them; lists are
rebuilt only when a quarter of the faces is gone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from trellis_kernels.edge_collapse.op import (
    CollapseMesh,
    Verdict,
    edge_keys,
    examine,
    independent_edges,
    merge,
    unit_normals,
)
from trellis_kernels.edge_collapse.reference import STEP_BITS
from trellis_kernels.mesh_links.op import link, plane_quadrics

from trellis_app.mesh.simplify import simplify as simplify_on_cpu
from trellis_app.mesh.surface import Surface
from trellis_app.progress import Check, go_on
from trellis_app.types import Mesh

_PULL = 2e-5  # weight of the pull towards the merged vertices, relative to the planes'
_BORDER = 4.0  # weight of border planes
_REBUILD = 0.75  # lists are rebuilt when the faces have shrunk to this share
_SAMPLE = 1 << 16  # edges looked at for the limit
_SHARE = 0.1  # at most this share of the edges is below the limit; doubled after a round in which nothing moved
_HASTE = 1.0  # edges below the limit for each collapse still to do; doubled after a round that did too little
_LITTLE = 0.2  # of the faces still to remove


@dataclass(frozen=True)
class _Shrunk:
    """A mesh between two rebuilds: packed arrays without gone vertices and faces."""

    points: torch.Tensor  # float32 [V, 3]
    quadrics: torch.Tensor | None  # float32 [V, 10]
    faces: torch.Tensor  # int32 [F, 3]
    ahead: torch.Tensor  # float32 [F, 3] unit normals that the faces had at the start


def simplify(mesh: Mesh, target: int, *, check: Check = go_on, implementation: str = "auto") -> Mesh:
    """At most `target` faces (4 or more), as close to the surface as collapsing edges gets; no-op if it has no more.

    Manifold edges stay manifold, borders stay borders, no face turns over. What cannot shrink in rounds (tiny targets,
    surfaces full of tunnels) goes through the simplifier for the CPU. Deterministic on each device.
    check: called once a round; it raises to stop. implementation: of the op edge_collapse.
    """
    if len(mesh.faces) <= target:
        return mesh
    scale = _power_of_two_scale(mesh)
    a, b, c = mesh.faces.unbind(1)
    points, faces = mesh.vertices.float() * scale, mesh.faces[(a != b) & (b != c) & (c != a)].int()
    shrunk = _Shrunk(points, None, faces, unit_normals(points, faces))
    stuck = False
    while len(shrunk.faces) > target and not stuck:
        before = len(shrunk.faces)
        floor = max(target, math.ceil(_REBUILD * before))
        work = _start(shrunk, implementation)
        _rounds(work, floor, target, check=check, implementation=implementation)
        shrunk = _packed(work)
        stuck = len(shrunk.faces) > 0.998 * before and len(shrunk.faces) > target
    result = Mesh(shrunk.points / scale, shrunk.faces)
    if len(result.faces) <= target:
        return result
    surface = simplify_on_cpu(Surface(result.vertices.cpu().numpy(), result.faces.cpu().numpy()), target, check=check)
    device = mesh.vertices.device
    return Mesh(torch.from_numpy(surface.vertices).to(device), torch.from_numpy(surface.faces).to(device))


def _power_of_two_scale(mesh: Mesh) -> float:
    """The power of two that brings edges to a length of about 1: exact, so vertices that stay keep their bytes."""
    corners = mesh.vertices[mesh.faces[:: max(1, len(mesh.faces) // _SAMPLE)].long()]
    length = float((corners[:, 1] - corners[:, 0]).norm(dim=1).mean())
    return 2.0 ** -round(math.log2(length)) if length > 0 else 1.0


def _rounds(mesh: CollapseMesh, floor: int, target: int, *, check: Check, implementation: str) -> None:
    """Collapse until at most `floor` faces are left, never below `target` - 1, or until nothing moves."""
    count, idle, haste = len(mesh.faces), 0, _HASTE
    while count > floor and idle < 8:
        check()
        cost, keys = edge_keys(mesh, implementation=implementation)
        limit = _limit(cost, min(haste * (count - target) / 2, min(2.0**idle * _SHARE, 0.5) * len(cost)))
        picked = independent_edges(mesh, keys, limit, implementation=implementation)
        verdict = examine(mesh, picked, implementation=implementation)
        mesh.refused[picked] += (verdict.vanishing == 0).to(torch.int8)
        fits = _cheapest(verdict.vanishing, keys[picked], count - target)
        picked = picked[fits]
        verdict = Verdict(verdict.vanishing[fits], verdict.points[fits], verdict.quadrics[fits])
        merge(mesh, picked, verdict, implementation=implementation)
        gone = int(verdict.vanishing.sum())
        haste = min(2 * haste, 1e6) if gone < _LITTLE * (count - target) else _HASTE
        count -= gone
        idle = 0 if gone else idle + 1


def _limit(cost: torch.Tensor, wanted: float) -> int:
    """The greatest key that may collapse in this round, so that about the right share of edges takes part."""
    sample = cost[:: max(1, len(cost) // _SAMPLE)].sort().values
    finite = int((sample < torch.inf).sum())
    share = wanted / max(len(cost), 1)
    place = min(max(math.ceil(share * len(sample)), 8), max(finite - 1, 0))
    bits = int(sample[place].view(torch.int32)) >> STEP_BITS
    return (bits + 1) << 32


def _cheapest(vanishing: torch.Tensor, keys: torch.Tensor, need: int) -> torch.Tensor:
    """Allowed edges as an index: all, or the cheapest whose vanishing faces together just reach `need`."""
    allowed = torch.nonzero(vanishing)[:, 0]
    gone = vanishing[allowed].long()
    if int(gone.sum()) <= need:
        return allowed
    order = keys[allowed].argsort()
    gone = gone[order]
    return allowed[order[gone.cumsum(0) - gone < need]].sort().values


def _start(shrunk: _Shrunk, implementation: str) -> CollapseMesh:
    """Edges, corner lists and, the first time, quadrics."""
    faces, points, quadrics = shrunk.faces, shrunk.points, shrunk.quadrics
    links = link(faces, len(points), implementation=implementation)
    face, place = links.halves // 3, links.halves % 3
    edges = torch.stack([faces[face, place], faces[face, (place + 1) % 3]], dim=1)
    if quadrics is None:
        quadrics = plane_quadrics(points, faces, pull=_PULL, implementation=implementation)
        single = links.faces_at == 1
        if bool(single.any()):
            _add_borders(quadrics, points, faces, face[single], edges[single].long())
    return CollapseMesh(
        points, quadrics, links.border, faces, shrunk.ahead,
        torch.ones(len(faces), dtype=torch.bool, device=faces.device), links.head, links.tail, links.following,
        edges, torch.zeros(len(edges), dtype=torch.int8, device=faces.device),
    )  # fmt: skip


def _add_borders(
    quadrics: torch.Tensor, points: torch.Tensor, faces: torch.Tensor, face: torch.Tensor, ends: torch.Tensor
) -> None:
    """Add to both ends int64 [B, 2] of border edges the planes through them that stand upright on their faces [B]."""
    corners = points[faces[face].long()]
    cross = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    along = points[ends[:, 1]] - points[ends[:, 0]]
    upright = torch.nn.functional.normalize(torch.linalg.cross(along, cross), dim=1, eps=1e-30)
    weight = _BORDER * (along * along).sum(1)
    vertex, order = ends.T.reshape(-1).sort(stable=True)
    vertex, times = torch.unique_consecutive(vertex, return_counts=True)
    x, y, z = upright.unbind(1)
    shares = weight[:, None] * torch.stack([x * x, x * y, x * z, y * y, y * z, z * z], dim=1)
    quadrics[vertex, :6] += torch.segment_reduce(shares.repeat(2, 1)[order], "sum", lengths=times)


def _packed(mesh: CollapseMesh) -> _Shrunk:
    """Without gone faces and unused vertices; both keep their order."""
    faces = mesh.faces[mesh.alive].long()
    used = torch.zeros(len(mesh.points), dtype=torch.bool, device=faces.device)
    used[faces.reshape(-1)] = True
    index = used.cumsum(0) - 1
    return _Shrunk(mesh.points[used], mesh.quadrics[used], index[faces].int(), mesh.ahead[mesh.alive])
