"""Neighbour maps on the GPU: one hash look-up for each row and half of the kernel offsets, the others mirror them."""

import torch
import triton
import triton.language as tl

from trellis_kernels.choice import on_device
from trellis_kernels.launch import power_of_two, programs
from trellis_kernels.neighbour_map.reference import LIST, child_rows
from trellis_kernels.triton_barrier import ALL_AT_ONCE, resident_programs, wait_for_all
from trellis_kernels.voxel_index.triton import build, empty_table, find, insert

TILE, ROWS = 1024, 32  # look-ups of one program, and rows of a 3x3x3 map that make so many
INSERTED = 128  # rows that a program puts into the table at a time where one kernel does it all
SMALL = 1 << 16  # rows up to which launching kernels takes longer than running them


@triton.jit
def map_rows(keys, rows, out, count, mask, i, K: tl.constexpr, DILATION: tl.constexpr, PAD: tl.constexpr):
    """Entries of a map, -1 before, that are between rows i and what lies at their first offsets, padded to PAD.

    A key moved out of the grid is none that a voxel can have: see COORDINATE_LIMIT in voxel_index/reference.py.
    """
    VOLUME: tl.constexpr = K * K * K
    HALF: tl.constexpr = VOLUME // 2
    v = tl.arange(0, PAD)
    key = tl.load(keys + i, mask=i < count, other=-1)
    tl.store(out + i * VOLUME + HALF, i.to(tl.int32), mask=key >= 0)
    dx, dy, dz = (v // (K * K) - K // 2) * DILATION, (v // K % K - K // 2) * DILATION, (v % K - K // 2) * DILATION
    step = (dx.to(tl.int64) << 32) + (dy.to(tl.int64) << 16) + dz.to(tl.int64)
    exists = (key >= 0)[:, None] & (v < HALF)[None, :]
    row = find(keys, rows, mask, tl.where(exists, key[:, None] + step[None, :], -1))
    tl.store(out + i[:, None] * VOLUME + v[None, :], row, mask=row >= 0)
    back = tl.broadcast_to(i.to(tl.int32)[:, None], row.shape)
    tl.store(out + row.to(tl.int64) * VOLUME + (VOLUME - 1 - v)[None, :], back, mask=row >= 0)


@triton.jit(do_not_specialize=["count"])
def map_kernel(
    keys, rows, out, count, mask, K: tl.constexpr, DILATION: tl.constexpr, ROWS: tl.constexpr, PAD: tl.constexpr
):
    """keys int64 [N] by row and the hash table of the rows -> out int32 [N, K^3], -1 before; ROWS rows a program."""
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    map_rows(keys, rows, out, count, mask, i, K, DILATION, PAD)


@triton.jit
def fill(out, size, value, TILE: tl.constexpr):
    """Sets int32 [size] to a value, by all programs together."""
    for tile in range(tl.program_id(0), tl.cdiv(size, TILE), tl.num_programs(0)):
        i = tl.arange(0, TILE).to(tl.int64) + tile * TILE
        tl.store(out + i, tl.full((TILE,), value, tl.int32), mask=i < size)


@triton.jit(do_not_specialize=["count"])
def whole_map_kernel(
    coords, keys, rows, out, count, mask,
    K: tl.constexpr, DILATION: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, PAD: tl.constexpr,
):  # fmt: skip
    """coords int32 [N, 4] -> out int32 [N, K^3] by all programs at once: first they fill the table, then they read it.

    The slots int32 [mask + 2] are empty before; the last one counts the programs at the barrier, from -1.
    """
    fill(out, count.to(tl.int64) * (K * K * K), -1, 1024)
    for tile in range(tl.program_id(0), tl.cdiv(count, BLOCK), tl.num_programs(0)):
        i = tile * BLOCK + tl.arange(0, BLOCK)
        insert(coords, keys, rows, mask, i, i < count)
    wait_for_all(rows + mask + 1, tl.num_programs(0) - 1)
    for tile in range(tl.program_id(0), tl.cdiv(count, ROWS), tl.num_programs(0)):
        map_rows(keys, rows, out, count, mask, tile * ROWS + tl.arange(0, ROWS).to(tl.int64), K, DILATION, PAD)


@triton.jit(do_not_specialize=["count"])
def child_coords_kernel(coords, slots, out, count, ROWS: tl.constexpr):
    """coords int32 [P, 4], slots int64 [M] -> out int32 [M, 4]; ROWS children a program."""
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    k = tl.arange(0, 4)[None, :]
    slot = tl.load(slots + i, mask=i < count, other=0)
    parent = tl.load(coords + slot // 8 * 4 + k, mask=i < count, other=0)
    bit = ((slot % 8).to(tl.int32) >> tl.maximum(k - 1, 0)) & 1
    tl.store(out + i * 4 + k, tl.where(k == 0, parent, 2 * parent + bit), mask=i < count)


def child_coords(coords: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """int32 [P, 4], int64 [M] -> int32 [M, 4]."""
    count = slots.shape[0]
    out = torch.empty((count, 4), dtype=torch.int32, device=coords.device)
    if count:
        with on_device(coords.device):
            child_coords_kernel[(programs(count, TILE // 4),)](coords, slots, out, count, ROWS=TILE // 4)
    return out


@triton.jit
def scatter_numbers(slots, rows, count, TILE: tl.constexpr):
    """rows[slots[i]] = i for i below count, by all programs together; slots int64 [M], rows int32."""
    for tile in range(tl.program_id(0), tl.cdiv(count, TILE), tl.num_programs(0)):
        i = tile * TILE + tl.arange(0, TILE)
        tl.store(rows + tl.load(slots + i, mask=i < count, other=0), i, mask=i < count)


@triton.jit
def map_children(parent_map, rows, slots, out, i, count):
    """Rows i, int64 [ROWS, 1], of `child_map`."""
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


@triton.jit(do_not_specialize=["count"])
def child_map_kernel(parent_map, rows, slots, out, count, ROWS: tl.constexpr):
    """parent_map int32 [P, 27], rows int32 [8 P], slots int64 [M] -> out int32 [M, 27]; ROWS children a program."""
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    map_children(parent_map, rows, slots, out, i, count)


@triton.jit(do_not_specialize=["parents", "count"])
def whole_child_map_kernel(
    parent_map, rows, slots, out, counter, parents, count, TILE: tl.constexpr, ROWS: tl.constexpr
):
    """parent_map int32 [P, 27], slots int64 [M] -> out int32 [M, 27], all programs at once. counter is zero before."""
    fill(rows, 8 * parents, -1, TILE)
    wait_for_all(counter, tl.num_programs(0))
    scatter_numbers(slots, rows, count, TILE)
    wait_for_all(counter, 2 * tl.num_programs(0))
    for tile in range(tl.program_id(0), tl.cdiv(count, ROWS), tl.num_programs(0)):
        i = tile * ROWS + tl.arange(0, ROWS).to(tl.int64)[:, None]
        map_children(parent_map, rows, slots, out, i, count)


def child_map(parent_map: torch.Tensor, slots: torch.Tensor, part: slice) -> torch.Tensor:
    """parent_map int32 [P, 27], slots int64 [M] -> int32 [M, 27] or the part's rows of it; few rows in one launch."""
    (parents, _), device, chosen = parent_map.shape, slots.device, slots[part]
    out = torch.empty((chosen.shape[0], 27), dtype=torch.int32, device=device)
    if chosen.shape[0] == 0:
        return out
    if chosen.shape[0] < slots.shape[0] or slots.shape[0] > SMALL:
        rows = child_rows(slots, parents)
        with on_device(device):
            child_map_kernel[(programs(chosen.shape[0], ROWS),)](
                parent_map, rows, chosen.contiguous(), out, chosen.shape[0], ROWS=ROWS
            )
        return out
    rows = torch.empty(8 * parents, dtype=torch.int32, device=device)
    grid = min(resident_programs(device), programs(slots.shape[0], ROWS))
    with on_device(device):
        whole_child_map_kernel[(grid,)](
            parent_map, rows, slots.contiguous(), out, torch.zeros(1, dtype=torch.int32, device=device), parents,
            slots.shape[0], TILE=TILE, ROWS=ROWS, **ALL_AT_ONCE,
        )  # fmt: skip
    return out


def neighbour_map(coords: torch.Tensor, slots: int, *, kernel_size: int, dilation: int) -> torch.Tensor:
    """int32 [N, 4] -> int32 [N, K^3] by a hash table of so many slots; up to SMALL rows in one launch."""
    count, volume, device = coords.shape[0], kernel_size**3, coords.device
    pad = power_of_two(max(1, volume // 2))
    shape = dict(K=kernel_size, DILATION=dilation, ROWS=max(1, TILE // pad), PAD=pad)
    if count > SMALL:
        keys, rows = build(coords, slots)
        out = torch.full((count, volume), -1, dtype=torch.int32, device=device)
        with on_device(device):
            map_kernel[(programs(count, shape["ROWS"]),)](keys, rows, out, count, slots - 1, **shape)
        return out
    out = torch.empty((count, volume), dtype=torch.int32, device=device)
    if count:
        keys = torch.empty(count, dtype=torch.int64, device=device)
        rows = empty_table(slots + 1, device)
        grid = min(resident_programs(device), programs(count, INSERTED))
        with on_device(device):
            whole_map_kernel[(grid,)](
                coords.contiguous(), keys, rows, out, count, slots - 1, BLOCK=INSERTED, **shape, **ALL_AT_ONCE
            )
    return out


@triton.jit
def either(a, b):
    """Bitwise or, to reduce with."""
    return a | b


@triton.jit
def store_list(mask, offsets, counts, unit, LIST: tl.constexpr):
    """The numbers of the bits of a mask, ascending and then zeros, as row `unit` of offsets, and how many they are."""
    v = tl.arange(0, LIST)
    used = (mask >> v) & 1
    total = tl.sum(used, axis=0)
    place = tl.where(used > 0, tl.cumsum(used, axis=0) - 1, total + v - tl.cumsum(used, axis=0))
    tl.store(offsets + unit * LIST + place, tl.where(used > 0, v, 0))
    tl.store(counts + unit, total)


@triton.jit(do_not_specialize=["count"])
def lists_kernel(masks, offsets, counts, count, LIST: tl.constexpr, BLOCK: tl.constexpr):
    """Masks int32 [G, count] -> one row of offsets int32 [G * blocks, LIST] and of counts int32 [G * blocks]."""
    part = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = tl.reduce(tl.load(masks + part * count + i, mask=i < count, other=0), 0, either)
    store_list(mask, offsets, counts, part * tl.num_programs(0) + tl.program_id(0), LIST)


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


@triton.jit(do_not_specialize=["blocks"])
def visits_kernel(offsets, counts, visits, totals, blocks, PART: tl.constexpr, LIST: tl.constexpr, WIDE: tl.constexpr):
    """Lists int32 [G * blocks, LIST] of PART offsets each -> a row of visits int32 [V, blocks] and totals int32 [V]."""
    v = tl.program_id(0)
    entry = tl.arange(0, LIST)
    first = v // PART * blocks
    row = visits + blocks.to(tl.int64) * v
    total = 0
    for start in range(0, blocks, WIDE):
        b = start + tl.arange(0, WIDE)
        at = (first + b)[:, None] * LIST + entry[None, :]
        listed = tl.load(offsets + at, mask=(b < blocks)[:, None], other=0)
        count = tl.load(counts + first + b, mask=b < blocks, other=0)
        used = tl.sum(((listed == v) & (entry[None, :] < count[:, None])).to(tl.int32), axis=1)
        tl.store(row + total + tl.cumsum(used, axis=0) - 1, b, mask=used > 0)
        total += tl.sum(used, axis=0)
    tl.store(totals + v, total)
    for start in range(0, blocks, WIDE):
        b = start + tl.arange(0, WIDE)
        tl.store(row + b, 0, mask=(b >= total) & (b < blocks))


def blocks_by_offset(
    offsets: torch.Tensor, counts: torch.Tensor, parts: int, volume: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """int32 [G * blocks, LIST], int32 [G * blocks] -> int32 [V, blocks], int32 [V]."""
    blocks = counts.shape[0] // parts
    visits = torch.empty((volume, blocks), dtype=torch.int32, device=counts.device)
    totals = torch.empty(volume, dtype=torch.int32, device=counts.device)
    with on_device(counts.device):
        visits_kernel[(volume,)](
            offsets, counts, visits, totals, blocks, PART=volume // parts, LIST=LIST, WIDE=TILE // 4, num_warps=8
        )
    return visits, totals
