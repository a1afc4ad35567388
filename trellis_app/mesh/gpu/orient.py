"""Winding, as mesh/orient.py, in torch: patches, the air they face, and which it hardly reaches."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from trellis_app.mesh.gpu.air import Air
from trellis_app.mesh.gpu.topology import EdgeTable, connected, numbered, sums
from trellis_app.mesh.orient import HIDDEN, REGION, ROUNDS, SURE
from trellis_app.mesh.sides import PARITY, SKY
from trellis_app.progress import Check, go_on
from trellis_app.types import Mesh

VOTE = 100  # votes are summed as integers: steps in a vote


@dataclass(frozen=True)
class Sides:
    """What the open air reaches of each face; as in mesh/sides.py."""

    vote: torch.Tensor  # int64 [F] positive: its front, negative: its back
    crossed: torch.Tensor  # int64 [F] lattice edges that cross the face
    reached: torch.Tensor  # int64 [F] how many of these have open air at one end at least
    outward: torch.Tensor  # int64 [F] how many have it at the front only, less those that have it at the back only

    def picked(self, keep: torch.Tensor) -> Sides:
        """Of the faces selected by a mask."""
        return Sides(*(getattr(self, field.name)[keep] for field in fields(self)))


def sides_of(air: Air, count: int, *, check: Check = go_on) -> Sides:
    """Which sides of the faces of a mesh (so many) the open air around it reaches."""
    vote, crossed, reached, outward = (torch.zeros(count, dtype=torch.int64, device=air.cuts.device) for _ in range(4))
    for one in air.along:
        lower = one.lower(air.lattice.shape)
        first, last = one.ends()
        low = first & air.open(lower)
        high = last & air.open(lower + air.lattice.strides[one.axis])
        before, behind = one.ranks(air.lattice.shape[one.axis])
        sky = (behind == 0).long() - (before == 0).long()
        parity = (behind % 2 == 0).long() - (before % 2 == 0).long()
        sure = torch.where(one.rising, 1, -1) * (high.long() - low.long())
        weak = torch.where(one.rising, 1, -1) * (int(SKY * VOTE) * sky + int(PARITY * VOTE) * parity)
        face = one.face.long()
        vote.index_add_(0, face, torch.where(low & high, weak, VOTE * sure))
        crossed.index_add_(0, face, torch.ones_like(face))
        reached.index_add_(0, face, (low | high).long())
        outward.index_add_(0, face, sure)
        check()
    return Sides(vote, crossed, reached, outward)


@dataclass(frozen=True)
class Patches:
    """Faces connected across edges with two faces."""

    patch: torch.Tensor  # int64 [F] of each face
    count: int
    turn: torch.Tensor  # bool [F]: turning the marked faces winds each patch consistently


def patches(mesh: Mesh, edges: EdgeTable) -> Patches:
    """The patches of a mesh. Where no consistent winding exists (a Moebius band), the sharpest edges stay inconsistent:
    windings follow the spanning forest of the flattest edges (Boruvka's algorithm).
    """
    corner, count = mesh.faces.reshape(-1), len(mesh.faces)
    first, second = edges.pairs()
    a, b = first // 3, second // 3
    flip = corner[first] == corner[second]
    unit = _units(mesh)
    flatness = (unit[a] * unit[b]).sum(dim=1).abs()
    key = (((1 - flatness.clamp(0, 1)) * 1024).round().long() << 32) | torch.arange(len(a), device=a.device)
    parent = torch.arange(count, device=corner.device)
    odd = torch.zeros(count, dtype=torch.bool, device=corner.device)  # parity towards the parent
    while len(a):
        best = torch.full((count,), torch.iinfo(torch.int64).max, device=key.device)
        best.scatter_reduce_(0, a, key, "amin").scatter_reduce_(0, b, key, "amin")
        for mine, other in ((a, b), (b, a)):
            wins = best[mine] == key
            wins &= (best[other] != key) | (mine > other)  # of two that chose each other the lower one stays
            parent[mine[wins]], odd[mine[wins]] = other[wins], flip[wins]
        while True:
            shorter = parent[parent]
            if torch.equal(shorter, parent):
                break
            odd ^= odd[parent]
            parent = shorter
        flip = flip ^ odd[a] ^ odd[b]
        a, b = parent[a], parent[b]
        apart = a != b
        a, b, flip, key = a[apart], b[apart], flip[apart], key[apart]
    lowest = torch.full_like(parent, count).scatter_reduce_(
        0, parent, torch.arange(count, device=parent.device), "amin"
    )
    first_face = lowest[parent]
    patch, patch_count = numbered(first_face)
    return Patches(patch, patch_count, odd ^ odd[first_face])


def _units(mesh: Mesh) -> torch.Tensor:
    """Unit normals of the faces, float32 [F, 3]; zero where a face has no area."""
    a, b, c = (mesh.vertices[mesh.faces[:, k].long()] for k in range(3))
    return torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=1, eps=1e-30)


def unreached(label: torch.Tensor, count: int, sides: Sides) -> torch.Tensor:
    """Faces bool [F] of the patches or parts (label [F] below count) that the open air hardly reaches."""
    return (sums(sides.reached, label, count) < HIDDEN * sums(sides.crossed, label, count))[label]


def outward(edges: EdgeTable, sides: Sides, known: Patches) -> torch.Tensor:
    """Faces to turn, bool [F], so that they face the open air; as in mesh/orient.py."""
    patch, turn = known.patch, known.turn
    vote = SURE * VOTE * sides.outward + sides.vote
    turn = turn ^ (sums(torch.where(turn, -vote, vote), patch, known.count) < 0)[patch]
    wish = torch.where(turn, -sides.outward, sides.outward)
    if int(-wish.clamp_max(0).sum()) < REGION:
        return turn
    first, second = edges.pairs()
    return turn ^ (opposed_regions(first // 3, second // 3, wish) >= 0)


def opposed_regions(first: torch.Tensor, second: torch.Tensor, wish: torch.Tensor) -> torch.Tensor:
    """Connected regions whose faces mostly have negative wishes: as `opposed_regions` of mesh/orient.py."""
    count = len(wish)
    mark = torch.sign(wish)
    for _ in range(ROUNDS):
        score = 2 * wish
        score.index_add_(0, first, mark[second]).index_add_(0, second, mark[first])
        mark = torch.where(score == 0, mark, torch.sign(score))
    against = (mark[first] < 0) & (mark[second] < 0)
    region = connected(count, first[against], second[against])
    large = (mark < 0) & (sums(-wish, region, count) >= REGION)[region]
    return torch.where(large, region, -1)
