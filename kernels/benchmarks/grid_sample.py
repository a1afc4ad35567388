"""Sampling a shell of voxels at the texels of an atlas.

PYTHONPATH=kernels python kernels/benchmarks/grid_sample.py [--device cpu|cuda] [--rows N]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from benchmarks.workload import benchmark, milliseconds, voxel_shell
from trellis_kernels.grid_sample.op import grid_sample_3d


def cases(device: torch.device, rows: int) -> Iterator[dict[str, object]]:
    """A million points near the surface, some without any voxel around them."""
    coords = voxel_shell(rows, device)
    feats = torch.rand(len(coords), 6, device=device)
    side = int(coords.max()) + 1
    points = torch.arange(1 << 20, device=device) * len(coords) >> 20
    query = coords[points, 1:] + torch.rand(len(points), 3, device=device) * 4 - 1.5
    for fallback in (False, True):
        ms = milliseconds(
            lambda f=fallback: grid_sample_3d(feats, coords, (side,) * 3, query, fallback_to_nearest=f), device
        )
        yield {"case": "fallback" if fallback else "trilinear", "rows": len(coords), "points": len(points), "ms": ms}


if __name__ == "__main__":
    sys.exit(benchmark("grid_sample", cases))
