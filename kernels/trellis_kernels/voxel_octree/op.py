"""Door of the op. Codes are Morton codes of voxels in a cube of 2^depth, unique and rising."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import numpy as np

from trellis_kernels.voxel_octree import reference

PREDECESSORS = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1))


def chosen(implementation: str) -> ModuleType:
    """The module that runs: auto | cpu | reference; auto takes the compiled one where numba is installed."""
    if implementation not in ("auto", "cpu", "reference"):
        raise ValueError(f"implementation is {implementation!r}; choose auto, cpu or reference")
    if implementation == "reference" or (implementation == "auto" and importlib.util.find_spec("numba") is None):
        return reference
    from trellis_kernels.voxel_octree import cpu

    return cpu


def encode_octree(codes: np.ndarray, depth: int, *, implementation: str = "auto") -> np.ndarray:
    """Octree bytes uint8 [K] of codes int64 [N]: one child mask a node, in pre-order; leaves have no byte.

    Raises ValueError unless the codes rise and fit the depth (1..20).
    """
    check(codes, depth)
    return chosen(implementation).encode(codes, depth)


def decode_octree(masks: np.ndarray, depth: int, *, implementation: str = "auto") -> np.ndarray:
    """Codes int64 [N] of octree bytes uint8 [K]. Raises ValueError where the bytes are no tree of this depth."""
    codes = chosen(implementation).decode(masks, depth)
    if len(masks) and not len(codes):
        raise ValueError(f"{len(masks)} bytes are no octree of depth {depth}")
    return codes


def apply_parent_filter(
    codes: np.ndarray, depth: int, attributes: np.ndarray, *, implementation: str = "auto"
) -> np.ndarray:
    """Differences between siblings of the octree uint8 [N, C], in pre-order; a node counts as its first leaf."""
    check(codes, depth)
    leaf, base = chosen(implementation).parent_rows(codes, depth)
    return (attributes[leaf] - np.where(base[:, None] >= 0, attributes[base], 0)).astype(np.uint8)


def undo_parent_filter(codes: np.ndarray, depth: int, rows: np.ndarray, *, implementation: str = "auto") -> np.ndarray:
    """Attributes uint8 [N, C] of the rows of `apply_parent_filter`."""
    check(codes, depth)
    module = chosen(implementation)
    return module.accumulate(np.ascontiguousarray(rows), *module.parent_rows(codes, depth))


def apply_neighbor_filter(codes: np.ndarray, coords: np.ndarray, attributes: np.ndarray) -> np.ndarray:
    """Differences to the last existing of seven voxels before, uint8 [N, C]; coords int [N, 3] belong to the codes."""
    base = predecessors(codes, coords)
    return (attributes - np.where(base[:, None] >= 0, attributes[base], 0)).astype(np.uint8)


def undo_neighbor_filter(
    codes: np.ndarray, coords: np.ndarray, rows: np.ndarray, *, implementation: str = "auto"
) -> np.ndarray:
    """Attributes uint8 [N, C] of the rows of `apply_neighbor_filter`."""
    base = predecessors(codes, coords)
    return chosen(implementation).accumulate(np.ascontiguousarray(rows), np.arange(len(codes)), base)


def predecessors(codes: np.ndarray, coords: np.ndarray) -> np.ndarray:
    """Row of the voxel each one is relative to, int64 [N], -1 where there is none; it always comes earlier."""
    found = np.full(len(codes), -1, np.int64)
    for offset in PREDECESSORS:
        wanted = coords - np.array(offset)
        inside = (wanted >= 0).all(1)
        code = morton(np.maximum(wanted, 0))
        at = np.minimum(np.searchsorted(codes, code), max(len(codes) - 1, 0))
        exists = inside & (codes[at] == code) if len(codes) else inside
        found[exists] = at[exists]
    return found


def morton(coords: np.ndarray) -> np.ndarray:
    """Z-order codes int64 [N] of coordinates [N, 3] below 2^21; x holds the highest bit of each triple."""
    x, y, z = (spread(coords[:, axis].astype(np.int64)) for axis in range(3))
    return x << 2 | y << 1 | z


def unmorton(codes: np.ndarray) -> np.ndarray:
    """Coordinates int32 [N, 3] of Z-order codes: the inverse of `morton`."""
    return np.stack([gather(codes >> shift) for shift in (2, 1, 0)], axis=1).astype(np.int32)


def spread(x: np.ndarray) -> np.ndarray:
    """Two zero bits between neighbouring bits of each number."""
    x = (x | x << 32) & 0x1F00000000FFFF
    x = (x | x << 16) & 0x1F0000FF0000FF
    x = (x | x << 8) & 0x100F00F00F00F00F
    x = (x | x << 4) & 0x10C30C30C30C30C3
    return (x | x << 2) & 0x1249249249249249


def gather(x: np.ndarray) -> np.ndarray:
    """Every third bit of each number: the inverse of `spread`."""
    x = x.astype(np.int64) & 0x1249249249249249
    x = (x | x >> 2) & 0x10C30C30C30C30C3
    x = (x | x >> 4) & 0x100F00F00F00F00F
    x = (x | x >> 8) & 0x1F0000FF0000FF
    x = (x | x >> 16) & 0x1F00000000FFFF
    return (x | x >> 32) & 0x1FFFFF


def check(codes: np.ndarray, depth: int) -> None:
    """Raise ValueError unless codes are int64, rising, unique and within the depth."""
    if not 1 <= depth <= 20 or codes.dtype != np.int64 or codes.ndim != 1:
        raise ValueError(f"expected int64 codes [N] and a depth of 1..20, got {codes.dtype} {codes.shape}, {depth}")
    if len(codes) and not (codes[0] >= 0 and codes[-1] >> (3 * depth) == 0 and (codes[1:] > codes[:-1]).all()):
        raise ValueError(f"codes must rise within a cube of depth {depth}, without repeats")
