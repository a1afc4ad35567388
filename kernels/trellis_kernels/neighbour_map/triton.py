"""Neighbour maps on the GPU: one hash look-up for each row and kernel offset."""

import torch
import triton
import triton.language as tl

from trellis_kernels.choice import on_device
from trellis_kernels.voxel_index.triton import find, pack

TILE = 2048  # look-ups of one program


@triton.jit
def map_kernel(
    coords, keys, rows, out, count, mask, K: tl.constexpr, DILATION: tl.constexpr, ROWS: tl.constexpr, PAD: tl.constexpr
):
    """coords int32 [N, 4] -> out int32 [N, K^3]; a program takes ROWS rows and all offsets (padded to PAD)."""
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    v = tl.arange(0, PAD)[None, :]
    inside = (i < count) & (v < K * K * K)
    b = tl.load(coords + i * 4 + v * 0, mask=inside, other=-1)
    x = tl.load(coords + i * 4 + 1 + v * 0, mask=inside, other=-1)
    y = tl.load(coords + i * 4 + 2 + v * 0, mask=inside, other=-1)
    z = tl.load(coords + i * 4 + 3 + v * 0, mask=inside, other=-1)
    key = pack(b, x, y, z)
    moved = pack(
        b, x + (v // (K * K) - K // 2) * DILATION, y + (v // K % K - K // 2) * DILATION, z + (v % K - K // 2) * DILATION
    )
    row = find(keys, rows, mask, tl.where(key >= 0, moved, key))
    tl.store(out + i * (K * K * K) + v, row, mask=inside)


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


def neighbour_map(
    coords: torch.Tensor, keys: torch.Tensor, rows: torch.Tensor, *, kernel_size: int, dilation: int
) -> torch.Tensor:
    """coords int32 [N, 4] and their hash table -> int32 [N, K^3]."""
    count, volume = coords.shape[0], kernel_size**3
    out = torch.empty((count, volume), dtype=torch.int32, device=coords.device)
    if count:
        pad = triton.next_power_of_2(volume)
        tile = max(1, TILE // pad)
        with on_device(coords.device):
            map_kernel[(triton.cdiv(count, tile),)](
                coords.contiguous(), keys, rows, out, count, keys.shape[0] - 1,
                K=kernel_size, DILATION=dilation, ROWS=tile, PAD=pad,
            )  # fmt: skip
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
def table_kernel(
    neighbours, order, out, count, stride, VOLUME: tl.constexpr, ROWS: tl.constexpr, PAD: tl.constexpr
):  # fmt: skip
    """neighbours int32 [N, VOLUME] -> out int32 [VOLUME, stride]: column c holds row order[c], -1 from column N on."""
    c = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    v = tl.arange(0, PAD)
    source = tl.load(order + c, mask=c < count, other=0).to(tl.int64)
    inside = (c < count)[:, None] & (v < VOLUME)[None, :]
    row = tl.load(neighbours + source[:, None] * VOLUME + v[None, :], mask=inside, other=-1)
    at = out + v[:, None].to(tl.int64) * stride + c[None, :]
    tl.store(at, tl.trans(row), mask=(v < VOLUME)[:, None] & (c < stride)[None, :])


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


def table(neighbours: torch.Tensor, order: torch.Tensor, columns: int) -> torch.Tensor:
    """int32 [N, V] in the order int32 [N] -> int32 [V, columns], -1 beyond N."""
    count, volume = neighbours.shape
    out = torch.empty((volume, columns), dtype=torch.int32, device=neighbours.device)
    pad = triton.next_power_of_2(volume)
    if columns:
        with on_device(neighbours.device):
            table_kernel[(triton.cdiv(columns, TILE // pad),)](
                neighbours, order, out, count, columns, VOLUME=volume, ROWS=TILE // pad, PAD=pad
            )
    return out
