"""Triangles of a dual grid with half of its edges crossed.

PYTHONPATH=kernels python kernels/benchmarks/dual_grid_faces.py [--device cpu|cuda] [--rows N]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from benchmarks.workload import benchmark, milliseconds, voxel_shell
from trellis_kernels.dual_grid_faces.op import DIAGONALS, dual_grid_faces


def cases(device: torch.device, rows: int) -> Iterator[dict[str, object]]:
    """The three ways to cut a quad."""
    coords = voxel_shell(rows, device)[:, 1:].contiguous()
    crossed = torch.rand(coords.shape, device=device) < 0.5
    positions, split = coords + torch.rand(coords.shape, device=device), torch.rand(len(coords), 1, device=device)
    for diagonal in DIAGONALS:
        ms = milliseconds(
            lambda d=diagonal: dual_grid_faces(coords, crossed, positions, split=split, diagonal=d), device
        )
        yield {"case": diagonal, "rows": len(coords), "ms": ms}


if __name__ == "__main__":
    sys.exit(benchmark("dual_grid_faces", cases))
