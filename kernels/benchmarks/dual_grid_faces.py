"""Triangles of a dual grid with half of its edges crossed.

PYTHONPATH=kernels python kernels/benchmarks/dual_grid_faces.py [--device cpu|cuda] [--rows N]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from benchmarks.workload import Case, benchmark, voxel_shell
from trellis_kernels.choice import REFERENCE
from trellis_kernels.dual_grid_faces.op import DIAGONALS, dual_grid_faces


def cases(device: torch.device, rows: int) -> Iterator[Case]:
    """The three ways to cut a quad."""
    coords = voxel_shell(rows, device)[:, 1:].contiguous()
    crossed = torch.rand(coords.shape, device=device) < 0.5
    positions, split = coords + torch.rand(coords.shape, device=device), torch.rand(len(coords), 1, device=device)
    for diagonal in DIAGONALS:

        def run(name: str = "auto", rule: str = diagonal) -> torch.Tensor:
            return dual_grid_faces(coords, crossed, positions, split=split, diagonal=rule, implementation=name)

        yield Case(f"{diagonal}, {len(coords):,} voxels", run, lambda call=run: call(REFERENCE))


if __name__ == "__main__":
    sys.exit(benchmark("dual_grid_faces", cases))
