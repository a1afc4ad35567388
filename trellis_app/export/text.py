"""Tables of numbers as text, fast: the rows of OBJ files and of 3MF's XML."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from trellis_app.parallel import in_parallel
from trellis_app.progress import Check, go_on

_ROWS = 1 << 15  # a piece of work
_LONGEST = 22  # characters of a number at most, with sign and point


@njit(cache=True, nogil=True)
def _write(values: np.ndarray, decimals: int, between: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Bytes of all rows: piece 0, number 0, piece 1, .. piece K, where piece k is between[ends[k] : ends[k + 1]]."""
    count, columns = values.shape
    out = np.empty(count * (len(between) + columns * _LONGEST), np.uint8)
    digits = np.empty(_LONGEST, np.uint8)
    at = 0
    for row in range(count):
        for k in range(columns + 1):
            for i in range(ends[k], ends[k + 1]):
                out[at] = between[i]
                at += 1
            if k == columns:
                continue
            value = values[row, k]
            if value < 0:
                out[at] = 45
                at += 1
                value = -value
            length = 0
            while value > 0 or length <= decimals:
                digits[length] = 48 + value % 10
                value //= 10
                length += 1
            for i in range(length - 1, -1, -1):
                out[at] = digits[i]
                at += 1
                if decimals > 0 and i == decimals:
                    out[at] = 46
                    at += 1
    return out[:at].copy()


def text_rows(values: np.ndarray, pieces: Sequence[str], *, decimals: int = 0, check: Check = go_on) -> list[bytes]:
    """One line of text a row of numbers [N, K], made of K + 1 pieces with the numbers between them, ASCII.

    Numbers are rounded to `decimals` (0 to 9) places, so that the same numbers give the same text everywhere.
    """
    scaled = np.rint(values * 10.0**decimals).astype(np.int64) if decimals else values.astype(np.int64)
    encoded = [piece.encode("ascii") for piece in pieces]
    ends = np.cumsum([0, *map(len, encoded)])
    between = np.frombuffer(b"".join(encoded), np.uint8)
    bands = [scaled[first : first + _ROWS] for first in range(0, len(scaled), _ROWS)]
    return in_parallel(lambda band: _write(band, decimals, between, ends).tobytes(), bands, check)
