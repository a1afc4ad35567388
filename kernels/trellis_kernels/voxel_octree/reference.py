"""Octree bytes and parent filter by recursion, written to be read. For tests."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np


def encode(codes: np.ndarray, depth: int) -> np.ndarray:
    """Pre-order node masks uint8 [K] of Morton codes int64 [N], rising."""
    return np.array([sum(1 << octant for octant, _ in children) for children in nodes(codes, depth)], np.uint8)


def nodes(codes: np.ndarray, depth: int, first: int = 0) -> Iterator[list[tuple[int, int]]]:
    """For each node in pre-order its children as (octant, index of the first leaf)."""
    if len(codes) == 0 or depth == 0:
        return
    digits = (codes >> (3 * (depth - 1))) & 7
    children = [(int(octant), first + int(np.searchsorted(digits, octant))) for octant in np.unique(digits)]
    yield children
    for octant, begin in children:
        yield from nodes(codes[digits == octant], depth - 1, begin)


def decode(masks: np.ndarray, depth: int) -> np.ndarray:
    """Morton codes int64 [N] of node masks: the inverse of `encode`; empty where they are no tree of this depth."""
    unread = masks.tolist()

    def leaves(prefix: int, level: int) -> Iterator[int]:
        if level == depth:
            yield prefix
            return
        mask = unread.pop(0) if unread else 0
        for octant in range(8):
            if mask >> octant & 1:
                yield from leaves(prefix << 3 | octant, level + 1)

    codes = np.array(list(leaves(0, 0)), np.int64)
    complete = not unread and np.array_equal(encode(codes, depth), masks)
    return codes if complete else codes[:0]


def parent_rows(codes: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """For each row of the parent filter the leaf it describes and the leaf it is relative to (-1: none), int64 [N]."""
    pairs = [(0, -1)] if len(codes) else []
    for children in nodes(codes, depth):
        pairs += [(after, before) for (_, before), (_, after) in pairwise(children)]
    leaf, base = np.array(pairs, np.int64).reshape(-1, 2).T
    return leaf, base


def accumulate(rows: np.ndarray, leaf: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Attributes uint8 [N, C] from differences: out[leaf[r]] = rows[r] + out[base[r]] (mod 256), in the order of r."""
    out = np.zeros_like(rows)
    for r in range(len(rows)):
        out[leaf[r]] = rows[r] + (out[base[r]] if base[r] >= 0 else 0)
    return out
