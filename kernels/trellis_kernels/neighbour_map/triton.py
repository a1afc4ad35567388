"""Neighbour maps on the GPU: one hash look-up for each row and kernel offset."""

import torch
import triton
import triton.language as tl

from trellis_kernels.choice import on_device
from trellis_kernels.neighbour_map.reference import LIST, RUN_BITS, runs_apart
from trellis_kernels.voxel_index.triton import find

TILE = 1024  # look-ups of one program


@triton.jit(do_not_specialize=["count"])
def map_kernel(
    keys, rows, out, count, mask, K: tl.constexpr, DILATION: tl.constexpr, ROWS: tl.constexpr, PAD: tl.constexpr
):
    """keys int64 [N] by row -> out int32 [N, K^3]; a program takes ROWS rows and all offsets (padded to PAD).

    A key moved out of the grid is none that a voxel can have: see COORDINATE_LIMIT in voxel_index/reference.py.
    """
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    v = tl.arange(0, PAD)
    key = tl.load(keys + i, mask=i < count, other=-1)[:, None]
    dx, dy, dz = (v // (K * K) - K // 2) * DILATION, (v // K % K - K // 2) * DILATION, (v % K - K // 2) * DILATION
    step = (dx.to(tl.int64) << 32) + (dy.to(tl.int64) << 16) + dz.to(tl.int64)
    exists = (key >= 0) & (v < K * K * K)[None, :]
    row = find(keys, rows, mask, tl.where(exists, key + step[None, :], -1))
    tl.store(out + i[:, None] * (K * K * K) + v[None, :], row, mask=(i < count)[:, None] & (v < K * K * K)[None, :])


@triton.jit(do_not_specialize=["count"])
def child_map_kernel(parent_map, rows, slots, out, count, ROWS: tl.constexpr):
    """parent_map int32 [P, 27], rows int32 [8 P], slots int64 [M] -> out int32 [M, 27]; ROWS children a program."""
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    v = tl.arange(0, 32)[None, :]
    inside = (i < count) & (v < 27)
    slot = tl.load(slots + i, mask=i < count, other=0)
    parent, child = slot // 8, (slot % 8).to(tl.int32)
    x = (child & 1) + v // 9 - 1
    y = (child >> 1 & 1) + v // 3 % 3 - 1
    z = (child >> 2 & 1) + v % 3 - 1
    offset = ((x >> 1) + 1) * 9 + ((y >> 1) + 1) * 3 + (z >> 1) + 1
    beside = tl.load(parent_map + parent * 27 + offset, mask=inside, other=-1).to(tl.int64)
    number = (x & 1) + 2 * (y & 1) + 4 * (z & 1)
    row = tl.load(rows + beside * 8 + number, mask=inside & (beside >= 0), other=-1)
    tl.store(out + i * 27 + v, row, mask=inside)


def child_map(parent_map: torch.Tensor, rows: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """parent_map int32 [P, 27], rows int32 [8 P] of the children, slots int64 [M] -> int32 [M, 27]."""
    out = torch.empty((slots.shape[0], 27), dtype=torch.int32, device=slots.device)
    if slots.shape[0]:
        tile = TILE // 32
        with on_device(slots.device):
            child_map_kernel[(triton.cdiv(slots.shape[0], tile),)](
                parent_map, rows, slots, out, slots.shape[0], ROWS=tile
            )
    return out


def neighbour_map(keys: torch.Tensor, rows: torch.Tensor, *, kernel_size: int, dilation: int) -> torch.Tensor:
    """Hash table of the voxels (keys int64 [N] by row) -> int32 [N, K^3]."""
    count, volume = keys.shape[0], kernel_size**3
    out = torch.empty((count, volume), dtype=torch.int32, device=keys.device)
    if count:
        pad = triton.next_power_of_2(volume)
        tile = max(1, TILE // pad)
        with on_device(keys.device):
            map_kernel[(triton.cdiv(count, tile),)](
                keys, rows, out, count, rows.shape[0] - 1, K=kernel_size, DILATION=dilation, ROWS=tile, PAD=pad
            )
    return out


@triton.jit(do_not_specialize=["count"])
def mask_kernel(neighbours, out, count, VOLUME: tl.constexpr, ROWS: tl.constexpr, PAD: tl.constexpr):
    """neighbours int32 [N, VOLUME] -> out int32 [N]: bit v is set where neighbour v exists."""
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    v = tl.arange(0, PAD)
    inside = (i < count)[:, None] & (v < VOLUME)[None, :]
    row = tl.load(neighbours + i[:, None] * VOLUME + v[None, :], mask=inside, other=-1)
    bits = tl.where(row >= 0, 1 << v[None, :], 0)
    tl.store(out + i, tl.sum(bits, axis=1), mask=i < count)


@triton.jit(do_not_specialize=["count"])
def rank_kernel(masks, out, count, BITS: tl.constexpr, RUN_BITS: tl.constexpr, BLOCK: tl.constexpr):
    """Masks int32 [N] -> ranks int32 [parts, N]: bits of a word become the parity of the bits from the top to them."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    part = tl.program_id(1)
    code = (tl.load(masks + i, mask=i < count, other=0) >> (part * BITS)) & ((1 << BITS) - 1)
    for k in tl.static_range(5):
        code ^= code >> (1 << k)
    group = part + (i >> RUN_BITS).to(tl.int32)
    tl.store(out + part.to(tl.int64) * count + i, code | group << BITS, mask=i < count)


@triton.jit
def either(a, b):
    """Bitwise or, to reduce with."""
    return a | b


@triton.jit(do_not_specialize=["count"])
def lists_kernel(masks, offsets, counts, count, LIST: tl.constexpr, BLOCK: tl.constexpr):
    """Masks int32 [L] -> one block's row of offsets int32 [blocks, LIST] and of counts int32 [blocks]."""
    block = tl.program_id(0)
    i = block * BLOCK + tl.arange(0, BLOCK)
    mask = tl.reduce(tl.load(masks + i, mask=i < count, other=0), 0, either)
    v = tl.arange(0, LIST)
    used = (mask >> v) & 1
    total = tl.sum(used, axis=0)
    place = tl.where(used > 0, tl.cumsum(used, axis=0) - 1, total + v - tl.cumsum(used, axis=0))
    tl.store(offsets + block.to(tl.int64) * LIST + place, tl.where(used > 0, v, 0))
    tl.store(counts + block, total)


@triton.jit(do_not_specialize=["count"])
def table_kernel(
    neighbours, order, out, count, stride,
    VOLUME: tl.constexpr, PART: tl.constexpr, ROWS: tl.constexpr, PAD: tl.constexpr,
):  # fmt: skip
    """neighbours int32 [N, VOLUME] -> out int32 [VOLUME, stride]: column c of part g is row order[g, c], -1 from N on.

    A program takes the PART offsets of one part.
    """
    c = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    v = part * PART + tl.arange(0, PAD)
    own = tl.arange(0, PAD) < PART
    source = tl.load(order + part.to(tl.int64) * count + c, mask=c < count, other=0).to(tl.int64)
    inside = (c < count)[:, None] & own[None, :]
    row = tl.load(neighbours + source[:, None] * VOLUME + v[None, :], mask=inside, other=-1)
    at = out + v[:, None].to(tl.int64) * stride + c[None, :]
    tl.store(at, tl.trans(row), mask=own[:, None] & (c < stride)[None, :])


def mask(neighbours: torch.Tensor) -> torch.Tensor:
    """int32 [N, V], V <= 31 -> int32 [N]."""
    count, volume = neighbours.shape
    out = torch.empty(count, dtype=torch.int32, device=neighbours.device)
    pad = triton.next_power_of_2(volume)
    if count:
        with on_device(neighbours.device):
            mask_kernel[(triton.cdiv(count, TILE // pad),)](
                neighbours, out, count, VOLUME=volume, ROWS=TILE // pad, PAD=pad
            )
    return out


def part_ranks(masks: torch.Tensor, parts: int, bits: int) -> torch.Tensor:
    """int32 [N] -> int32 [parts, N]; `bits` offsets a part."""
    count = masks.shape[0]
    out = torch.empty((parts, count), dtype=torch.int32, device=masks.device)
    if count:
        with on_device(masks.device):
            rank_kernel[(triton.cdiv(count, TILE), parts)](
                masks, out, count, BITS=bits, RUN_BITS=RUN_BITS if runs_apart(parts, count) else 31, BLOCK=TILE
            )
    return out


def block_lists(masks: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """int32 [L] -> int32 [blocks, LIST], int32 [blocks]."""
    blocks = triton.cdiv(masks.shape[0], block)
    offsets = torch.empty((blocks, LIST), dtype=torch.int32, device=masks.device)
    counts = torch.empty(blocks, dtype=torch.int32, device=masks.device)
    if blocks:
        with on_device(masks.device):
            lists_kernel[(blocks,)](masks, offsets, counts, masks.shape[0], LIST=LIST, BLOCK=block, num_warps=1)
    return offsets, counts


def table(neighbours: torch.Tensor, order: torch.Tensor, columns: int) -> torch.Tensor:
    """int32 [N, V] in the orders int32 [G, N] of G parts of the offsets -> int32 [V, columns], -1 beyond N."""
    (count, volume), parts = neighbours.shape, order.shape[0]
    out = torch.empty((volume, columns), dtype=torch.int32, device=neighbours.device)
    pad = triton.next_power_of_2(volume // parts)
    if columns:
        with on_device(neighbours.device):
            table_kernel[(triton.cdiv(columns, TILE // pad), parts)](
                neighbours, order, out, count, columns, VOLUME=volume, PART=volume // parts, ROWS=TILE // pad, PAD=pad
            )
    return out
