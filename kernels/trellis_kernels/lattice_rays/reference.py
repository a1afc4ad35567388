"""A step of all rays at a time in torch."""

from __future__ import annotations

import torch

from trellis_kernels.lattice_rays.op import OPEN, OUT, SHUT_IN, Walls


def _closed(walls: Walls, edge: torch.Tensor) -> torch.Tensor:
    """Whether edges (numbers) are closed."""
    if not len(walls.edges):
        return torch.zeros_like(edge, dtype=torch.bool)
    at = torch.searchsorted(walls.edges, edge).clamp_max(len(walls.edges) - 1)
    return walls.edges[at] == edge


def ray_reach(points: torch.Tensor, steps: torch.Tensor, walls: Walls, limit: int) -> torch.Tensor:
    nx, ny, nz = walls.shape
    size, order = torch.tensor(walls.shape, device=points.device), torch.arange(3, device=points.device)
    line = points // nz
    place = torch.stack([line // ny, line % ny, points % nz], dim=1).repeat_interleave(steps.shape[1], 0)
    step = steps[points % len(steps)].reshape(-1, 3)
    due = step.abs() // 2
    end = torch.full([len(place)], OUT, dtype=torch.uint8, device=points.device)
    aired = torch.zeros(len(place), dtype=torch.bool, device=points.device)
    ray = torch.arange(len(place), device=points.device)
    for _ in range(limit):
        cell = place // walls.grain
        along = torch.argmin(3 * due + order, dim=1, keepdim=True)  # the first of equals
        ahead = step.gather(1, along) > 0
        low = (place.gather(1, along) - (~ahead).long())[:, 0]
        axis = along[:, 0]
        inside = (low >= 0) & (low < size[axis] - 1)
        open_here = walls.open_cells[cell[:, 0], cell[:, 1], cell[:, 2]]
        aired |= open_here
        across = place.gather(1, (along + 1) % 3)[:, 0] * size[(axis + 2) % 3] + place.gather(1, (along + 2) % 3)[:, 0]
        stopped = inside & ~open_here & _closed(walls, axis * (nx * ny * nz) + across * size[axis] + low)
        end[ray[stopped]] = torch.where(aired[stopped], OPEN, SHUT_IN).to(torch.uint8)
        on = (inside & ~stopped).nonzero()[:, 0]
        if not len(on):
            break
        along, ahead = along[on], ahead[on]
        place = place[on].scatter_add(1, along, torch.where(ahead, 1, -1))
        step, ray, aired = step[on], ray[on], aired[on]
        due = due[on].scatter_add(1, along, step.gather(1, along).abs())
    return end.view(len(points), steps.shape[1])
