"""What cannot be seen from outside, as mesh/hidden.py, in torch: the same rays."""

from __future__ import annotations

import math

import torch
from trellis_kernels.lattice_rays.op import OUT, SHUT_IN, Walls, ray_reach

from trellis_app.mesh.gpu.air import Air, Crossings
from trellis_app.mesh.gpu.orient import Sides, opposed_regions, unreached
from trellis_app.mesh.gpu.topology import EdgeTable
from trellis_app.mesh.hidden import LIT, SEEN, STEPS, WHOLE, Looks, ray_steps, ray_weights, strides
from trellis_app.mesh.orient import REGION
from trellis_app.progress import Check, go_on


def hidden_faces(
    label: torch.Tensor, count: int, edges: EdgeTable, sides: Sides, air: Air, *, check: Check = go_on
) -> tuple[torch.Tensor, Sides]:
    """(faces bool [F] that nobody sees from outside, the sides with what the rays found out); none if all are hidden.

    label: patch or part of each face, int64 [F] below count. Small regions that hang together with what is seen stay.
    """
    unlit = unreached(label, count, sides)
    region = torch.where(unlit, _first_faces(label, count), _unseen_regions(edges, sides))
    inner = region >= 0
    if not bool(inner.any()):
        return torch.zeros_like(inner), sides
    walls = _walls(air)
    looks = [_looks(one, region, air, walls, check) for one in air.along]
    balance, beyond, wish = (torch.zeros_like(region) for _ in range(3))
    least = torch.where(unlit, WHOLE, SEEN)
    for look in looks:
        own, wanted = region[look.face], least[look.face] * look.whole
        balance.index_add_(0, own, look.stride * (100 * look.aired - wanted))
        beyond.index_add_(0, own, look.stride * (1000 * look.out - wanted))
        wish.index_add_(0, look.face, look.stride * torch.where(look.aired > 0, LIT, -1))
    dark = inner & (torch.minimum(balance, beyond)[region.clamp_min(0)] <= 0)
    wish = torch.where(dark, -sides.crossed, torch.where(unlit, wish, 1))
    hidden = dark
    if int(-wish[~dark].clamp_max(0).sum()) >= REGION:
        first, second = edges.pairs()
        hidden = dark | (opposed_regions(first // 3, second // 3, wish) >= 0)
    if bool(hidden.all()):
        return torch.zeros_like(hidden), sides
    return hidden, _seen(sides, looks, inner & ~dark)


def _first_faces(label: torch.Tensor, count: int) -> torch.Tensor:
    """The first face with the same label as each, int64 [F]."""
    face = torch.arange(len(label), device=label.device)
    return torch.full((count,), len(label), device=label.device).scatter_reduce_(0, label, face, "amin")[label]


def _unseen_regions(edges: EdgeTable, sides: Sides) -> torch.Tensor:
    """Large regions that no air reaches: each face's region by its first face, int64 [F], -1 for faces in none."""
    wish = torch.where(sides.reached > 0, 1, -torch.sign(sides.crossed))
    if int(-wish.clamp_max(0).sum()) < REGION:
        return torch.full_like(wish, -1)
    first, second = edges.pairs()
    return opposed_regions(first // 3, second // 3, wish)


def _looks(one: Crossings, region: torch.Tensor, air: Air, walls: Walls, check: Check) -> Looks[torch.Tensor]:
    """Rays from crossings along an axis of regions (int64 [F], -1: none): all of small ones, a share of others."""
    owner = region[one.face.long()]
    doubtful = (owner >= 0).nonzero()[:, 0]
    own, order = torch.sort(owner[doubtful], stable=True)
    first, last = torch.searchsorted(own, own), torch.searchsorted(own, own, right=True)
    place = torch.arange(len(own), device=own.device)
    stride = strides(last - first, int((place == first).sum()))
    kept = (place - first) % stride == 0
    picked, stride = doubtful[order[kept]], stride[kept]
    steps = torch.from_numpy(ray_steps()).to(region.device)
    weights = torch.from_numpy(ray_weights(ray_steps())[..., one.axis]).to(region.device)
    lower, ends, sign = one.lower(air.lattice.shape)[picked], one.ends(), torch.where(one.rising[picked], 1, -1)
    whole, aired, out, front = (torch.zeros_like(lower) for _ in range(4))
    for side, end, shift in ((-1, ends[0], 0), (1, ends[1], air.lattice.strides[one.axis])):
        check()
        points = lower + shift
        free = (end[picked] & (air.region_of(points) == 0)).nonzero()[:, 0]
        towards = steps * (side * torch.sign(steps[..., one.axis : one.axis + 1]))
        weight, reach = weights[points % len(steps)], ray_reach(points[free], towards, walls, limit=STEPS)
        far = (weight[free] * (reach == OUT)).sum(dim=1)
        whole += weight.sum(dim=1)
        aired[free] += (weight[free] * (reach != SHUT_IN)).sum(dim=1)
        out[free] += far
        front[free] += side * sign[free] * far
    return Looks(one.face[picked].long(), stride, whole, aired, out, front)


def _seen(sides: Sides, looks: list[Looks[torch.Tensor]], lit: torch.Tensor) -> Sides:
    """The sides with what rays found out about some faces (bool [F]), which the air alone did not reach."""
    vote, reached, outward = (torch.where(lit, 0, old) for old in (sides.vote, sides.reached, sides.outward))
    for look in looks:
        use = lit[look.face]
        face = look.face[use]
        reached.index_add_(0, face, look.stride[use] * (look.aired[use] > 0))
        outward.index_add_(0, face, look.stride[use] * torch.sign(look.front[use]))
    return Sides(vote, sides.crossed, reached, outward)


def _walls(air: Air) -> Walls:
    """The crossed edges of the lattice, and the cells of the open air."""
    shape = air.lattice.shape
    edges = torch.cat([one.key + one.axis * math.prod(shape) for one in air.along])
    return Walls(edges, air.reached, air.grain, shape)
