"""Octree bytes and differences in one pass over the leaves.

A leaf shares the nodes of its first levels with the leaf before it; where they part, a new child begins. Nodes written
as they first appear are in pre-order.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, inline="always")
def parting_level(code, before, depth):
    """Level of the node in which two codes lie in different children."""
    level = 0
    differ = code ^ before
    while differ >> (3 * (depth - 1 - level)) == 0:
        level += 1
    return level


@njit(cache=True, nogil=True)
def encode(codes, depth):
    masks = np.zeros(codes.shape[0] * depth, np.uint8)
    opened = np.zeros(depth, np.int64)
    count = np.int64(0)
    for leaf in range(codes.shape[0]):
        parting = parting_level(codes[leaf], codes[leaf - 1], depth) if leaf > 0 else -1
        for level in range(max(parting, 0), depth):
            if level > parting:
                opened[level] = count
                count += 1
            masks[opened[level]] |= np.uint8(1 << ((codes[leaf] >> (3 * (depth - 1 - level))) & 7))
    return masks[:count].copy()


@njit(cache=True, nogil=True)
def decode(masks, depth):
    """Codes of the leaves; an empty array where the bytes end too early or go on too long."""
    pending, prefix = np.zeros(depth, np.int64), np.zeros(depth, np.int64)
    total = np.int64(0)
    for k in range(masks.shape[0]):
        for octant in range(8):
            total += (masks[k] >> octant) & 1
    codes = np.empty(total, np.int64)
    level, at, count = 0, 1, np.int64(0)
    if masks.shape[0] == 0:
        return codes
    pending[0] = masks[0]
    while level >= 0:
        if pending[level] == 0:
            level -= 1
            continue
        octant = np.int64(0)
        while (pending[level] >> octant) & 1 == 0:
            octant += 1
        pending[level] &= pending[level] - 1
        code = (prefix[level] << 3) | octant
        if level == depth - 1:
            codes[count] = code
            count += 1
            continue
        if at == masks.shape[0]:
            return codes[:0]
        level += 1
        pending[level], prefix[level] = masks[at], code
        at += 1
    return codes[:count] if at == masks.shape[0] else codes[:0]


@njit(cache=True, nogil=True)
def parent_rows(codes, depth):
    count = codes.shape[0]
    node, base = np.empty(count, np.int64), np.empty(count, np.int64)
    opened, latest = np.zeros(depth, np.int64), np.zeros(depth, np.int64)
    nodes = np.int64(0)
    for leaf in range(count):
        parting = parting_level(codes[leaf], codes[leaf - 1], depth) if leaf > 0 else -1
        node[leaf], base[leaf] = (opened[parting], latest[parting]) if leaf > 0 else (-1, -1)
        for level in range(max(parting, 0), depth):
            if level > parting:
                opened[level] = nodes
                nodes += 1
            latest[level] = leaf
    leaves = np.argsort(node, kind="mergesort")
    return leaves, base[leaves]


@njit(cache=True, nogil=True)
def accumulate(rows, leaf, base):
    out = np.empty_like(rows)
    for r in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            out[leaf[r], c] = rows[r, c] + (out[base[r], c] if base[r] >= 0 else np.uint8(0))
    return out
