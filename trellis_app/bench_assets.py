"""Synthetic O-Voxel assets of any size, made on the device in seconds: what the benchmarks of finishing work on."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import torch

from trellis_app.types import DualGrid, OVoxel

_RADIUS = 0.352  # gives about 4.9 R^2 faces: 1.3 M at 512^3, 5.1 M at 1024^3, 11.4 M at 1536^3
_WALL = 0.012  # half the thickness of a wall, object units
_SLAB_CORNERS = 24_000_000
_EDGES = tuple(
    (tuple(corner), axis)
    for axis in range(3)
    for corner in itertools.product(*(range(1) if a == axis else range(2) for a in range(3)))
)


def field(p: torch.Tensor, walls: int, radius: float = _RADIUS) -> torch.Tensor:
    """Signed value [...] of a ball with rounded bumps and fine grooves at points [..., 3]; negative inside.

    walls 1: the solid's one surface; 2: a hollow shell, whose inner wall is the doubled wall of real decodings.
    """
    x, y, z = p.unbind(-1)
    distance = (x * x + y * y + z * z).sqrt()
    bumps = 0.02 * torch.sin(14 * x) * torch.sin(14 * y) * torch.sin(14 * z)
    grooves = 0.0015 * torch.sin(90 * x + 30 * torch.sin(5 * y)) * torch.sin(80 * z)
    value = distance - radius - bumps - grooves
    return value if walls == 1 else value.add(_WALL).abs() - _WALL


def synthetic_asset(
    resolution: int, *, walls: int = 1, radius: float = _RADIUS, device: torch.device | str = "cpu"
) -> OVoxel:
    """The level set of `field` as an O-Voxel asset with striped PBR attributes, float32 on `device`.

    About 4.9 R^2 decoded faces with one wall, 9 R^2 with two. Deterministic on each device.
    """
    slab = max(1, _SLAB_CORNERS // (resolution + 1) ** 2)
    level = functools.partial(field, walls=walls, radius=radius)
    parts = [_slab(a, min(a + slab, resolution), resolution, level, device) for a in range(0, resolution, slab)]
    coords, dual, crossed = (torch.cat(values) for values in zip(*parts, strict=True))
    grid = DualGrid(coords, dual, crossed, None, resolution)
    return OVoxel(grid, _attributes((coords + dual) / resolution - 0.5))


def _slab(
    start: int, stop: int, resolution: int, level: Callable[[torch.Tensor], torch.Tensor], device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(coords, dual, crossed) of the active voxels with start <= x < stop."""
    line = torch.arange(resolution + 1, device=device, dtype=torch.float32) / resolution - 0.5
    corners = torch.stack(torch.meshgrid(line[start : stop + 1], line, line, indexing="ij"), dim=-1)
    value = level(corners)
    inside = value < 0
    some, every = _over_corners(inside, torch.logical_or), _over_corners(inside, torch.logical_and)
    local = torch.argwhere(some & ~every)
    x, y, z = local.unbind(1)
    total, count = torch.zeros(len(local), 3, device=device), torch.zeros(len(local), 1, device=device)
    crossed = []
    for corner, axis in _EDGES:
        step = [int(a == axis) for a in range(3)]
        first = value[x + corner[0], y + corner[1], z + corner[2]]
        second = value[x + corner[0] + step[0], y + corner[1] + step[1], z + corner[2] + step[2]]
        hit = (first < 0) != (second < 0)
        at = torch.where(hit, first / (first - second), 0.0).clamp(0, 1)
        point = torch.tensor(corner, device=device, dtype=torch.float32) + at[:, None] * torch.tensor(
            step, device=device, dtype=torch.float32
        )
        total += point * hit[:, None]
        count += hit[:, None]
        if sum(corner) == 2:
            crossed.append(hit)
    coords = local.int() + torch.tensor([start, 0, 0], device=device, dtype=torch.int32)
    return coords, total / count, torch.stack(crossed, dim=1)


def _over_corners(inside: torch.Tensor, join: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Combine the eight corners of every cell: bool [a, b, c] -> [a - 1, b - 1, c - 1]."""
    for axis in range(3):
        size = inside.shape[axis] - 1
        inside = join(inside.narrow(axis, 0, size), inside.narrow(axis, 1, size))
    return inside


def _attributes(p: torch.Tensor) -> torch.Tensor:
    """Stripes of colour, metal and gloss at points [M, 3]: float32 [M, 6] in [0, 1]."""
    wave = torch.sin(p @ torch.tensor([[9.0, 4.0, 2.0], [3.0, 11.0, 5.0], [6.0, 2.0, 13.0]], device=p.device).T)
    color = 0.5 + 0.4 * wave
    metal = (torch.sin(8 * math.pi * p[:, 2:]) > 0.6).float()
    rough = 0.35 + 0.3 * torch.sin(5 * p[:, :1])
    return torch.cat([color, metal, rough, torch.ones_like(metal)], dim=1).clamp(0, 1)
