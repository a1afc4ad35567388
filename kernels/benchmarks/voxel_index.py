"""Building the voxel index and looking up neighbours in it.

PYTHONPATH=kernels python kernels/benchmarks/voxel_index.py [--device cpu|cuda] [--rows N]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from benchmarks.workload import benchmark, milliseconds, voxel_shell
from trellis_kernels.voxel_index.op import build_voxel_index


def cases(device: torch.device, rows: int) -> Iterator[dict[str, object]]:
    """A shell, and as many look-ups of voxels one step away."""
    coords = voxel_shell(rows, device)
    index = build_voxel_index(coords)
    yield {"case": "build", "rows": len(coords), "ms": milliseconds(lambda: build_voxel_index(coords), device)}
    yield {"case": "lookup", "rows": len(coords), "ms": milliseconds(lambda: index.lookup(coords + 1), device)}


if __name__ == "__main__":
    sys.exit(benchmark("voxel_index", cases))
