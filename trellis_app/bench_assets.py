"""Synthetic O-Voxel assets of any size, made on the device in seconds: what the benchmarks of finishing work on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch

from trellis_app.types import DualGrid, OVoxel

_RADIUS = 0.352  # gives about 4.9 R^2 faces: 1.3 M at 512^3, 5.1 M at 1024^3, 11.4 M at 1536^3
_WALL = 0.012  # half the thickness of a wall, object units
_CELL = 0.22  # side of the cube around each part
_OCTANT = 0.25  # where the middle of an octant is along each axis
_WAVES = 12
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
    return _walled(distance - radius - bumps - grooves, walls)


def parts_field(p: torch.Tensor, walls: int) -> torch.Tensor:
    """Signed value [...] of 64 separate balls, boxes, rings and rods of several sizes at points [..., 3]."""
    cell = (p / _CELL).floor().clamp(-2, 1)
    local = p - (cell + 0.5) * _CELL
    kind = (cell @ torch.tensor([1.0, 2.0, 3.0], device=p.device)).remainder(4)
    size = 0.034 + 0.012 * torch.sin(cell @ torch.tensor([3.0, 5.0, 7.0], device=p.device))
    x, y, z = local.unbind(-1)
    around, flat = (x * x + y * y).sqrt(), local.abs().amax(dim=-1)
    value = (around * around + z * z).sqrt() - 1.3 * size
    value = torch.where(kind == 1, flat - size, value)
    value = torch.where(kind == 2, ((around - 1.6 * size) ** 2 + z * z).sqrt() - 0.4 * size, value)
    value = torch.where(kind == 3, torch.maximum(around - 0.4 * size, z.abs() - 0.09), value)
    return _walled(value, walls)


def _walled(value: torch.Tensor, walls: int) -> torch.Tensor:
    return value if walls == 1 else value.add(_WALL).abs() - _WALL


def rough(p: torch.Tensor, resolution: int) -> torch.Tensor:
    """Bumps [...] at points [..., 3] as undertrained decoders make them: 0.35 voxels rms, 5 to 9 voxels wide."""
    random = np.random.default_rng(0)
    total = torch.zeros_like(p[..., 0])
    for _ in range(_WAVES):
        way = random.normal(size=3)
        way *= 2 * math.pi * resolution / random.uniform(5, 9) / np.linalg.norm(way)
        total += torch.sin(p @ torch.tensor(way, dtype=torch.float32, device=p.device) + random.uniform(0, 6))
    return total * (0.35 * math.sqrt(2 / _WAVES) / resolution)


def synthetic_asset(
    resolution: int,
    *,
    kind: str = "ball",
    walls: int = 1,
    radius: float = _RADIUS,
    device: torch.device | str = "cpu",
) -> OVoxel:
    """A level set as an O-Voxel asset with striped PBR attributes, float32 on `device`; deterministic on each device.

    kind: ball, `field`; balls, one in each octant; noisy, a ball and `rough`; parts, `parts_field` and `rough`. A ball
    has about 4.9 R^2 decoded faces with one wall, 9 R^2 with two, noisy or not; parts have 4.8 R^2 with one wall.
    """

    def level(p: torch.Tensor) -> torch.Tensor:
        place = p.abs() - _OCTANT if kind == "balls" else p
        value = parts_field(p, walls) if kind == "parts" else field(place, walls, radius)
        return value + rough(p, resolution) if kind in ("noisy", "parts") else value

    slab = max(1, _SLAB_CORNERS // (resolution + 1) ** 2)
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
