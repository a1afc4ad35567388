"""Building the voxel index and looking up neighbours in it.

PYTHONPATH=kernels python kernels/benchmarks/voxel_index.py [--device cpu|cuda] [--rows N]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from benchmarks.workload import Case, benchmark, voxel_shell
from trellis_kernels.choice import REFERENCE
from trellis_kernels.voxel_index.op import build_voxel_index


def cases(device: torch.device, rows: int) -> Iterator[Case]:
    """A shell, and as many look-ups of voxels one step away."""
    coords = voxel_shell(rows, device)
    index = build_voxel_index(coords)
    yield Case(f"build, {len(coords):,} voxels", lambda: build_voxel_index(coords))
    wanted = build_voxel_index(coords, implementation=REFERENCE)
    yield Case(f"look-up, {len(coords):,} voxels", lambda: index.lookup(coords + 1), lambda: wanted.lookup(coords + 1))


if __name__ == "__main__":
    sys.exit(benchmark("voxel_index", cases))
