"""Arithmetic on the rows of a flow's tokens (1,536 channels) and of a decoder's finest voxels (64 channels).

PYTHONPATH=kernels python kernels/benchmarks/row_ops.py [--device cpu|cuda] [--rows N]
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator

import torch
from benchmarks.workload import Case, benchmark
from trellis_kernels.choice import REFERENCE
from trellis_kernels.row_ops import op

WIDTH, HEADS, FINEST = 1536, 12, 64
VOXELS_PER_TOKEN = 256  # of a surface: four levels, each with four times the voxels of the one before
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1.6e-2, torch.float16: 4e-3}  # two roundings apart at most


def cases(device: torch.device, rows: int) -> Iterator[Case]:
    """bfloat16 tokens and float16 voxels on a GPU, float32 on a CPU; without gradients, as the models run them."""
    generator = torch.Generator(device).manual_seed(0)
    on_gpu = device.type == "cuda"

    def draw(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(shape, device=device, generator=generator).to(dtype)

    tokens, dtype = max(1, rows // VOXELS_PER_TOKEN), torch.bfloat16 if on_gpu else torch.float32
    x, update = draw(tokens, WIDTH, dtype=dtype), draw(tokens, WIDTH, dtype=dtype)
    scale, shift, gate = (draw(1, WIDTH, dtype=dtype) for _ in range(3))
    weight, bias = draw(WIDTH), draw(WIDTH)
    turned, gamma = draw(tokens, 2, HEADS, WIDTH // HEADS, dtype=dtype), draw(2, HEADS, WIDTH // HEADS)
    angle = draw(tokens, WIDTH // HEADS // 2)
    phases = torch.stack([angle.cos(), angle.sin()], dim=-1)
    wide, wide_bias = draw(4 * WIDTH, WIDTH, dtype=dtype) / WIDTH**0.5, draw(4 * WIDTH, dtype=dtype)
    calls: dict[str, Callable[..., object]] = {
        "modulated_norm": functools.partial(op.modulated_norm, x, scale, shift, 1e-6),
        "gated_sum_norm": functools.partial(op.gated_sum_norm, x, gate, update, weight, bias, 1e-6),
        "norm_rotate": functools.partial(op.norm_rotate, turned, gamma, phases),
        "linear_gelu": functools.partial(op.linear_gelu, x, wide, wide_bias),
    }
    for name, call in calls.items():
        yield row_case(f"{name}, {tokens:,} tokens", call, TOLERANCE[dtype])
    dtype = torch.float16 if on_gpu else torch.float32
    fine, slots = draw(rows, FINEST, dtype=dtype), torch.arange(rows, device=device) * 2
    parents = draw(rows // 4 + 1, 2 * FINEST, dtype=dtype)
    norm = functools.partial(op.norm_silu, fine, draw(FINEST), draw(FINEST), 1e-6)
    yield row_case(f"norm_silu, {rows:,} voxels", norm, TOLERANCE[dtype])
    add = functools.partial(op.add_parents, fine, parents, slots)
    yield row_case(f"add_parents, {rows:,} voxels", add, TOLERANCE[dtype])


def row_case(name: str, call: Callable[..., object], tolerance: float) -> Case:
    """The call beside its reference."""
    return Case(name, call, functools.partial(call, implementation=REFERENCE), tolerance)


if __name__ == "__main__":
    sys.exit(benchmark("row_ops", cases))
