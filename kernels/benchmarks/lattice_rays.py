"""Rays from both sides of a ball's surface through the lattice that it crosses.

PYTHONPATH=kernels python kernels/benchmarks/lattice_rays.py [--device cpu|cuda] [--rows N]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator

import torch
from benchmarks.workload import Case, benchmark
from trellis_kernels.choice import REFERENCE
from trellis_kernels.lattice_rays.op import Walls, ray_reach

GRAIN, POINTS, SETS, DIRECTIONS, LIMIT = 8, 20000, 5, 12, 400


def ball(crossings: int, device: torch.device) -> tuple[Walls, torch.Tensor]:
    """(the lattice of a ball crossed by about so many edges, flat indices of the points on both sides of some)."""
    radius = math.sqrt(crossings / (6 * math.pi))
    side = 2 * math.ceil(radius) + 8
    line = torch.arange(side, device=device, dtype=torch.float64) - (side - 1) / 2
    reach = radius**2 - line[:, None] ** 2 - line**2
    b, c = torch.nonzero(reach > 0, as_tuple=True)
    half = reach[b, c].sqrt()
    low = ((side - 1) / 2 + torch.stack([-half, half], dim=1)).floor().long().reshape(-1)
    key = ((b * side + c) * side).repeat_interleave(2) + low
    edges = torch.cat([key + axis * side**3 for axis in range(3)])
    cells = torch.zeros([-(-side // GRAIN)] * 3, dtype=torch.bool, device=device)
    cells[0] = cells[-1] = True
    points = key[:: max(1, len(key) // POINTS)]  # along axis 0 its line and position are y, z and x
    place = points % side * side**2 + points // side
    return Walls(edges, cells, GRAIN, (side, side, side)), torch.cat([place, place + side**2])


def cases(device: torch.device, rows: int) -> Iterator[Case]:
    """Rays in directions spread at random, many and few."""
    walls, points = ball(3 * rows, device)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(SETS, DIRECTIONS, 3, generator=generator)
    steps = ((1 << 14) / direction).round().long().clamp(-(1 << 24), 1 << 24)
    steps = torch.where(steps == 0, 1, steps).to(device)

    for chosen in (points, points[::8]):
        yield one_case(chosen, steps, walls)


def one_case(points: torch.Tensor, steps: torch.Tensor, walls: Walls) -> Case:
    """Rays from these points."""

    def walk(name: str = "auto") -> torch.Tensor:
        return ray_reach(points, steps, walls, limit=LIMIT, implementation=name)

    return Case(
        f"{len(points) * steps.shape[1]:,} rays among {len(walls.edges):,} edges", walk, lambda: walk(REFERENCE)
    )


if __name__ == "__main__":
    sys.exit(benchmark("lattice_rays", cases))
