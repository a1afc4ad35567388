"""Attention of the released flows: 12 heads of 128, latent voxels to each other and to the picture's tokens.

The kernels that come with torch, beside flash-attn 3 where it is installed: what the package buys.

PYTHONPATH=kernels python kernels/benchmarks/attention.py [--device cpu|cuda]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial

import torch
from benchmarks.peers import flash_attention
from benchmarks.workload import Case, benchmark
from trellis_kernels.attention.op import CUDNN, CUDNN_FIRST, attend
from trellis_kernels.choice import REFERENCE, TORCH

from trellis_app.sparse.packing import Packing

HEADS, WIDTH = 12, 128
ITSELF = 0
SIZES = (
    ((2264,), ITSELF), ((4096,), ITSELF), ((9176,), ITSELF), ((21000,), ITSELF), ((2264,), 1029), ((21000,), 4101),
    ((2264,) * 4, ITSELF), ((2100, 2264, 1900, 2400), ITSELF), ((9000, 9176, 8500, 9300), ITSELF),
)  # fmt: skip
MOST_WRITTEN_OUT = 5000  # rows up to which the reference's scores fit everywhere


def cases(device: torch.device, _rows: int) -> Iterator[Case]:
    """Queries, keys and values as the flows lay them out: bfloat16 on a GPU, a small float32 case on a CPU."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    for lengths, picture in SIZES if device.type == "cuda" else (((512,), ITSELF),):
        queries = Packing(lengths, device)
        keys = Packing((picture,) * len(lengths), device) if picture else queries
        qkv = torch.randn(queries.total, 3, HEADS, WIDTH, device=device, dtype=dtype)
        pair = torch.randn(keys.total, 2, HEADS, WIDTH, device=device, dtype=dtype)
        inputs = (qkv[:, 0], *pair.unbind(1), queries, keys)
        ours = inference(partial(attend, *inputs, implementation=of_torch(device)))
        written_out = partial(attend, *inputs, implementation=REFERENCE)
        size = " + ".join(f"{n:,}" for n in lengths) + (f" to {picture:,}" if picture else " tokens")
        yield Case(
            size, ours, written_out if queries.total <= MOST_WRITTEN_OUT else None, 1e-2,
            flash_attention(*inputs[:3], queries, keys),
            4e-9 * HEADS * WIDTH * sum(n * m for n, m in zip(queries.lengths, keys.lengths, strict=True)),
        )  # fmt: skip


def of_torch(device: torch.device) -> str:
    """What the op chooses where no package is installed."""
    preferred = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] in CUDNN_FIRST
    return CUDNN if preferred else TORCH


def inference(run: partial[torch.Tensor]) -> partial[torch.Tensor]:
    """The call without gradients, which the fastest implementations need."""
    return partial(torch.inference_mode()(run.func), *run.args, **run.keywords)


if __name__ == "__main__":
    sys.exit(benchmark("attention", cases))
