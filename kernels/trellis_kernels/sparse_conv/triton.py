"""Sparse convolution on the GPU: masked implicit GEMM, and its weight gradient over the blocks that have an offset.

Rows are taken in an order that puts like neighbourhoods together; a block of rows visits only the kernel offsets that
any of its rows has. Sums are fp32; fp32 inputs are multiplied as three TF32 products (about fp32's accuracy).

Both kernels find the rows of the next step while they work on this one: addresses that depend on a load of the same
step would keep Triton from loading several steps ahead.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from trellis_kernels.choice import on_device
from trellis_kernels.sparse_conv.plan import VISIT_ROWS, ConvPlan

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
    feats, weights, bias, out, order, column, slot, table, offsets, counts, sequence, count, stride,
    CI: tl.constexpr, CO: tl.constexpr, VOLUME: tl.constexpr, BIASED: tl.constexpr, CHILDREN: tl.constexpr,
    MIRRORED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """feats [N, CI] -> out [M, CO]; one program takes a block of BM rows of `order` and BN columns.

    Row m of the order reads column m of the table (column[m] with CHILDREN) and writes row order[m] of out; m >= count
    and rows below 0 write nothing. With CHILDREN all rows of a block are children of number slot[block], and the
    weights have 8 CO outputs, of which these rows take CO from slot * CO on.
    weights: [outputs, V, CI] as checkpoints have them, or with MIRRORED [CI, V, CO] read at offset V - 1 - v: the
    gradient to the feats of a convolution from CO to CI channels.
    """
    TILES: tl.constexpr = (CO + BN - 1) // BN
    STEPS: tl.constexpr = (CI + BK - 1) // BK
    block = tl.load(sequence + tl.program_id(0) // TILES)
    m = block * BM + tl.arange(0, BM)
    n = (tl.program_id(0) % TILES) * BN + tl.arange(0, BN)
    inside = n < CO
    target = tl.load(order + m, mask=m < count, other=-1)
    place = m
    first = 0
    if CHILDREN:
        place = tl.load(column + m, mask=m < count, other=0)
        first = tl.load(slot + block) * CO
    entries = offsets + block.to(tl.int64) * 32
    entry = tl.load(entries).to(tl.int64)  # an offset's number, and the next one's times 256
    source = tl.load(table + (entry & 255) * stride + place)
    total = tl.zeros((BM, BN), tl.float32)
    for t in range(tl.load(counts + block) * STEPS):
        v = entry & 255
        k = (t % STEPS) * BK + tl.arange(0, BK)
        exists = (source >= 0)[:, None]
        picked = feats + source[:, None].to(tl.int64) * CI + k[None, :]
        if MIRRORED:
            w = weights + (k[:, None].to(tl.int64) * VOLUME + (VOLUME - 1 - v)) * CO + n[None, :]
        else:
            w = weights + ((first + n)[None, :].to(tl.int64) * VOLUME + v) * CI + k[:, None]
        if CI % BK == 0:
            a = tl.load(picked, mask=exists, other=0.0)
            b = tl.load(w, mask=inside[None, :], other=0.0)
        else:
            a = tl.load(picked, mask=exists & (k < CI)[None, :], other=0.0)
            b = tl.load(w, mask=(k < CI)[:, None] & inside[None, :], other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
        if STEPS == 1:
            source = tl.load(table + (entry >> 8) * stride + place)
            entry = tl.load(entries + t + 1).to(tl.int64)
        else:
            entry = tl.load(entries + (t + 1) // STEPS).to(tl.int64)
            source = tl.load(table + (entry & 255) * stride + place)
    if BIASED:
        total += tl.load(bias + first + n, mask=inside, other=0.0).to(tl.float32)[None, :]
    at = out + target[:, None].to(tl.int64) * CO + n[None, :]
    tl.store(at, total.to(out.dtype.element_ty), mask=(target >= 0)[:, None] & inside[None, :])


@triton.jit
def weight_kernel(
    feats, grad, partial, table, order, visits, counts, count, stride, blocks, volume,
    CI: tl.constexpr, CO: tl.constexpr, SPLITS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """partial [SPLITS, CO, V, CI]: sums of grad[target]^T feats[source] over a share of an offset's blocks of rows."""
    TILES: tl.constexpr = (CI + BN - 1) // BN
    split = tl.program_id(0) % SPLITS
    tile = tl.program_id(0) // SPLITS
    v = tl.program_id(1)
    m = (tile // TILES) * BM + tl.arange(0, BM)
    n = (tile % TILES) * BN + tl.arange(0, BN)
    p = tl.arange(0, BP)
    column = table + v.to(tl.int64) * stride
    used = tl.load(counts + v)
    begin, end = used * split // SPLITS, used * (split + 1) // SPLITS
    entries = visits + v.to(tl.int64) * blocks
    row = tl.load(entries + tl.minimum(begin, blocks - 1)) * BP + p
    source = tl.load(column + row)
    target = tl.load(order + row, mask=row < count, other=0)
    ahead = tl.load(entries + tl.minimum(begin + 1, blocks - 1))
    total = tl.zeros((BM, BN), tl.float32)
    for t in range(begin, end):
        exists = (source >= 0)[:, None]
        a = tl.load(grad + target[:, None].to(tl.int64) * CO + m[None, :], mask=exists & (m < CO)[None, :], other=0.0)
        b = tl.load(feats + source[:, None].to(tl.int64) * CI + n[None, :], mask=exists & (n < CI)[None, :], other=0.0)
        total = tl.dot(tl.trans(a), b, total, input_precision=PRECISION)
        row = ahead * BP + p
        source = tl.load(column + row)
        target = tl.load(order + row, mask=row < count, other=0)
        ahead = tl.load(entries + tl.minimum(t + 2, blocks - 1))
    place = ((split * CO + m[:, None]).to(tl.int64) * volume + v) * CI + n[None, :]
    tl.store(partial + place, total.to(partial.dtype.element_ty), mask=(m < CO)[:, None] & (n < CI)[None, :])


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
    """Tile of the weight gradient: `rows` output channels, `columns` input channels, `inner` rows of voxels a step."""
    if dtype == torch.float32:
        return Tile(fit(outputs, 64), fit(inputs, 64), VISIT_ROWS, 4, 2)
    rows, columns = fit(outputs, 128), fit(inputs, 128)
    return Tile(rows, columns, VISIT_ROWS, 8 if rows * columns > 64 * 64 else 4, 3)


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
    mirrored: bool = False,
) -> torch.Tensor:
    """feats [N, Ci], weights as stored [Co, V, Ci], bias [Co] -> [rows of the plan, Co].

    With `mirrored` the gradient of that: feats [N, Co], weights the same, no bias -> [N, Ci].
    """
    count, inputs = plan.neighbours.shape[0], feats.shape[1]
    outputs = weights.shape[2 if mirrored else 0]
    out = feats.new_empty((count, outputs))
    if count == 0 or outputs == 0:
        return out
    tile = tile or forward_tile(inputs, outputs, feats.dtype)
    blocks = plan.blocks(tile.rows)
    grid = (triton.cdiv(count, tile.rows) * triton.cdiv(outputs, tile.columns),)
    with on_device(feats.device):
        forward_kernel[grid](
            feats, weights, weights if bias is None else bias, out, plan.order, plan.order, plan.order, plan.table,
            blocks.offsets, blocks.counts, blocks.sequence, count, plan.table.shape[1], CI=inputs, CO=outputs,
            VOLUME=weights.shape[1], BIASED=bias is not None, CHILDREN=False, MIRRORED=mirrored,
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
            rows.blocks.offsets, rows.blocks.counts, rows.blocks.sequence, rows.target.shape[0], plan.table.shape[1],
            CI=inputs, CO=outputs, VOLUME=weights.shape[1], BIASED=bias is not None, CHILDREN=True, MIRRORED=False,
            BM=tile.rows, BN=tile.columns, BK=tile.inner, PRECISION=precision(feats.dtype),
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return out


def weight_gradient(feats: torch.Tensor, grad: torch.Tensor, plan: ConvPlan, tile: Tile | None = None) -> torch.Tensor:
    """feats [N, Ci], grad [N, Co] -> [Co, V, Ci] as weights are stored, in the dtype of feats."""
    (count, inputs), outputs, volume = feats.shape, grad.shape[1], plan.neighbours.shape[1]
    if count == 0:
        return feats.new_zeros((outputs, volume, inputs))
    tile = tile or weight_tile(inputs, outputs, feats.dtype)
    tiles = triton.cdiv(outputs, tile.rows) * triton.cdiv(inputs, tile.columns)
    splits = max(1, min(PROGRAMS // (tiles * volume), count // 1024))
    visits, counts = plan.visits
    exact = torch.float32 if splits > 1 else feats.dtype
    partial = torch.empty((splits, outputs, volume, inputs), dtype=exact, device=feats.device)
    with on_device(feats.device):
        weight_kernel[(tiles * splits, volume)](
            feats, grad, partial, plan.table, plan.order, visits, counts, count, plan.table.shape[1], visits.shape[1],
            volume, CI=inputs, CO=outputs, SPLITS=splits, BM=tile.rows, BN=tile.columns, BP=VISIT_ROWS,
            PRECISION=precision(feats.dtype), num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return partial[0] if splits == 1 else partial.sum(dim=0).to(feats.dtype)
