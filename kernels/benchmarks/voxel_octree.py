"""Octree bytes and filters of the voxels of a sphere's shell, on the CPU.

PYTHONPATH=kernels python kernels/benchmarks/voxel_octree.py [--rows N]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from benchmarks.workload import Case, benchmark, voxel_shell
from trellis_kernels.voxel_octree import op

DEPTH = 10


def cases(device: torch.device, rows: int) -> Iterator[Case]:
    """There and back."""
    codes = np.sort(op.morton(voxel_shell(rows, torch.device("cpu"))[:, 1:].numpy()))
    coords, attributes = op.unmorton(codes), np.random.default_rng(0).integers(0, 256, (len(codes), 6)).astype(np.uint8)
    masks = op.encode_octree(codes, DEPTH)
    parent, near = op.apply_parent_filter(codes, DEPTH, attributes), op.apply_neighbor_filter(codes, coords, attributes)
    steps: dict[str, Callable[[str], np.ndarray]] = {
        "encode": lambda name: op.encode_octree(codes, DEPTH, implementation=name),
        "decode": lambda name: op.decode_octree(masks, DEPTH, implementation=name),
        "parent filter": lambda name: op.apply_parent_filter(codes, DEPTH, attributes, implementation=name),
        "undo the parent filter": lambda name: op.undo_parent_filter(codes, DEPTH, parent, implementation=name),
        "undo the neighbor filter": lambda name: op.undo_neighbor_filter(codes, coords, near, implementation=name),
    }
    wanted = {"encode": masks, "decode": codes, "parent filter": parent}
    for name, run in steps.items():
        yield Case(
            f"{name}, {len(codes):,} voxels", lambda call=run: call("auto"), lambda n=name: wanted.get(n, attributes)
        )
    yield Case(f"neighbor filter, {len(codes):,} voxels", lambda: op.apply_neighbor_filter(codes, coords, attributes))


if __name__ == "__main__":
    sys.exit(benchmark("voxel_octree", cases))
