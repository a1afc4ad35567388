"""Neighbour maps on the CPU: one merge of the sorted keys with themselves for each kernel offset, no hashing."""

import numpy as np
from numba import njit, prange

CHUNK = 4096  # rows whose part of the map stays in the second-level cache


@njit(cache=True)
def first_not_below(keys, wanted):
    """Binary search: the first place whose key is >= wanted."""
    low, high = 0, keys.shape[0]
    while low < high:
        middle = (low + high) >> 1
        if keys[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True, parallel=True)
def neighbour_map(keys, rows, deltas):
    """Sorted keys int64 [N], their rows int64 [N], key steps int64 [V] -> int32 [N, V], -1 where there is no voxel."""
    count = keys.shape[0]
    out = np.full((count, deltas.shape[0]), -1, np.int32)
    for chunk in prange((count + CHUNK - 1) // CHUNK):
        begin = chunk * CHUNK
        end = min(begin + CHUNK, count)
        for v in range(deltas.shape[0]):
            delta = deltas[v]
            place = first_not_below(keys, keys[begin] + delta)
            for i in range(begin, end):
                wanted = keys[i] + delta
                while place < count and keys[place] < wanted:
                    place += 1
                if place == count:
                    break
                if keys[place] == wanted and keys[i] >= 0 and wanted >= 0:
                    out[rows[i], v] = rows[place]
    return out
