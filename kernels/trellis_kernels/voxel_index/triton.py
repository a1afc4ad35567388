"""Open-addressing hash table of rows on the GPU, their keys beside it.

A slot holds a row in four bytes and a look-up compares that row's key: eight neighbours along z share a memory sector.
"""

import torch
import triton
import triton.language as tl

from trellis_kernels.choice import on_device
from trellis_kernels.launch import programs

BLOCK = 256
NO_ROW = tl.constexpr(-1)
NOBODY = tl.constexpr(-2)  # what no slot ever holds
LIMIT = tl.constexpr(1 << 15)
FACTOR = tl.constexpr(-7046029254386353131)  # 2^64 / golden ratio as a signed number (Knuth, TAOCP 3, section 6.4)


@triton.jit
def pack(b, x, y, z):
    """Keys int64 of voxels, -1 where out of range; tensors of one shape."""
    low = tl.minimum(tl.minimum(b, x), tl.minimum(y, z))
    high = tl.maximum(tl.maximum(b, x), tl.maximum(y, z))
    key = (b.to(tl.int64) << 48) | (x.to(tl.int64) << 32) | (y.to(tl.int64) << 16) | z.to(tl.int64)
    return tl.where((low >= 0) & (high < LIMIT), key, -1)


@triton.jit
def slot_of(key, mask):
    """First slot int32 of keys: eight consecutive z share a group of slots, each group in an order of its own."""
    mixed = ((key >> 3) * FACTOR >> 32).to(tl.int32)
    return ((mixed << 3) | ((key.to(tl.int32) ^ (mixed >> 24)) & 7)) & mask


@triton.jit
def next_slot(slot, mask):
    """The same place in the next group; after the last group one place on, so that every slot is tried."""
    moved = slot + 8
    return (moved + (moved > mask).to(tl.int32)) & mask


@triton.jit
def find(keys, rows, mask, key):
    """Rows int32 of keys, -1 where absent or negative; keys int64 [N] by row, rows int32 [mask + 1]."""
    slot = slot_of(key, mask)
    row = tl.full(key.shape, -1, tl.int32)
    active = key >= 0
    while tl.max(tl.ravel(active.to(tl.int32)), axis=0) > 0:
        here = tl.load(rows + slot, mask=active, other=NO_ROW)
        filled = here != NO_ROW
        hit = filled & (tl.load(keys + here, mask=filled, other=-1) == key)
        row = tl.where(hit, here, row)
        active = filled & ~hit
        slot = next_slot(slot, mask)
    return row


@triton.jit
def load_key(coords, i, inside):
    """Keys of the rows i of int32 [N, 4]; -1 where not inside."""
    b = tl.load(coords + i * 4, mask=inside, other=-1)
    x = tl.load(coords + i * 4 + 1, mask=inside, other=-1)
    y = tl.load(coords + i * 4 + 2, mask=inside, other=-1)
    z = tl.load(coords + i * 4 + 3, mask=inside, other=-1)
    return pack(b, x, y, z)


@triton.jit
def insert(coords, keys, rows, mask, i, inside):
    """Puts rows i of coords int32 [N, 4] into a table by compare and swap, and their keys int64 into `keys`.

    The lowest row of equal keys wins, so that answers do not depend on timing.
    """
    key = load_key(coords, i.to(tl.int64), inside)
    tl.store(keys + i, key, mask=inside)
    slot = slot_of(key, mask)
    active = key >= 0
    while tl.max(active.to(tl.int32), axis=0) > 0:
        # A lane that is done swaps nothing: no slot holds NOBODY.
        old = tl.atomic_cas(rows + slot, tl.where(active, NO_ROW, NOBODY), tl.where(active, i, NOBODY))
        taken = active & (old != NO_ROW)
        double = taken & (load_key(coords, old.to(tl.int64), taken) == key)
        tl.atomic_min(rows + slot, i, mask=double)
        active = taken & ~double
        slot = tl.where(active, next_slot(slot, mask), slot)


@triton.jit(do_not_specialize=["count"])
def build_kernel(coords, keys, rows, count, mask, BLOCK: tl.constexpr):
    """coords int32 [N, 4] -> keys int64 [N] and their rows in the slots int32 [mask + 1], which are empty before."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    insert(coords, keys, rows, mask, i, i < count)


@triton.jit(do_not_specialize=["count"])
def lookup_kernel(keys, rows, query, out, count, mask, BLOCK: tl.constexpr):
    """query int32 [Q, 4] -> out int64 [Q]."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row = find(keys, rows, mask, load_key(query, i, i < count))
    tl.store(out + i, row.to(tl.int64), mask=i < count)


def empty_table(slots: int, device: torch.device) -> torch.Tensor:
    """int32 [slots] without a row."""
    return torch.full((slots,), NO_ROW.value, dtype=torch.int32, device=device)


def build(coords: torch.Tensor, slots: int) -> tuple[torch.Tensor, torch.Tensor]:
    """int32 [N, 4], a power of two >= 8 and > N -> keys int64 [N], rows int32 [slots]."""
    count = coords.shape[0]
    keys = torch.empty(count, dtype=torch.int64, device=coords.device)
    rows = empty_table(slots, coords.device)
    if count:
        with on_device(coords.device):
            build_kernel[(programs(count, BLOCK),)](coords.contiguous(), keys, rows, count, slots - 1, BLOCK=BLOCK)
    return keys, rows


def lookup(keys: torch.Tensor, rows: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """int32 [Q, 4] -> rows int64 [Q], -1 where there is no voxel."""
    count = query.shape[0]
    out = torch.empty(count, dtype=torch.int64, device=query.device)
    if count:
        with on_device(query.device):
            grid = (programs(count, BLOCK),)
            lookup_kernel[grid](keys, rows, query.contiguous(), out, count, rows.shape[0] - 1, BLOCK=BLOCK)
    return out
