"""Arithmetic between the matrix products of the released flows: rows of 1,536 channels, 12 heads of 128.

PYTHONPATH=kernels python kernels/benchmarks/row_ops.py [--device cpu|cuda]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from benchmarks.workload import Case, benchmark
from trellis_kernels.choice import REFERENCE
from trellis_kernels.row_ops import op

WIDTH, HEADS, HIDDEN = 1536, 12, 8192
EPS = 1e-6


def cases(device: torch.device, _rows: int) -> Iterator[Case]:
    """bfloat16 rows of the largest flow on a GPU, a few float32 ones on a CPU."""
    count, dtype = (21_000, torch.bfloat16) if device.type == "cuda" else (1_000, torch.float32)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, dtype=dtype)

    x, update, qkv = draw(count, WIDTH), draw(count, WIDTH), draw(count, 3, HEADS, WIDTH // HEADS)
    gate, scale, shift = draw(1, 3, WIDTH).unbind(1)
    gamma = torch.ones(2, HEADS, WIDTH // HEADS, device=device)
    angles = torch.rand(count, WIDTH // HEADS // 2, device=device)
    phases = torch.stack([angles.cos(), angles.sin()], dim=2)
    calls: tuple[tuple[Callable[..., object], tuple[object, ...]], ...] = (
        (op.modulated_norm, (x, scale, shift, EPS)),
        (op.gated_sum, (x, gate, update)),
        (op.gated_sum_norm, (x, gate, update, scale[0].float(), shift[0].float(), EPS)),
        (op.gated_sum_modulated_norm, (x, gate, update, (scale, shift), EPS)),
        (op.sum_modulated_norm, (x, update, scale, shift, EPS)),
        (op.norm_heads, (qkv[:, 0], gamma[0])),
        (op.norm_rotate, (qkv[:, :2], gamma, phases)),
    )
    for call, inputs in calls:
        run = partial(call, *inputs)
        yield Case(f"{call.__name__}, {count:,} rows", run, partial(run, implementation=REFERENCE), 2e-2)
    wide = draw(count, HIDDEN)
    yield Case(f"quantise_gelu, {count:,} rows of {HIDDEN:,}", partial(op.quantise_gelu, wide))


if __name__ == "__main__":
    sys.exit(benchmark("row_ops", cases))
