"""The 3^3 neighbour map of a shell, and of the children of one from their parents' map.

PYTHONPATH=kernels python kernels/benchmarks/neighbour_map.py [--device cpu|cuda] [--rows N]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from benchmarks.workload import Case, benchmark, voxel_shell
from trellis_kernels.choice import REFERENCE
from trellis_kernels.neighbour_map.op import child_coords, child_map, neighbour_map, order_rows
from trellis_kernels.voxel_index.op import build_voxel_index


def cases(device: torch.device, rows: int) -> Iterator[Case]:
    """Rows in lexicographic order, as the models keep them, and in random order; children in lexicographic order."""
    coords = voxel_shell(rows, device)
    shuffled = coords[torch.randperm(len(coords), generator=torch.Generator().manual_seed(0)).to(device)]
    for name, order in (("sorted", coords), ("shuffled", shuffled)):
        yield Case(
            f"{name}, {len(coords):,} voxels",
            lambda c=order: neighbour_map(c),
            lambda c=order: neighbour_map(c, implementation=REFERENCE),
        )
    halves = torch.cat([coords[:, :1], coords[:, 1:] >> 1], dim=1)
    parents = torch.unique(halves, dim=0)
    octant = ((coords[:, 1:] & 1) * torch.tensor([1, 2, 4], device=device)).sum(dim=1)
    slots = build_voxel_index(parents).lookup(halves) * 8 + octant
    parent_map = neighbour_map(parents)
    yield Case(
        f"places of children, {len(coords):,} voxels",
        lambda: child_coords(parents, slots),
        lambda: child_coords(parents, slots, implementation=REFERENCE),
    )
    yield Case(
        f"orders of rows, {len(parents):,} voxels",
        lambda: order_rows(parent_map, 1, 128),
        lambda: order_rows(parent_map, 1, 128, implementation=REFERENCE),
    )
    yield Case(f"children, {len(coords):,} voxels", lambda: child_map(parent_map, slots), lambda: neighbour_map(coords))


if __name__ == "__main__":
    sys.exit(benchmark("neighbour_map", cases))
