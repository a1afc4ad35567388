"""A sphere that nearly fills the box into dual grids of growing size.

PYTHONPATH=kernels python kernels/benchmarks/mesh_to_dual_grid.py [--rows FACES]
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Iterator

import torch
from benchmarks.workload import Case, benchmark
from trellis_kernels.mesh_to_dual_grid.op import GridBox, mesh_to_dual_grid


def sphere(faces: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A sphere of radius 0.49: vertices [V, 3], about `faces` faces [F, 3] and uv [V, 2]."""
    side = max(int(math.sqrt(faces / 4)), 2)
    u, v = torch.meshgrid(torch.linspace(0, 1, 2 * side + 1), torch.linspace(0, 1, side + 1), indexing="ij")
    turn, tilt = 2 * math.pi * u, math.pi * v
    vertices = 0.49 * torch.stack([tilt.sin() * turn.cos(), tilt.sin() * turn.sin(), tilt.cos()], -1).reshape(-1, 3)
    first = (torch.arange(2 * side)[:, None] * (side + 1) + torch.arange(side)).reshape(-1, 1)
    halves = [first + torch.tensor(corners) for corners in ([0, 1, side + 2], [0, side + 2, side + 1])]
    return vertices, torch.cat(halves).int(), torch.stack([u, v], -1).reshape(-1, 2)


def cases(device: torch.device, rows: int) -> Iterator[Case]:
    """One thread and all of them; the work is done on the CPU."""
    vertices, faces, _ = sphere(rows)
    for resolution in (256, 512, 1024):
        box = GridBox.cube(resolution)
        one = functools.partial(mesh_to_dual_grid, vertices, faces, box, workers=1)
        all_ = functools.partial(mesh_to_dual_grid, vertices, faces, box, workers=os.cpu_count() or 1)
        yield Case(f"{len(faces):,} faces, {resolution}³, 1 thread", one)
        yield Case(f"{len(faces):,} faces, {resolution}³, {os.cpu_count()} threads", all_, one)


if __name__ == "__main__":
    sys.exit(benchmark("mesh_to_dual_grid", cases))
