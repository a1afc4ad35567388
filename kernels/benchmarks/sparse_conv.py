"""Submanifold convolutions of the sizes that the decoders have.

PYTHONPATH=kernels python kernels/benchmarks/sparse_conv.py [--device cpu|cuda] [--rows N]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from benchmarks.workload import benchmark, milliseconds, voxel_shell
from trellis_kernels.neighbour_map.op import neighbour_map
from trellis_kernels.sparse_conv.op import submanifold_conv3d
from trellis_kernels.sparse_conv.plan import plan_conv


def cases(device: torch.device, rows: int) -> Iterator[dict[str, object]]:
    """Forward passes; GFLOP/s count the existing neighbours only. fp32 on a CPU, fp16 on a GPU."""
    for share, inputs, outputs in ((1, 16, 16), (3, 32, 128), (3, 64, 64), (10, 128, 128), (30, 256, 256)):
        coords = voxel_shell(rows // share, device)
        plan = plan_conv(neighbour_map(coords))
        dtype = torch.float16 if device.type == "cuda" else torch.float32
        feats = torch.randn(len(coords), inputs, device=device, dtype=dtype)
        weight = torch.randn(outputs, 3, 3, 3, inputs, device=device, dtype=dtype)
        operations = 2 * inputs * outputs * int((plan.neighbours >= 0).sum())
        for name in ("auto", "torch"):
            with torch.no_grad():
                ms = milliseconds(lambda: submanifold_conv3d(feats, weight, None, plan, implementation=name), device)  # noqa: B023
            row = {"case": f"{inputs}->{outputs}", "implementation": name, "rows": len(coords)}
            yield row | {"ms": ms, "gflops": operations / ms / 1e6}


if __name__ == "__main__":
    sys.exit(benchmark("sparse_conv", cases))
