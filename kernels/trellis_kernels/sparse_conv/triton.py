"""Sparse convolution on the GPU: masked implicit GEMM, and its weight gradient over the pairs that exist.

Rows are taken in an order that puts like neighbourhoods together; a block of rows visits only the kernel offsets that
any of its rows has. Sums are fp32; fp32 inputs are multiplied as three TF32 products (about fp32's accuracy).
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from trellis_kernels.choice import on_device
from trellis_kernels.sparse_conv.plan import ConvPlan

PROGRAMS = 1056  # of the weight gradient, eight for each multiprocessor of a large GPU


@dataclass(frozen=True)
class Tile:
    """Size of a program's tile: rows, output columns, inner step, and how it is run."""

    rows: int
    columns: int
    inner: int
    warps: int
    stages: int


@triton.jit(do_not_specialize=["count"])
def forward_kernel(
    feats, weights, bias, out, order, column, slot, table, offsets, starts, count, stride,
    CI: tl.constexpr, CO: tl.constexpr, VOLUME: tl.constexpr, BIASED: tl.constexpr, CHILDREN: tl.constexpr,
    STORED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """feats [N, CI] -> out [M, CO]; one program takes BM rows of `order` and BN columns.

    Row m of the order reads column m of the table (column[m] with CHILDREN) and writes row order[m] of out; m >= count
    and rows below 0 write nothing. With CHILDREN all rows of a block are children of number slot[block], and the
    weights have 8 CO outputs, of which these rows take CO from slot * CO on.
    weights: [V, CI, outputs], or with STORED [outputs, V, CI] as checkpoints have them.
    """
    TILES: tl.constexpr = (CO + BN - 1) // BN
    STEPS: tl.constexpr = (CI + BK - 1) // BK
    OUTPUTS: tl.constexpr = 8 * CO if CHILDREN else CO
    block = tl.program_id(0) // TILES
    m = block * BM + tl.arange(0, BM)
    n = (tl.program_id(0) % TILES) * BN + tl.arange(0, BN)
    target = tl.load(order + m, mask=m < count, other=-1)
    place = m
    first = 0
    if CHILDREN:
        place = tl.load(column + m, mask=m < count, other=0)
        first = tl.load(slot + block) * CO
    total = tl.zeros((BM, BN), tl.float32)
    for t in range(tl.load(starts + block) * STEPS, tl.load(starts + block + 1) * STEPS):
        v = tl.load(offsets + t // STEPS).to(tl.int64)
        k = (t % STEPS) * BK + tl.arange(0, BK)
        source = tl.load(table + v * stride + place)
        picked = source[:, None].to(tl.int64) * CI + k[None, :]
        a = tl.load(feats + picked, mask=(source >= 0)[:, None] & (k < CI)[None, :], other=0.0)
        if STORED:
            w = weights + ((first + n)[None, :].to(tl.int64) * VOLUME + v) * CI + k[:, None]
        else:
            w = weights + (v * CI + k[:, None]) * OUTPUTS + (first + n)[None, :]
        b = tl.load(w, mask=(k < CI)[:, None] & (n < CO)[None, :], other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    if BIASED:
        total += tl.load(bias + first + n, mask=n < CO, other=0.0).to(tl.float32)[None, :]
    at = out + target[:, None].to(tl.int64) * CO + n[None, :]
    tl.store(at, total.to(out.dtype.element_ty), mask=(target >= 0)[:, None] & (n < CO)[None, :])


@triton.jit
def weight_kernel(
    feats, grad, partial, sources, targets, starts, volume,
    CI: tl.constexpr, CO: tl.constexpr, SPLITS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """partial fp32 [SPLITS, V, CI, CO]: sums of feats[source]^T grad[target] over a share of an offset's pairs."""
    TILES: tl.constexpr = (CO + BN - 1) // BN
    split = tl.program_id(0) % SPLITS
    tile = tl.program_id(0) // SPLITS
    v = tl.program_id(1)
    m = (tile // TILES) * BM + tl.arange(0, BM)
    n = (tile % TILES) * BN + tl.arange(0, BN)
    first, last = tl.load(starts + v), tl.load(starts + v + 1)
    share = tl.cdiv(tl.cdiv(last - first, SPLITS), BP) * BP
    begin = first + split * share
    end = tl.minimum(begin + share, last)
    total = tl.zeros((BM, BN), tl.float32)
    for p in range(begin, end, BP):
        pair = p + tl.arange(0, BP)
        i = tl.load(sources + pair, mask=pair < end, other=0).to(tl.int64)
        j = tl.load(targets + pair, mask=pair < end, other=0).to(tl.int64)
        a = tl.load(feats + i[:, None] * CI + m[None, :], mask=(pair < end)[:, None] & (m < CI)[None, :], other=0.0)
        b = tl.load(grad + j[:, None] * CO + n[None, :], mask=(pair < end)[:, None] & (n < CO)[None, :], other=0.0)
        total = tl.dot(tl.trans(a), b, total, input_precision=PRECISION)
    place = partial + ((split * volume + v).to(tl.int64) * CI + m[:, None]) * CO + n[None, :]
    tl.store(place, total, mask=(m < CI)[:, None] & (n < CO)[None, :])


def fit(channels: int, most: int) -> int:
    """The power of two from 16 to `most` that holds `channels`."""
    return min(most, max(16, triton.next_power_of_2(channels)))


def forward_tile(inputs: int, outputs: int, dtype: torch.dtype) -> Tile:
    """Tile of the forward kernel for Ci, Co and a dtype."""
    if dtype == torch.float32:
        return Tile(64, fit(outputs, 64), fit(inputs, 32), 4, 2)
    columns = fit(outputs, 128)  # the choices below: fastest of twelve tiles at the decoder's levels on an H200
    if columns < 128:
        return Tile(128, columns, fit(inputs, 64), 4, 4)
    return Tile(128, columns, fit(inputs, 64), 8 if inputs >= 1024 else 4, 3)


def children_tile(inputs: int, outputs: int, dtype: torch.dtype) -> Tile:
    """Like `forward_tile`, for outputs of one child."""
    tile = forward_tile(inputs, outputs, dtype)
    return Tile(64, 128, 64, 4, 4) if inputs >= 1024 and tile.columns == 128 and dtype != torch.float32 else tile


def weight_tile(inputs: int, outputs: int, dtype: torch.dtype) -> Tile:
    """Tile of the weight gradient: `rows` input channels, `columns` output channels, `inner` pairs a step."""
    if dtype == torch.float32:
        return Tile(fit(inputs, 64), fit(outputs, 64), 32, 4, 2)
    rows, columns = fit(inputs, 128), fit(outputs, 128)
    return Tile(rows, columns, 64, 8 if rows * columns > 64 * 64 else 4, 3)


def precision(dtype: torch.dtype) -> str:
    """How products of this dtype are formed."""
    return "tf32x3" if dtype == torch.float32 else "tf32"


def forward(
    feats: torch.Tensor,
    weights: torch.Tensor,
    bias: torch.Tensor | None,
    plan: ConvPlan,
    tile: Tile | None = None,
    *,
    stored: bool = False,
) -> torch.Tensor:
    """feats [N, Ci], weights [V, Ci, Co] (stored: [Co, V, Ci]), bias [Co] -> [rows of the plan, Co]."""
    count, inputs = plan.neighbours.shape[0], feats.shape[1]
    outputs = weights.shape[0 if stored else 2]
    out = feats.new_empty((count, outputs))
    if count == 0 or outputs == 0:
        return out
    tile = tile or forward_tile(inputs, outputs, feats.dtype)
    offsets, starts = plan.offsets(tile.rows)
    grid = (triton.cdiv(count, tile.rows) * triton.cdiv(outputs, tile.columns),)
    with on_device(feats.device):
        forward_kernel[grid](
            feats, weights, weights if bias is None else bias, out, plan.order, plan.order, plan.order, plan.table,
            offsets, starts, count, plan.table.shape[1], CI=inputs, CO=outputs, VOLUME=plan.neighbours.shape[1],
            BIASED=bias is not None, CHILDREN=False, STORED=stored,
            BM=tile.rows, BN=tile.columns, BK=tile.inner, PRECISION=precision(feats.dtype),
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return out


def children_forward(
    feats: torch.Tensor,
    weights: torch.Tensor,
    bias: torch.Tensor | None,
    plan: ConvPlan,
    slots: torch.Tensor,
    tile: Tile | None = None,
) -> torch.Tensor:
    """feats [P, Ci], weights as stored [8 c, V, Ci], bias [8 c], slots int64 [M] parent * 8 + child -> [M, c]."""
    inputs, outputs, count = feats.shape[1], weights.shape[0] // 8, slots.shape[0]
    out = feats.new_empty((count, outputs))
    if count == 0 or outputs == 0:
        return out
    tile = tile or children_tile(inputs, outputs, feats.dtype)
    rows = plan.children(slots, tile.rows)
    grid = (rows.slot.shape[0] * triton.cdiv(outputs, tile.columns),)
    with on_device(feats.device):
        forward_kernel[grid](
            feats, weights, weights if bias is None else bias, out, rows.target, rows.column, rows.slot, plan.table,
            rows.offsets, rows.starts, rows.target.shape[0], plan.table.shape[1], CI=inputs, CO=outputs,
            VOLUME=plan.neighbours.shape[1], BIASED=bias is not None, CHILDREN=True, STORED=True,
            BM=tile.rows, BN=tile.columns, BK=tile.inner, PRECISION=precision(feats.dtype),
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return out


def weight_gradient(feats: torch.Tensor, grad: torch.Tensor, plan: ConvPlan, tile: Tile | None = None) -> torch.Tensor:
    """feats [N, Ci], grad [N, Co] -> fp32 [V, Ci, Co]."""
    inputs, outputs, volume = feats.shape[1], grad.shape[1], plan.neighbours.shape[1]
    tile = tile or weight_tile(inputs, outputs, feats.dtype)
    tiles = triton.cdiv(inputs, tile.rows) * triton.cdiv(outputs, tile.columns)
    splits = max(1, min(PROGRAMS // (tiles * volume), feats.shape[0] // 1024))
    sources, targets, starts = plan.pairs
    partial = torch.empty((splits, volume, inputs, outputs), dtype=torch.float32, device=feats.device)
    with on_device(feats.device):
        weight_kernel[(tiles * splits, volume)](
            feats, grad, partial, sources, targets, starts, volume, CI=inputs, CO=outputs, SPLITS=splits,
            BM=tile.rows, BN=tile.columns, BP=tile.inner, PRECISION=precision(feats.dtype),
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return partial.sum(dim=0)
