"""Pack chart outlines into a square without overlap.

An outline is a bitmap of blocks, kept as runs of its rows. Charts are placed one after the other, largest first, at the
lowest and then leftmost free place in the best of four quarter turns; small ones find the holes of large ones. Free
places of a row are found for all columns at once with bit operations, so a placement costs about the rows of the atlas.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

_THOROUGH = 48  # so many charts look for a place from the bottom, later ones where others of their size got to
_HEADROOM = 2  # a strip may grow this many times higher than wide before packing gives up


@dataclass(frozen=True)
class Packing:
    """Where charts go, in blocks of the strip: local block (x, y) after the quarter turns moves by the offset."""

    offset: np.ndarray  # int32 [C, 2] (x, y)
    turns: np.ndarray  # int32 [C] quarter turns counter-clockwise
    height: int  # blocks used of the strip


@njit(cache=True, nogil=True)
def _outline_bitmaps(
    corners: np.ndarray, chart: np.ndarray, size: np.ndarray, start: np.ndarray, scale: float
) -> np.ndarray:
    """Blocks touched by the triangles of each chart: bool bitmaps [height, width] one after the other."""
    blocks = np.zeros(start[-1], np.bool_)
    for f in range(len(chart)):
        base, width, last_row = start[chart[f]], size[chart[f], 0], size[chart[f], 1] - 1
        low = min(corners[f, 0, 1], corners[f, 1, 1], corners[f, 2, 1]) * scale
        high = max(corners[f, 0, 1], corners[f, 1, 1], corners[f, 2, 1]) * scale
        for r in range(int(low), min(int(high), last_row) + 1):
            left, right = 1e30, -1.0
            for c in range(3):
                y0, x0 = corners[f, c, 1] * scale, corners[f, c, 0] * scale
                y1, x1 = corners[f, (c + 1) % 3, 1] * scale, corners[f, (c + 1) % 3, 0] * scale
                if y1 < y0:
                    y0, x0, y1, x1 = y1, x1, y0, x0
                if y1 < r or y0 > r + 1.0:
                    continue
                if y1 - y0 > 1e-9:
                    slope = (x1 - x0) / (y1 - y0)
                    enter, leave = x0 + slope * (max(y0, float(r)) - y0), x0 + slope * (min(y1, r + 1.0) - y0)
                else:
                    enter, leave = x0, x1
                left, right = min(left, enter, leave), max(right, enter, leave)
            for x in range(max(int(left), 0), min(int(right), width - 1) + 1):
                blocks[base + r * width + x] = True
    return blocks


@njit(cache=True, nogil=True)
def _turned(bitmap: np.ndarray, turns: int) -> np.ndarray:
    """The bitmap [height, width] after quarter turns (x, y) -> (height - 1 - y, x)."""
    height, width = bitmap.shape
    out = np.empty((width, height) if turns % 2 else (height, width), np.bool_)
    for y in range(height):
        for x in range(width):
            if turns == 0:
                out[y, x] = bitmap[y, x]
            elif turns == 1:
                out[x, height - 1 - y] = bitmap[y, x]
            elif turns == 2:
                out[height - 1 - y, width - 1 - x] = bitmap[y, x]
            else:
                out[width - 1 - x, y] = bitmap[y, x]
    return out


@njit(cache=True, nogil=True)
def _widened(bitmap: np.ndarray, gap: int) -> np.ndarray:
    """The bitmap grown by a square of `gap` blocks on all sides; its frame grows with it."""
    height, width = bitmap.shape
    rows = np.zeros((height, width + 2 * gap), np.bool_)
    for y in range(height):
        reach = -1
        for x in range(width + 2 * gap):
            if x < width and bitmap[y, x]:
                reach = x + 2 * gap
            rows[y, x] = x <= reach
    out = np.zeros((height + 2 * gap, width + 2 * gap), np.bool_)
    for x in range(width + 2 * gap):
        reach = -1
        for y in range(height + 2 * gap):
            if y < height and rows[y, x]:
                reach = y + 2 * gap
            out[y, x] = y <= reach
    return out


@njit(cache=True, nogil=True)
def _runs(bitmap: np.ndarray) -> np.ndarray:
    """Runs of set blocks, int64 [n, 3] (row, first, length), longest first."""
    height, width = bitmap.shape
    count = 0
    for y in range(height):
        for x in range(width):
            if bitmap[y, x] and (x == 0 or not bitmap[y, x - 1]):
                count += 1
    found, of_length = np.empty((count, 3), np.int64), np.zeros(width + 2, np.int64)
    count = 0
    for y in range(height):
        for x in range(width):
            if not bitmap[y, x]:
                continue
            if x == 0 or not bitmap[y, x - 1]:
                found[count, 0], found[count, 1], found[count, 2] = y, x, 0
                count += 1
            found[count - 1, 2] += 1
    for k in range(count):  # counting sort by length, longest first
        of_length[width - found[k, 2] + 1] += 1
    for k in range(width + 1):
        of_length[k + 1] += of_length[k]
    runs = np.empty((count, 3), np.int64)
    for k in range(count):
        place = of_length[width - found[k, 2]]
        of_length[width - found[k, 2]] += 1
        runs[place, 0], runs[place, 1], runs[place, 2] = found[k, 0], found[k, 1], found[k, 2]
    return runs


@njit(cache=True, nogil=True)
def _shift_down(source: np.ndarray, amount: int, out: np.ndarray) -> None:
    """out bit x = source bit x + amount (0 beyond the end)."""
    words, bits = amount // 64, np.uint64(amount % 64)
    n = len(source)
    for i in range(n):
        value = np.uint64(0)
        if i + words < n:
            value = source[i + words] >> bits
            if bits > 0 and i + words + 1 < n:
                value |= source[i + words + 1] << (np.uint64(64) - bits)
        out[i] = value


@njit(cache=True, nogil=True)
def _starts_of_runs(free: np.ndarray, length: int, run: np.ndarray, shifted: np.ndarray) -> None:
    """run bit x = bits x .. x + length - 1 of `free` are all set."""
    run[:] = free
    have = 1
    while have < length:
        step = min(have, length - have)
        _shift_down(run, step, shifted)
        for i in range(len(run)):
            run[i] &= shifted[i]
        have += step


@njit(cache=True, nogil=True)
def _lowest_bit(words: np.ndarray) -> int:
    for i in range(len(words)):
        if words[i] != 0:
            for b in range(64):
                if (words[i] >> np.uint64(b)) & np.uint64(1):
                    return 64 * i + b
    return -1


@njit(cache=True, nogil=True)
def _longest_run(free: np.ndarray, width: int) -> int:
    best, current = 0, 0
    for x in range(width):
        if (free[x // 64] >> np.uint64(x % 64)) & np.uint64(1):
            current += 1
            best = max(best, current)
        else:
            current = 0
    return best


@njit(cache=True, nogil=True)
def _find_place(free: np.ndarray, longest: np.ndarray, runs: np.ndarray, start: int, last: int) -> tuple[int, int]:
    """Lowest (start <= y <= last, then x) where all runs (row, first, length) are free, or (-1, -1)."""
    words = free.shape[1]
    possible, run, shifted = np.empty(words, np.uint64), np.empty(words, np.uint64), np.empty(words, np.uint64)
    for y in range(start, last + 1):
        fits = True
        for k in range(len(runs)):
            if longest[y + runs[k, 0]] < runs[k, 2]:
                fits = False
                break
        if not fits:
            continue
        possible[:] = ~np.uint64(0)
        for k in range(len(runs)):
            _starts_of_runs(free[y + runs[k, 0]], runs[k, 2], run, shifted)
            _shift_down(run, runs[k, 1], shifted)
            any_left = np.uint64(0)
            for i in range(words):
                possible[i] &= shifted[i]
                any_left |= possible[i]
            if any_left == 0:
                fits = False
                break
        if fits:
            return y, _lowest_bit(possible)
    return -1, -1


@njit(cache=True, nogil=True)
def _place_all(
    blocks: np.ndarray, size: np.ndarray, start: np.ndarray, order: np.ndarray, side: int, gap: int, limit: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Offsets, turns and used height; height -1 if a chart found no place below `limit`."""
    padded = side + 2 * gap
    words = (padded + 63) // 64
    free = np.full((limit + 2 * gap, words), ~np.uint64(0), np.uint64)
    if padded % 64:
        free[:, words - 1] = (np.uint64(1) << np.uint64(padded % 64)) - np.uint64(1)
    longest = np.full(limit + 2 * gap, padded, np.int64)
    offset, turns = np.zeros((len(order), 2), np.int32), np.zeros(len(order), np.int32)
    passed = np.zeros((64, 4), np.int64)  # where charts of about this size found no place below
    used = 0
    for rank in range(len(order)):
        chart = order[rank]
        bitmap = blocks[start[chart] : start[chart + 1]].reshape(size[chart, 1], size[chart, 0])
        best_top, best_x, best_y, best_turn = limit + 1, 0, -1, 0
        kind = int(4.0 * np.log2(bitmap.size + 1.0)) % 64
        for turn in range(4):
            wide = _widened(_turned(bitmap, turn), gap)
            rows = wide.shape[0] - 2 * gap
            low = passed[kind, turn] if rank >= _THOROUGH else 0
            y, x = _find_place(free, longest, _runs(wide), low, best_top - 1 - rows)
            passed[kind, turn] = max(y, low) if y >= 0 else max(low, best_top - rows)
            if y >= 0:
                best_top, best_x, best_y, best_turn = y + rows, x, y, turn
        if best_y < 0:
            return offset, turns, -1
        runs = _runs(_turned(bitmap, best_turn))
        for k in range(len(runs)):
            row, first = best_y + gap + runs[k, 0], best_x + gap + runs[k, 1]
            for x in range(first, first + runs[k, 2]):
                free[row, x // 64] &= ~(np.uint64(1) << np.uint64(x % 64))
        for row in range(best_y + gap, best_top + gap):
            longest[row] = _longest_run(free[row], padded)
        offset[chart, 0], offset[chart, 1], turns[chart] = best_x, best_y, best_turn
        used = max(used, best_top)
    return offset, turns, used


def chart_extent(corners: np.ndarray, chart: np.ndarray) -> np.ndarray:
    """Width and height of each chart, float64 [C, 2], from chart-local corners [F, 3, 2] that start at 0."""
    extent = np.zeros((int(chart.max()) + 1, 2))
    np.maximum.at(extent, chart, corners.max(axis=1))
    return extent


def pack(corners: np.ndarray, chart: np.ndarray, *, scale: float, side: int, gap: int) -> Packing | None:
    """Place charts on a strip `side` blocks wide, at least `gap` blocks between any two; None if it gets far too high.

    corners float64 [F, 3, 2]: chart-local positions, each chart's least x and y are 0; times `scale` they are blocks.
    """
    size = (chart_extent(corners, chart) * scale).astype(np.int64) + 1
    if size.max() > side * _HEADROOM or size.min(axis=1).max() > side:
        return None
    start = np.concatenate([[0], np.cumsum(size.prod(axis=1))])
    blocks = _outline_bitmaps(corners, chart, size, start, scale)
    order = np.lexsort((np.arange(len(size)), -size.min(axis=1), -size.max(axis=1)))
    offset, turns, used = _place_all(blocks, size, start, order, side, gap, side * _HEADROOM)
    return None if used < 0 else Packing(offset, turns, used)
