"""Sparse convolution on the GPU: masked implicit GEMM, and its weight gradient over the blocks that have an offset.

Rows are taken in an order that puts like neighbourhoods together; a block of rows visits only the kernel offsets that
any of its rows has. Sums are fp32; fp32 inputs are multiplied as three TF32 products (about fp32's accuracy).

Both kernels find the rows of the next step while they work on this one: addresses that depend on a load of the same
step would keep Triton from loading several steps ahead.
"""

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl

from trellis_kernels.choice import on_device
from trellis_kernels.launch import power_of_two, programs
from trellis_kernels.sparse_conv.plan import VISIT_ROWS, Blocks, ConvPlan, Parts
from trellis_kernels.sparse_conv.triton_children import group_children

PROGRAMS = 1056  # of the weight gradient, eight for each multiprocessor of a large GPU
SUM_BLOCK = 1024  # numbers of one program of the small kernels
FEW_ROWS = 4096  # up to which nine parts pay
MOST_PARTIAL = 512 << 20  # bytes of three parts' sums
ROOMY = (9, 10)  # major compute capabilities: Hopper and Blackwell for data centres


@dataclass(frozen=True)
class Tile:
    """Size of a program's tile: rows, output columns, inner step, and how it is run."""

    rows: int
    columns: int
    inner: int
    warps: int
    stages: int
    parts: int = 1  # of the kernel offsets, each with an order of the rows


@triton.jit(do_not_specialize=["count", "blocks", "length"])
def forward_kernel(
    feats, weights, bias, out, order, column, slot, table, offsets, counts, count, blocks, length, stride,
    CI: tl.constexpr, CO: tl.constexpr, VOLUME: tl.constexpr, PARTS: tl.constexpr, BIASED: tl.constexpr,
    CHILDREN: tl.constexpr, MIRRORED: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """feats [N, CI] -> out [count, CO], or fp32 [PARTS, count, CO] sums over one part of the kernel offsets each.

    A program takes a block of BM of the `length` rows of a part's order, and BN columns. Row m of the order reads
    column m of the table (column[m] with CHILDREN) and writes row order[m] of out; rows below 0 write nothing. With
    CHILDREN all rows of a block are children of number slot[block], and the weights have 8 CO outputs, of which these
    rows take CO from slot * CO on.
    weights: [outputs, V, CI] as checkpoints have them, or with MIRRORED [CI, V, CO] read at offset V - 1 - v: the
    gradient to the feats of a convolution from CO to CI channels.
    """
    TILES: tl.constexpr = (CO + BN - 1) // BN
    STEPS: tl.constexpr = (CI + BK - 1) // BK
    unit = tl.program_id(0) // TILES
    part = unit // blocks
    block = unit % blocks
    m = block * BM + tl.arange(0, BM)
    n = (tl.program_id(0) % TILES) * BN + tl.arange(0, BN)
    inside = n < CO
    target = tl.load(order + part * length + m, mask=m < length, other=-1)
    place = m
    first = 0
    if CHILDREN:
        place = tl.load(column + part * length + m, mask=m < length, other=0)
        first = tl.load(slot + block) * CO
    entries = offsets + unit.to(tl.int64) * 32
    v = tl.load(entries).to(tl.int64)
    source = tl.load(table + v * stride + place)
    total = tl.zeros((BM, BN), tl.float32)
    for t in range(tl.load(counts + unit) * STEPS):
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
        v = tl.load(entries + (t + 1) // STEPS).to(tl.int64)
        source = tl.load(table + v * stride + place)
    if BIASED and PARTS == 1:
        total += tl.load(bias + first + n, mask=inside, other=0.0).to(tl.float32)[None, :]
    row = part.to(tl.int64) * count + target
    at = out + row[:, None] * CO + n[None, :]
    tl.store(at, total.to(out.dtype.element_ty), mask=(target >= 0)[:, None] & inside[None, :])


@triton.jit(do_not_specialize=["count"])
def sum_kernel(
    partial, bias, slots, out, count,
    CO: tl.constexpr, PARTS: tl.constexpr, BIASED: tl.constexpr, CHILDREN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """partial fp32 [PARTS, count, CO] -> out [count, CO]: sums, plus the bias (of the row's child number)."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    size = count.to(tl.int64) * CO
    total = tl.load(partial + i, mask=i < size, other=0.0)
    for part in tl.static_range(1, PARTS):
        total += tl.load(partial + part * size + i, mask=i < size, other=0.0)
    if BIASED:
        n = i % CO
        if CHILDREN:
            n += (tl.load(slots + i // CO, mask=i < size, other=0) & 7) * CO
        total += tl.load(bias + n, mask=i < size, other=0.0).to(tl.float32)
    tl.store(out + i, total.to(out.dtype.element_ty), mask=i < size)


@triton.jit
def weight_kernel(
    feats, grad, partial, table, order, visits, counts, count, stride, blocks, volume,
    CI: tl.constexpr, CO: tl.constexpr, SPLITS: tl.constexpr, PARTS: tl.constexpr,
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
    own = order + (v * PARTS // volume) * count
    used = tl.load(counts + v)
    begin, end = used * split // SPLITS, used * (split + 1) // SPLITS
    entries = visits + v.to(tl.int64) * blocks
    row = tl.load(entries + tl.minimum(begin, blocks - 1)) * BP + p
    source = tl.load(column + row)
    target = tl.load(own + row, mask=row < count, other=0)
    entry = tl.load(entries + tl.minimum(begin + 1, blocks - 1))
    total = tl.zeros((BM, BN), tl.float32)
    for t in range(begin, end):
        exists = (source >= 0)[:, None]
        a = tl.load(grad + target[:, None].to(tl.int64) * CO + m[None, :], mask=exists & (m < CO)[None, :], other=0.0)
        b = tl.load(feats + source[:, None].to(tl.int64) * CI + n[None, :], mask=exists & (n < CI)[None, :], other=0.0)
        total = tl.dot(tl.trans(a), b, total, input_precision=PRECISION)
        row = entry * BP + p
        source = tl.load(column + row)
        target = tl.load(own + row, mask=row < count, other=0)
        entry = tl.load(entries + tl.minimum(t + 2, blocks - 1))
    place = ((split * CO + m[:, None]).to(tl.int64) * volume + v) * CI + n[None, :]
    tl.store(partial + place, total.to(partial.dtype.element_ty), mask=(m < CO)[:, None] & (n < CI)[None, :])


def fit(channels: int, most: int) -> int:
    """The power of two from 16 to `most` that holds `channels`."""
    return min(most, max(16, power_of_two(channels)))


def offset_parts(count: int, inputs: int, outputs: int) -> int:
    """Into how many parts to take the kernel offsets of `count` rows with Ci and Co channels.

    Few rows have few that are alike in all offsets, so most of a block's work is for neighbours that do not exist.
    Parts save that work, 2 Ci operations a number, but move each number eight bytes a part more.
    """
    if inputs < 512 or 12 * count * outputs > MOST_PARTIAL:
        return 1
    return 9 if inputs >= 1024 and count <= FEW_ROWS else 3


@cache
def is_roomy(device: torch.device) -> bool:
    """Whether a program may hold the shared memory that the widest tiles need, 192 KiB."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] in ROOMY


def forward_tile(feats: torch.Tensor, count: int, outputs: int) -> Tile:
    """Tile of the forward kernel for feats [N, Ci] -> [count, Co]: the fastest at the decoder's levels on an H200."""
    inputs = feats.shape[1]
    parts = offset_parts(count, inputs, outputs)
    if feats.dtype == torch.float32:
        return Tile(64, fit(outputs, 64), fit(inputs, 32), 4, 2, parts)
    columns, inner = fit(outputs, 256 if is_roomy(feats.device) else 128), fit(inputs, 64)
    if columns < 128:
        return Tile(128, columns, inner, 4, 2, parts)
    return Tile(128, columns, inner, 4, 3, parts) if columns == 128 else Tile(128, columns, inner, 8, 4, parts)


def weight_tile(feats: torch.Tensor, outputs: int) -> Tile:
    """Tile of the weight gradient: `rows` output channels, `columns` input channels, `inner` rows of voxels a step."""
    count, inputs = feats.shape
    parts = offset_parts(count, inputs, outputs)
    if feats.dtype == torch.float32:
        return Tile(fit(outputs, 64), fit(inputs, 64), VISIT_ROWS, 4, 2, parts)
    rows, columns = fit(outputs, 128), fit(inputs, 128)
    return Tile(rows, columns, VISIT_ROWS, 4, 3, parts)


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
    count = plan.neighbours.shape[0]
    outputs = weights.shape[2 if mirrored else 0]
    tile = tile or forward_tile(feats, count, outputs)
    if count == 0 or outputs == 0:
        return feats.new_empty((count, outputs))
    parts = plan.parts(tile.parts, tile.rows)
    order = parts.map.order
    rows = Rows(order, order, order, parts.blocks(tile.rows), count)
    return run_forward(feats, weights, bias, parts, rows, tile, mirrored=mirrored)


def children_forward(
    feats: torch.Tensor,
    weights: torch.Tensor,
    bias: torch.Tensor | None,
    plan: ConvPlan,
    slots: torch.Tensor,
    tile: Tile | None = None,
) -> torch.Tensor:
    """feats [P, Ci], weights as stored [8 c, V, Ci], bias [8 c], slots int64 [M] parent * 8 + child -> [M, c]."""
    outputs, count = weights.shape[0] // 8, slots.shape[0]
    if count == 0 or outputs == 0:
        return feats.new_empty((count, outputs))
    tile = tile or forward_tile(feats, count, outputs)
    parts = plan.parts(tile.parts, tile.rows)
    known = parts.child_rows.get(tile.rows)
    if known is None or known[0] is not slots:
        known = parts.child_rows[tile.rows] = slots, group_children(parts, slots, tile.rows)
    children = known[1]
    rows = Rows(children.target, children.column, children.slot, children.blocks, count, slots)
    return run_forward(feats, weights, bias, parts, rows, tile)


@dataclass(frozen=True)
class Rows:
    """What blocks of rows compute."""

    target: torch.Tensor  # int32 [G, L] row of the output, -1 = none
    column: torch.Tensor  # int32 [G, L] column of the table, for children
    slot: torch.Tensor  # int32 [L / block] number of a block's children
    blocks: Blocks
    count: int  # rows of the output
    slots: torch.Tensor | None = None  # int64 [count] of the children


def run_forward(
    feats: torch.Tensor,
    weights: torch.Tensor,
    bias: torch.Tensor | None,
    parts: Parts,
    rows: Rows,
    tile: Tile,
    *,
    mirrored: bool = False,
) -> torch.Tensor:
    """The convolution of the rows, its parts added up."""
    children, count, inputs = rows.slots is not None, rows.count, feats.shape[1]
    outputs = weights.shape[0] // 8 if children else weights.shape[2 if mirrored else 0]
    groups, length = rows.target.shape
    blocks = rows.blocks.counts.shape[0] // groups
    out = feats.new_empty((count, outputs))
    sums = out if groups == 1 else torch.empty((groups, count, outputs), dtype=torch.float32, device=feats.device)
    added = weights if bias is None else bias
    with on_device(feats.device):
        forward_kernel[(groups * blocks * programs(outputs, tile.columns),)](
            feats, weights, added, sums, rows.target, rows.column, rows.slot, parts.map.table,
            rows.blocks.offsets, rows.blocks.counts, count, blocks, length, parts.map.table.shape[1],
            CI=inputs, CO=outputs, VOLUME=weights.shape[1], PARTS=groups, BIASED=bias is not None, CHILDREN=children,
            MIRRORED=mirrored, BM=tile.rows, BN=tile.columns, BK=tile.inner,
            PRECISION=precision(feats.dtype), num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        if groups > 1:
            sum_kernel[(programs(count * outputs, SUM_BLOCK),)](
                sums, added, rows.target if rows.slots is None else rows.slots, out, count, CO=outputs, PARTS=groups,
                BIASED=bias is not None, CHILDREN=children, BLOCK=SUM_BLOCK,
            )  # fmt: skip
    return out


def weight_gradient(feats: torch.Tensor, grad: torch.Tensor, plan: ConvPlan, tile: Tile | None = None) -> torch.Tensor:
    """feats [N, Ci], grad [N, Co] -> [Co, V, Ci] as weights are stored, in the dtype of feats."""
    (count, inputs), outputs, volume = feats.shape, grad.shape[1], plan.neighbours.shape[1]
    if count == 0:
        return feats.new_zeros((outputs, volume, inputs))
    tile = tile or weight_tile(feats, outputs)
    tiles = programs(outputs, tile.rows) * programs(inputs, tile.columns)
    splits = max(1, min(PROGRAMS // (tiles * volume), count // 1024))
    parts = plan.parts(tile.parts, VISIT_ROWS)
    visits, counts = parts.visits
    exact = torch.float32 if splits > 1 else feats.dtype
    partial = torch.empty((splits, outputs, volume, inputs), dtype=exact, device=feats.device)
    with on_device(feats.device):
        weight_kernel[(tiles * splits, volume)](
            feats, grad, partial, parts.map.table, parts.map.order, visits, counts, count, parts.map.table.shape[1],
            visits.shape[1], volume, CI=inputs, CO=outputs, SPLITS=splits, PARTS=parts.map.order.shape[0],
            BM=tile.rows, BN=tile.columns, BP=VISIT_ROWS, PRECISION=precision(feats.dtype),
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return partial[0] if splits == 1 else partial.sum(dim=0).to(feats.dtype)
