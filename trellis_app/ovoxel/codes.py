"""Space-filling curves: voxels as numbers along the Z-order (Morton) or the Hilbert curve.

Both take `bits` bits of each coordinate; the most significant bit triple comes first and x is its highest bit.
`bits=10` gives the codes of the O-Voxel files; codes of up to 16 bits a side with a batch fit in 64 bits as well.
"""

from __future__ import annotations

import numpy as np
from trellis_kernels.voxel_octree.op import morton, unmorton

AXES = (0, 1, 2)


def z_order(coords: np.ndarray, bits: int = 10, *, axes: tuple[int, int, int] = AXES) -> np.ndarray:
    """Morton codes int64 [N] of int coordinates [N, 3] in [0, 2^bits); axes: coordinate read as x, y, z.

    Raises ValueError for coordinates outside the range or more than 21 bits.
    """
    return morton(checked(coords, bits)[:, axes])


def z_order_coords(codes: np.ndarray, *, axes: tuple[int, int, int] = AXES) -> np.ndarray:
    """Coordinates int32 [N, 3] of Morton codes [N]: the inverse of `z_order`."""
    return restored(unmorton(codes), axes)


def hilbert(coords: np.ndarray, bits: int = 10, *, axes: tuple[int, int, int] = AXES) -> np.ndarray:
    """Hilbert codes int64 [N]; voxels with consecutive codes share a face. Arguments as in `z_order`.

    Skilling, Programming the Hilbert curve (2004): coordinates to transpose, then interleaved.
    """
    x = checked(coords, bits)[:, axes].copy()
    q = 1 << (bits - 1)
    while q > 1:
        for i in range(3):
            undo_excess(x, i, q)
        q >>= 1
    x[:, 1] ^= x[:, 0]
    x[:, 2] ^= x[:, 1]
    t = np.zeros(len(x), np.int64)
    q = 1 << (bits - 1)
    while q > 1:
        t[(x[:, 2] & q) != 0] ^= q - 1
        q >>= 1
    return morton(x ^ t[:, None])


def hilbert_coords(codes: np.ndarray, bits: int = 10, *, axes: tuple[int, int, int] = AXES) -> np.ndarray:
    """Coordinates int32 [N, 3] of Hilbert codes [N]: the inverse of `hilbert`."""
    x = unmorton(codes).astype(np.int64)
    t = x[:, 2] >> 1
    x[:, 2] ^= x[:, 1]
    x[:, 1] ^= x[:, 0]
    x[:, 0] ^= t
    q = 2
    while q < 1 << bits:
        for i in (2, 1, 0):
            undo_excess(x, i, q)
        q <<= 1
    return restored(x, axes)


def with_batch(codes: np.ndarray, batch: np.ndarray, bits: int) -> np.ndarray:
    """Codes int64 [N] with the batch item [N] in the bits above the curve's."""
    return codes | (batch.astype(np.int64) << (3 * bits))


def undo_excess(x: np.ndarray, i: int, q: int) -> None:
    """One reflection or exchange of the Hilbert transform, for bit q of axis i, in place on [N, 3]."""
    reflected = (x[:, i] & q) != 0
    swap = np.where(reflected, 0, (x[:, 0] ^ x[:, i]) & (q - 1))
    x[:, 0] ^= np.where(reflected, q - 1, swap)
    x[:, i] ^= swap


def checked(coords: np.ndarray, bits: int) -> np.ndarray:
    """Coordinates as int64 [N, 3], or ValueError."""
    if not 1 <= bits <= 21:
        raise ValueError(f"bits is {bits}; codes of three coordinates hold 1..21 bits each")
    if len(coords) and not 0 <= coords.min() <= coords.max() < 1 << bits:
        raise ValueError(f"coordinates {coords.min()}..{coords.max()} do not fit {bits} bits")
    return coords.astype(np.int64).reshape(-1, 3)


def restored(x: np.ndarray, axes: tuple[int, int, int]) -> np.ndarray:
    """Undo the reordering of axes."""
    coords = np.empty((len(x), 3), np.int32)
    coords[:, axes] = x
    return coords
