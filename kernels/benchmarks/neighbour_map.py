"""The 3^3 neighbour map of a shell.

PYTHONPATH=kernels python kernels/benchmarks/neighbour_map.py [--device cpu|cuda] [--rows N]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from benchmarks.workload import benchmark, milliseconds, voxel_shell
from trellis_kernels.neighbour_map.op import neighbour_map


def cases(device: torch.device, rows: int) -> Iterator[dict[str, object]]:
    """Rows in lexicographic order, as the models keep them, and in random order."""
    coords = voxel_shell(rows, device)
    shuffled = coords[torch.randperm(len(coords), generator=torch.Generator().manual_seed(0)).to(device)]
    for case, order in (("sorted", coords), ("shuffled", shuffled)):
        yield {"case": case, "rows": len(coords), "ms": milliseconds(lambda c=order: neighbour_map(c), device)}


if __name__ == "__main__":
    sys.exit(benchmark("neighbour_map", cases))
