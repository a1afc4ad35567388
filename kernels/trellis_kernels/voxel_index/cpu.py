"""Open-addressing hash table of voxel keys on the CPU."""

import numpy as np
from numba import njit, prange

EMPTY = np.int64(-1)
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: Knuth's multiplicative hashing (TAOCP 3, section 6.4)
LIMIT = np.int64(1 << 15)


@njit(inline="always")
def slot_of(key, mask):
    """First slot of a key. Four consecutive z share a group of slots, so that neighbours share cache lines."""
    mixed = (np.uint64(key) >> np.uint64(2)) * FACTOR
    group = (mixed >> np.uint64(32)) << np.uint64(2)
    return np.int64((group | (np.uint64(key) & np.uint64(3))) & mask)


@njit(inline="always")
def find(keys, rows, mask, key):
    """Row of a non-negative key, or -1."""
    slot = slot_of(key, mask)
    while True:
        here = keys[slot]
        if here == key:
            return np.int64(rows[slot])
        if here == EMPTY:
            return np.int64(-1)
        slot = (slot + 1) & np.int64(mask)


@njit(inline="always")
def pack(b, x, y, z):
    """Key of one voxel, -1 if out of range."""
    if b < 0 or x < 0 or y < 0 or z < 0 or b >= LIMIT or x >= LIMIT or y >= LIMIT or z >= LIMIT:
        return np.int64(-1)
    return (np.int64(b) << 48) | (np.int64(x) << 32) | (np.int64(y) << 16) | np.int64(z)


@njit(cache=True)
def build(coords, slots):
    """int32 [N, 4], a power of two > N -> keys int64 [slots], rows int32 [slots]; the lower row wins a double."""
    keys = np.full(slots, EMPTY, np.int64)
    rows = np.empty(slots, np.int32)
    mask = np.uint64(slots - 1)
    for row in range(coords.shape[0]):
        key = pack(coords[row, 0], coords[row, 1], coords[row, 2], coords[row, 3])
        if key < 0:
            continue
        slot = slot_of(key, mask)
        while keys[slot] != EMPTY and keys[slot] != key:
            slot = (slot + 1) & np.int64(mask)
        if keys[slot] == EMPTY:
            keys[slot] = key
            rows[slot] = row
    return keys, rows


@njit(cache=True, parallel=True)
def lookup(keys, rows, query):
    """int32 [Q, 4] -> rows int64 [Q], -1 where there is no voxel."""
    out = np.empty(query.shape[0], np.int64)
    mask = np.uint64(keys.shape[0] - 1)
    for i in prange(query.shape[0]):
        key = pack(query[i, 0], query[i, 1], query[i, 2], query[i, 3])
        out[i] = find(keys, rows, mask, key) if key >= 0 else np.int64(-1)
    return out
