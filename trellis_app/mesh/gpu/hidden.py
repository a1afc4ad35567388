"""Scraps of inner walls, as mesh/hidden.py, in torch: the same rays, a step of all of them at a time."""

from __future__ import annotations

import torch

from trellis_app.mesh.gpu.air import Air, Crossings
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
    balance = torch.zeros(count, dtype=torch.int64, device=device)
    for one in air.along:
        picked = (region[one.face.long()] >= 0).nonzero()[:, 0]
        picked = picked[:: -(-len(picked) // SAMPLES) or 1]
        owner, low = region[one.face[picked].long()], one.lower(air.lattice.shape)[picked]
        for side in (-1, 1):
            towards = steps[steps[:, one.axis] * side > 0]
            points = low + (air.lattice.strides[one.axis] if side > 0 else 0)
            out = _rays_out(points, towards, air, check).view(-1, len(towards)).sum(dim=1)
            balance.index_add_(0, owner, _WHOLE * out - round(_WHOLE * SEEN) * len(towards))
    inner = region >= 0
    hidden[inner] = balance[region[inner]] < 0
    return torch.zeros_like(hidden) if bool(hidden.all()) else hidden


def _blocked(one: Crossings, place: torch.Tensor, low: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Whether the lattice edges above position `low` on the lines through places [N, 3] are crossed."""
    axis = one.axis
    line = place[:, (axis + 1) % 3] * shape[(axis + 2) % 3] + place[:, (axis + 2) % 3]
    key = line * shape[axis] + low
    at = torch.searchsorted(one.key, key).clamp_max(max(len(one.key) - 1, 0))
    return one.key[at] == key if len(one.key) else torch.zeros_like(key, dtype=torch.bool)


def _rays_out(points: torch.Tensor, steps: torch.Tensor, air: Air, check: Check) -> torch.Tensor:
    """Whether each ray gets out, bool [N * D]: from points [N] with steps [D, 3]."""
    shape = air.lattice.shape
    size, order = torch.tensor(shape, device=points.device), torch.arange(3, device=points.device)
    line = points // shape[2]
    place = torch.stack([line // shape[1], line % shape[1], points % shape[2]], dim=1).repeat_interleave(len(steps), 0)
    step = steps.repeat(len(points), 1)
    due = step.abs() // 2
    free = torch.ones(len(place), dtype=torch.bool, device=points.device)
    ray = torch.arange(len(place), device=points.device)
    for number in range(STEPS):
        if number % 16 == 0:
            check()
        cell = place // air.grain
        along = torch.argmin(3 * due + order, dim=1, keepdim=True)  # the first of equals
        ahead = step.gather(1, along) > 0
        low = (place.gather(1, along) - (~ahead).long())[:, 0]
        inside = (low >= 0) & (low < size[along[:, 0]] - 1) & ~air.reached[cell[:, 0], cell[:, 1], cell[:, 2]]
        stopped = torch.zeros_like(inside)
        for one in air.along:
            mine = (inside & (along[:, 0] == one.axis)).nonzero()[:, 0]
            stopped[mine] = _blocked(one, place[mine], low[mine], shape)
        free[ray[stopped]] = False
        on = (inside & ~stopped).nonzero()[:, 0]
        if not len(on):
            break
        along, ahead = along[on], ahead[on]
        place = place[on].scatter_add(1, along, torch.where(ahead, 1, -1))
        step, ray = step[on], ray[on]
        due = due[on].scatter_add(1, along, step.gather(1, along).abs())
    return free
