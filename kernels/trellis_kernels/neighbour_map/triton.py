"""Neighbour maps on the GPU: one hash look-up for each row and kernel offset."""

import torch
import triton
import triton.language as tl

from trellis_kernels.choice import on_device
from trellis_kernels.launch import power_of_two, programs
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
            child_map_kernel[(programs(slots.shape[0], tile),)](parent_map, rows, slots, out, slots.shape[0], ROWS=tile)
    return out


def neighbour_map(keys: torch.Tensor, rows: torch.Tensor, *, kernel_size: int, dilation: int) -> torch.Tensor:
    """Hash table of the voxels (keys int64 [N] by row) -> int32 [N, K^3]."""
    count, volume = keys.shape[0], kernel_size**3
    out = torch.empty((count, volume), dtype=torch.int32, device=keys.device)
    if count:
        pad = power_of_two(volume)
        tile = max(1, TILE // pad)
        with on_device(keys.device):
            map_kernel[(programs(count, tile),)](
                keys, rows, out, count, rows.shape[0] - 1, K=kernel_size, DILATION=dilation, ROWS=tile, PAD=pad
            )
    return out


@triton.jit(do_not_specialize=["count"])
def rank_kernel(
    neighbours, masks, ranks, count,
    VOLUME: tl.constexpr, PARTS: tl.constexpr, RUN_BITS: tl.constexpr, ROWS: tl.constexpr, PAD: tl.constexpr,
):  # fmt: skip
    """neighbours int32 [N, VOLUME] -> masks int32 [N] and ranks int32 [PARTS, N], see `row_ranks`.

    Each bit of a rank is the parity of the part's bits from the top down to it.
    """
    BITS: tl.constexpr = VOLUME // PARTS
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    v = tl.arange(0, PAD)
    inside = (i < count)[:, None] & (v < VOLUME)[None, :]
    row = tl.load(neighbours + i[:, None] * VOLUME + v[None, :], mask=inside, other=-1)
    mask = tl.sum(tl.where(row >= 0, 1 << v[None, :], 0), axis=1)
    tl.store(masks + i, mask, mask=i < count)
    for part in tl.static_range(PARTS):
        code = (mask >> (part * BITS)) & ((1 << BITS) - 1)
        for k in tl.static_range(5):
            code ^= code >> (1 << k)
        group = part + (i >> RUN_BITS).to(tl.int32)
        tl.store(ranks + part * count.to(tl.int64) + i, code | group << BITS, mask=i < count)


@triton.jit
def either(a, b):
    """Bitwise or, to reduce with."""
    return a | b


@triton.jit(do_not_specialize=["count"])
def lists_kernel(masks, offsets, counts, count, LIST: tl.constexpr, BLOCK: tl.constexpr):
    """Masks int32 [G, count] -> one row of offsets int32 [G * blocks, LIST] and of counts int32 [G * blocks]."""
    part = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = tl.reduce(tl.load(masks + part * count + i, mask=i < count, other=0), 0, either)
    v = tl.arange(0, LIST)
    used = (mask >> v) & 1
    total = tl.sum(used, axis=0)
    place = tl.where(used > 0, tl.cumsum(used, axis=0) - 1, total + v - tl.cumsum(used, axis=0))
    unit = part * tl.num_programs(0) + tl.program_id(0)
    tl.store(offsets + unit * LIST + place, tl.where(used > 0, v, 0))
    tl.store(counts + unit, total)


@triton.jit(do_not_specialize=["count"])
def table_kernel(
    neighbours, masks, order, out, out_order, out_masks, count, stride,
    VOLUME: tl.constexpr, PART: tl.constexpr, ROWS: tl.constexpr, PAD: tl.constexpr,
):  # fmt: skip
    """One part of a map int32 [N, VOLUME] in the order int64 [G, N], which has part * N added: see `OrderedMap`.

    A program takes ROWS columns and the PART offsets of one part.
    """
    c = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    own = tl.arange(0, PAD) < PART
    v = part * PART + tl.arange(0, PAD)
    at = part.to(tl.int64) * count + c
    source = tl.load(order + at, mask=c < count, other=0) - part.to(tl.int64) * count
    tl.store(out_order + at, source.to(tl.int32), mask=c < count)
    mask = tl.load(masks + source, mask=c < count, other=0) & (((1 << PART) - 1) << (part * PART))
    tl.store(out_masks + at, mask, mask=c < count)
    row = tl.load(
        neighbours + source[:, None] * VOLUME + v[None, :], mask=(c < count)[:, None] & own[None, :], other=-1
    )
    place = out + v[:, None].to(tl.int64) * stride + c[None, :]
    tl.store(place, tl.trans(row), mask=own[:, None] & (c < stride)[None, :])


def row_ranks(neighbours: torch.Tensor, parts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """int32 [N, V] -> int32 [N], int32 [parts, N]."""
    count, volume = neighbours.shape
    masks = torch.empty(count, dtype=torch.int32, device=neighbours.device)
    ranks = torch.empty((parts, count), dtype=torch.int32, device=neighbours.device)
    pad = power_of_two(volume)
    if count:
        with on_device(neighbours.device):
            rank_kernel[(programs(count, TILE // pad),)](
                neighbours, masks, ranks, count, VOLUME=volume, PARTS=parts,
                RUN_BITS=RUN_BITS if runs_apart(parts, count) else 31, ROWS=TILE // pad, PAD=pad,
            )  # fmt: skip
    return masks, ranks


def block_lists(masks: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """int32 [G, L] -> int32 [G * blocks, LIST], int32 [G * blocks]."""
    parts, count = masks.shape
    blocks = programs(count, block)
    offsets = torch.empty((parts * blocks, LIST), dtype=torch.int32, device=masks.device)
    counts = torch.empty(parts * blocks, dtype=torch.int32, device=masks.device)
    if blocks:
        with on_device(masks.device):
            lists_kernel[(blocks, parts)](masks, offsets, counts, count, LIST=LIST, BLOCK=block, num_warps=1)
    return offsets, counts


def table(
    neighbours: torch.Tensor, masks: torch.Tensor, order: torch.Tensor, columns: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """int32 [N, V], int32 [N], int64 [G, N] -> int32 [V, columns], int32 [G, N], int32 [G, N], see `OrderedMap`."""
    (count, volume), parts = neighbours.shape, order.shape[0]
    out = torch.empty((volume, columns), dtype=torch.int32, device=neighbours.device)
    out_order, out_masks = (torch.empty((parts, count), dtype=torch.int32, device=order.device) for _ in range(2))
    pad = power_of_two(volume // parts)
    if columns:
        with on_device(neighbours.device):
            table_kernel[(programs(columns, TILE // pad), parts)](
                neighbours, masks, order, out, out_order, out_masks, count, columns,
                VOLUME=volume, PART=volume // parts, ROWS=TILE // pad, PAD=pad,
            )  # fmt: skip
    return out, out_order, out_masks
