"""Sampling a shell of voxels at the texels of an atlas.

PYTHONPATH=kernels python kernels/benchmarks/grid_sample.py [--device cpu|cuda] [--rows N]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from benchmarks.peers import flex_gemm_sample
from benchmarks.workload import Case, benchmark, voxel_shell
from trellis_kernels.choice import REFERENCE
from trellis_kernels.grid_sample.op import grid_sample_3d


def cases(device: torch.device, rows: int) -> Iterator[Case]:
    """A million points near the surface, some without any voxel around them."""
    coords = voxel_shell(rows, device)
    feats = torch.rand(len(coords), 6, device=device)
    side = int(coords.max()) + 1
    points = torch.arange(1 << 20, device=device) * len(coords) >> 20
    query = coords[points, 1:] + torch.rand(len(points), 3, device=device) * 4 - 1.5
    for fallback in (False, True):

        def run(name: str = "auto", nearest: bool = fallback) -> torch.Tensor:
            shape = (side,) * 3
            return grid_sample_3d(feats, coords, shape, query, fallback_to_nearest=nearest, implementation=name)

        size = f"{len(points):,} points in {len(coords):,} voxels"
        if fallback:
            yield Case(f"nearest where none is near, {size}", run)
        else:
            peer = flex_gemm_sample(feats, coords, side, query)
            yield Case(f"trilinear, {size}", run, lambda call=run: call(REFERENCE), 1e-5, peer)


if __name__ == "__main__":
    sys.exit(benchmark("grid_sample", cases))
