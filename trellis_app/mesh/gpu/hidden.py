"""Scraps of inner walls, as mesh/hidden.py, in torch: the same rays."""

from __future__ import annotations

import math

import torch
from trellis_kernels.lattice_rays.op import Walls, rays_out

from trellis_app.mesh.gpu.air import Air
from trellis_app.mesh.gpu.orient import Sides, opposed_regions
from trellis_app.mesh.gpu.topology import EdgeTable
from trellis_app.mesh.hidden import SAMPLES, SEEN, STEPS, ray_steps
from trellis_app.mesh.orient import REGION
from trellis_app.progress import Check, go_on

_WHOLE = 100  # shares of rays are summed as integers: steps in a ray


def hidden_regions(edges: EdgeTable, sides: Sides, air: Air, check: Check = go_on) -> torch.Tensor:
    """Faces bool [F] of large regions that cannot be seen from outside, within patches that the open air reaches."""
    count, device = len(sides.reached), sides.reached.device
    wish = torch.where(sides.reached > 0, 1, -torch.sign(sides.crossed))
    hidden = torch.zeros(count, dtype=torch.bool, device=device)
    if int(-wish.clamp_max(0).sum()) < REGION:
        return hidden
    first, second = edges.pairs()
    region = opposed_regions(first // 3, second // 3, wish)
    steps = torch.from_numpy(ray_steps()).to(device)
    balance, walls = torch.zeros(count, dtype=torch.int64, device=device), _walls(air)
    for one in air.along:
        picked = (region[one.face.long()] >= 0).nonzero()[:, 0]
        picked = picked[:: -(-len(picked) // SAMPLES) or 1]
        owner, low = region[one.face[picked].long()], one.lower(air.lattice.shape)[picked]
        for side in (-1, 1):
            check()
            towards = steps[steps[:, one.axis] * side > 0]
            points = low + (air.lattice.strides[one.axis] if side > 0 else 0)
            out = rays_out(points, towards, walls, limit=STEPS).sum(dim=1)
            balance.index_add_(0, owner, _WHOLE * out - round(_WHOLE * SEEN) * len(towards))
    inner = region >= 0
    hidden[inner] = balance[region[inner]] < 0
    return torch.zeros_like(hidden) if bool(hidden.all()) else hidden


def _walls(air: Air) -> Walls:
    """The crossed edges of the lattice, and the cells of the open air."""
    shape = air.lattice.shape
    edges = torch.cat([one.key + one.axis * math.prod(shape) for one in air.along])
    return Walls(edges, air.reached, air.grain, shape)
