"""Quads of a dual grid on the CPU: merges of the sorted keys with themselves, no hashing."""

import numpy as np
from numba import njit, prange

from trellis_kernels.neighbour_map.cpu import neighbour_map

STEP_X, STEP_Y, STEP_Z = 1 << 32, 1 << 16, 1
DELTAS = np.array([STEP_Z, STEP_Y, STEP_Y + STEP_Z, STEP_X, STEP_X + STEP_Z, STEP_X + STEP_Y], np.int64)
# For each axis, which of the six neighbours are corners 1, 2, 3 of the quad.
CORNERS = np.array([[0, 2, 1], [3, 4, 0], [1, 5, 3]], np.int64)


@njit(cache=True, parallel=True)
def fill_quads(neighbours, crossed, corner_numbers):
    """Neighbours int32 [M, 6], crossed bool [M, 3] -> int32 [L, 4], ordered by voxel, then axis."""
    count = neighbours.shape[0]
    ends = np.zeros(count + 1, np.int64)
    for i in prange(count):
        here = 0
        for axis in range(3):
            if crossed[i, axis]:
                c = corner_numbers[axis]
                here += neighbours[i, c[0]] >= 0 and neighbours[i, c[1]] >= 0 and neighbours[i, c[2]] >= 0
        ends[i + 1] = here
    for i in range(count):
        ends[i + 1] += ends[i]
    out = np.empty((ends[count], 4), np.int32)
    for i in prange(count):
        place = ends[i]
        if ends[i + 1] == place:
            continue
        for axis in range(3):
            c = corner_numbers[axis]
            n1, n2, n3 = neighbours[i, c[0]], neighbours[i, c[1]], neighbours[i, c[2]]
            if crossed[i, axis] and n1 >= 0 and n2 >= 0 and n3 >= 0:
                out[place, 0] = i
                out[place, 1] = n1
                out[place, 2] = n2
                out[place, 3] = n3
                place += 1
    return out


def quads(keys, rows, crossed):
    """Sorted keys int64 [M], their rows int64 [M], crossed bool [M, 3] -> int32 [L, 4]."""
    return fill_quads(neighbour_map(keys, rows, DELTAS), crossed, CORNERS)
