"""Open-addressing hash table of voxel keys on the GPU; the same keys and slots as cpu.py."""

import torch
import triton
import triton.language as tl

from trellis_kernels.choice import on_device

BLOCK = 256
NO_ROW = 2**31 - 1
EMPTY = tl.constexpr(-1)
LIMIT = tl.constexpr(1 << 15)
FACTOR = tl.constexpr(-7046029254386353131)  # 2^64 / golden ratio as a signed number (Knuth, TAOCP 3, section 6.4)


@triton.jit
def pack(b, x, y, z):
    """Keys int64 of voxels, -1 where out of range; tensors of one shape."""
    low = tl.minimum(tl.minimum(b, x), tl.minimum(y, z))
    high = tl.maximum(tl.maximum(b, x), tl.maximum(y, z))
    key = (b.to(tl.int64) << 48) | (x.to(tl.int64) << 32) | (y.to(tl.int64) << 16) | z.to(tl.int64)
    return tl.where((low >= 0) & (high < LIMIT), key, EMPTY)


@triton.jit
def slot_of(key, mask):
    """First slot of keys. Four consecutive z share a group of slots, so that neighbours share cache lines."""
    group = (((key >> 2) * FACTOR) >> 32) << 2
    return (group | (key & 3)) & mask


@triton.jit
def find(keys, rows, mask, key):
    """Rows int32 of keys, -1 where absent or negative."""
    slot = slot_of(key, mask)
    row = tl.full(key.shape, -1, tl.int32)
    active = key >= 0
    while tl.max(tl.ravel(active.to(tl.int32)), axis=0) > 0:
        here = tl.load(keys + slot, mask=active, other=EMPTY)
        hit = active & (here == key)
        row = tl.where(hit, tl.load(rows + slot, mask=hit, other=-1), row)
        active = active & (here != key) & (here != EMPTY)
        slot = (slot + 1) & mask
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
def build_kernel(coords, keys, rows, count, mask, BLOCK: tl.constexpr):
    """Inserts by compare and swap; the lowest row of equal keys wins, so that answers do not depend on timing."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    key = load_key(coords, i, i < count)
    slot = slot_of(key, mask)
    active = key >= 0
    while tl.max(active.to(tl.int32), axis=0) > 0:
        # A lane that is done swaps its own key for itself.
        old = tl.atomic_cas(keys + slot, tl.where(active, EMPTY, key), key)
        active = active & (old != EMPTY) & (old != key)
        slot = tl.where(active, (slot + 1) & mask, slot)
    tl.atomic_min(rows + slot, i.to(tl.int32), mask=key >= 0)


@triton.jit
def lookup_kernel(keys, rows, query, out, count, mask, BLOCK: tl.constexpr):
    """query int32 [Q, 4] -> out int64 [Q]."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row = find(keys, rows, mask, load_key(query, i, i < count))
    tl.store(out + i, row.to(tl.int64), mask=i < count)


def build(coords: torch.Tensor, slots: int) -> tuple[torch.Tensor, torch.Tensor]:
    """int32 [N, 4], a power of two > N -> keys int64 [slots], rows int32 [slots]."""
    keys = torch.full((slots,), -1, dtype=torch.int64, device=coords.device)
    rows = torch.full((slots,), NO_ROW, dtype=torch.int32, device=coords.device)
    count = coords.shape[0]
    if count:
        with on_device(coords.device):
            build_kernel[(triton.cdiv(count, BLOCK),)](coords.contiguous(), keys, rows, count, slots - 1, BLOCK=BLOCK)
    return keys, rows


def lookup(keys: torch.Tensor, rows: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """int32 [Q, 4] -> rows int64 [Q], -1 where there is no voxel."""
    count = query.shape[0]
    out = torch.empty(count, dtype=torch.int64, device=query.device)
    if count:
        with on_device(query.device):
            grid = (triton.cdiv(count, BLOCK),)
            lookup_kernel[grid](keys, rows, query.contiguous(), out, count, keys.shape[0] - 1, BLOCK=BLOCK)
    return out
