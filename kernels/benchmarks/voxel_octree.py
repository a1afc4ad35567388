"""Octree bytes and filters of the voxels of a sphere's shell.

PYTHONPATH=kernels python kernels/benchmarks/voxel_octree.py [--rows N]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from benchmarks.workload import benchmark, milliseconds, voxel_shell
from trellis_kernels.voxel_octree import op

DEPTH = 10


def cases(device: torch.device, rows: int) -> Iterator[dict[str, object]]:
    """There and back."""
    codes = np.sort(op.morton(voxel_shell(rows, torch.device("cpu"))[:, 1:].numpy()))
    coords, attributes = op.unmorton(codes), np.random.default_rng(0).integers(0, 256, (len(codes), 6)).astype(np.uint8)
    masks = op.encode_octree(codes, DEPTH)
    parent, near = op.apply_parent_filter(codes, DEPTH, attributes), op.apply_neighbor_filter(codes, coords, attributes)
    steps: dict[str, Callable[[], object]] = {
        "encode": lambda: op.encode_octree(codes, DEPTH),
        "decode": lambda: op.decode_octree(masks, DEPTH),
        "parent": lambda: op.apply_parent_filter(codes, DEPTH, attributes),
        "undo parent": lambda: op.undo_parent_filter(codes, DEPTH, parent),
        "neighbor": lambda: op.apply_neighbor_filter(codes, coords, attributes),
        "undo neighbor": lambda: op.undo_neighbor_filter(codes, coords, near),
    }
    for name, run in steps.items():
        yield {"step": name, "voxels": len(codes), "ms": milliseconds(run, device, repeats=3)}


if __name__ == "__main__":
    sys.exit(benchmark("voxel_octree", cases))
