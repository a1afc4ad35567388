"""Pack chart outlines into a square without overlap.

An outline is a bitmap of blocks, a row of it a few machine words. Charts are placed one after the other, largest first,
at the lowest and then leftmost free place in the best of four quarter turns; small ones find the holes of large ones.
Several sides of the square are tried at once, on all cores; the smallest that holds everything wins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from trellis_app.mesh.flat_charts import FlatCharts
from trellis_app.progress import Check, go_on

_THOROUGH = 24  # so many charts look for a place from the bottom, later ones where others of their size got to
_CLASSES = 24  # size classes along each side
MANY = 300  # charts; so many fill every hole, fewer depend on the order in which they come
_MANY_RATIO, _FEW_RATIO, _STEP = 1.03, 1.16, 0.02  # sides tried first, in parts of the least one that could do
_CLOSE_RATIO, _CLOSE_STEP = 1.05, 0.01  # the same of close packing
_SMALL = (6.0, 24.0)  # texels; charts not larger than these keep a quarter and a half of the margin


@dataclass(frozen=True)
class Packing:
    """Where charts go, in blocks: local block (x, y) after the quarter turns moves by the offset."""

    offset: np.ndarray  # int32 [C, 2] (x, y)
    turns: np.ndarray  # int32 [C] quarter turns counter-clockwise
    side: int  # blocks along the square


@dataclass(frozen=True)
class Masks:
    """Outlines of the charts in their four quarter turns as bit rows, one after the other."""

    size: np.ndarray  # int32 [C, 2] width and height in blocks, unturned
    start: np.ndarray  # int64 [C, 4] first word of each
    words: np.ndarray  # uint64
    longest: np.ndarray  # int64 [C, 4, 3] row, first bit and length of the longest run of each
    orders: np.ndarray  # int64 [O, C] large ones first, by their longer side, their area, their rim
    solid: np.ndarray  # int64 [C] blocks of each outline
    rim: np.ndarray  # int64 [C] sides of blocks along its border


@njit(cache=True, nogil=True)
def _outline(corners: np.ndarray, faces: np.ndarray, width: int, height: int, scale: float) -> np.ndarray:
    """Blocks touched by the triangles of a chart, bool [height, width]."""
    blocks = np.zeros((height, width), np.bool_)
    for f in faces:
        low = min(corners[f, 0, 1], corners[f, 1, 1], corners[f, 2, 1]) * scale
        high = max(corners[f, 0, 1], corners[f, 1, 1], corners[f, 2, 1]) * scale
        for r in range(int(low), min(int(high), height - 1) + 1):
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
                blocks[r, x] = True
    return blocks


@njit(cache=True, nogil=True)
def _bit_rows(blocks: np.ndarray, first: np.ndarray, words: np.ndarray) -> tuple[int, int]:
    """A bitmap as bit rows of its four turns; a quarter turn moves (x, y) to (height - 1 - y, x).

    Returns the set blocks and the sides along their border.
    """
    height, width = blocks.shape
    across, down, solid, rim = (width + 63) // 64, (height + 63) // 64, 0, 0
    for y in range(height):
        for x in range(width):
            if not blocks[y, x]:
                continue
            u, v = width - 1 - x, height - 1 - y
            solid += 1
            rim += 2 * (x == 0 or not blocks[y, x - 1]) + 2 * (y == 0 or not blocks[y - 1, x])
            words[first[0] + y * across + x // 64] |= np.uint64(1) << np.uint64(x % 64)
            words[first[1] + x * down + v // 64] |= np.uint64(1) << np.uint64(v % 64)
            words[first[2] + v * across + u // 64] |= np.uint64(1) << np.uint64(u % 64)
            words[first[3] + u * down + y // 64] |= np.uint64(1) << np.uint64(y % 64)
    return solid, rim


@njit(cache=True, nogil=True)
def _longest_row(words: np.ndarray, first: int, rows: int, width: int) -> tuple[int, int, int]:
    """(row, first bit, length) of the longest run of set bits of an outline."""
    best_row, best_first, best = 0, 0, 0
    across = (width + 63) // 64
    for r in range(rows):
        run = 0
        for x in range(width):
            if (words[first + r * across + x // 64] >> np.uint64(x % 64)) & np.uint64(1):
                run += 1
                if run > best:
                    best_row, best_first, best = r, x - run + 1, run
            else:
                run = 0
    return best_row, best_first, best


@njit(cache=True, nogil=True, parallel=True)
def _masked(
    corners: np.ndarray, groups: tuple[np.ndarray, np.ndarray], scale: float, size: np.ndarray, first: np.ndarray,
    words: np.ndarray, counts: np.ndarray, longest: np.ndarray,
) -> None:  # fmt: skip
    """Write the bit rows of charts, their longest runs, and counts int64 [C, 2]: blocks, and sides along the border."""
    start, member = groups
    jobs = 64
    for job in prange(jobs):
        for k in range((job * 37) % jobs, len(size), jobs):
            width, height = size[k, 0], size[k, 1]
            blocks = _outline(corners, member[start[k] : start[k + 1]], width, height, scale)
            counts[k, 0], counts[k, 1] = _bit_rows(blocks, first[k], words)
            for turn in range(2):
                wide, rows = size[k, turn], size[k, 1 - turn]
                row, begin, length = _longest_row(words, first[k, turn], rows, wide)
                longest[k, turn, 0], longest[k, turn, 1], longest[k, turn, 2] = row, begin, length
                longest[k, turn + 2, 0], longest[k, turn + 2, 1] = rows - 1 - row, wide - begin - length
                longest[k, turn + 2, 2] = length


def outline_masks(flat: FlatCharts, scale: float) -> Masks:
    """Outlines of charts; `scale` makes blocks of world units."""
    size = (flat.extent * scale).astype(np.int64) + 1
    rows = np.stack([size[:, 1], size[:, 0]] * 2, axis=1)
    across = (np.stack([size[:, 0], size[:, 1]] * 2, axis=1) + 63) // 64
    first = np.concatenate([[0], np.cumsum((rows * across).reshape(-1))])
    words, begins = np.zeros(first[-1], np.uint64), first[:-1].reshape(-1, 4)
    counts, longest = np.zeros((len(size), 2), np.int64), np.zeros((len(size), 4, 3), np.int64)
    _masked(flat.corners, (flat.start, flat.member), scale, size, begins, words, counts, longest)
    solid, rim = np.ascontiguousarray(counts.T)
    keys = (-size.max(axis=1) * 2**20 - size.min(axis=1), -solid, -rim)
    orders = np.stack([np.argsort(key, kind="stable") for key in keys])
    return Masks(size, begins, words, longest, orders, solid, rim)


@njit(cache=True, nogil=True)
def _free_runs(free: np.ndarray, length: int, out: np.ndarray) -> bool:
    """out bit x = bits x .. x + length - 1 of `free` are all set; whether there is any such bit."""
    n = len(free)
    out[:] = free
    have = 1
    while have < length:
        step = min(have, length - have)
        words, bits = step // 64, np.uint64(step % 64)
        for i in range(n):  # rising: the words read are not written yet
            value = np.uint64(0)
            if i + words < n:
                value = out[i + words] >> bits
                if bits > 0 and i + words + 1 < n:
                    value |= out[i + words + 1] << (np.uint64(64) - bits)
            out[i] &= value
        have += step
    left = np.uint64(0)
    for i in range(n):
        left |= out[i]
    return left != 0


@njit(cache=True, nogil=True)
def _meets(free: np.ndarray, words: np.ndarray, first: int, across: int, x: int, y: int) -> bool:
    """Whether a row of an outline, its words from `first` on, covers a block that is not free at (x, y)."""
    shift, bits = x // 64, np.uint64(x % 64)
    for i in range(across):
        value = words[first + i]
        if value == 0:
            continue
        if ((value << bits) & ~free[y, shift + i]) != 0:
            return True
        if bits > 0 and (value >> (np.uint64(64) - bits)) & ~free[y, shift + i + 1] != 0:
            return True
    return False


@njit(cache=True, nogil=True)
def _lowest_bit(value: int) -> int:
    """Place of the lowest set bit of a word that has one."""
    place = 0
    for step in (32, 16, 8, 4, 2, 1):
        if value & ((np.uint64(1) << np.uint64(step)) - np.uint64(1)) == 0:
            value >>= np.uint64(step)
            place += step
    return place


@njit(cache=True, nogil=True)
def _find_place(
    free: np.ndarray, words: np.ndarray, first: int, shape: tuple[int, int], key: np.ndarray,
    rise: tuple[int, int], side: int, rows_known: tuple[np.ndarray, np.ndarray],
) -> tuple[int, int]:  # fmt: skip
    """Lowest (y within the inclusive `rise`, then x) where an outline of `shape` (rows, width) fits, or (-1, -1).

    key (row, first bit, length) is its longest run: where that fits, the rest is tried, from the row on that was in the
    way at the place before. rows_known: room for a row, and int64 [side] no row has a longer free run than so much.
    """
    rows, width = shape
    runs, widest = rows_known
    across, hindrance = (width + 63) // 64, 0
    for y in range(rise[0], rise[1] + 1):
        row = y + key[0]
        if widest[row] < key[2]:
            continue
        if not _free_runs(free[row, : len(runs)], key[2], runs):
            widest[row] = key[2] - 1
            continue
        for i in range(len(runs)):
            value = runs[i]
            while value != 0:
                x = 64 * i + _lowest_bit(value) - key[1]
                value &= value - np.uint64(1)
                if x < 0 or x + width > side:
                    continue
                tried = 0
                while tried < rows and not _meets(free, words, first + hindrance * across, across, x, y + hindrance):
                    tried += 1
                    hindrance = hindrance + 1 if hindrance + 1 < rows else 0
                if tried == rows:
                    return y, x
    return -1, -1


@njit(cache=True, nogil=True)
def _occupy(
    free: np.ndarray, words: np.ndarray, first: int, shape: tuple[int, int], x: int, y: int, gap: int, side: int
) -> None:
    """Take the blocks of an outline at (x, y) and those nearer than `gap` to it."""
    rows, width = shape
    across = (width + 63) // 64
    for r in range(rows):
        begin = -1
        for c in range(width + 1):
            covered = c < width and (words[first + r * across + c // 64] >> np.uint64(c % 64)) & np.uint64(1)
            if covered and begin < 0:
                begin = c
            if not covered and begin >= 0:
                left, right = max(x + begin - gap, 0), min(x + c + gap, side)
                for row in range(max(y + r - gap, 0), min(y + r + gap + 1, side)):
                    for i in range(left // 64, (right + 63) // 64):
                        bits = ~np.uint64(0)
                        if 64 * i < left:
                            bits &= ~np.uint64(0) << np.uint64(left - 64 * i)
                        if right < 64 * i + 64:
                            bits &= ~(~np.uint64(0) << np.uint64(right - 64 * i))
                        free[row, i] &= ~bits
                begin = -1


@njit(cache=True, nogil=True)
def _fill_square(
    size: np.ndarray, start: np.ndarray, words: np.ndarray, keys: np.ndarray, order: np.ndarray, side: int,
    gaps: np.ndarray, place: np.ndarray,
) -> bool:  # fmt: skip
    """Place every chart in a square; place int32 [C, 3] gets (x, y, turns). False where one found no place.

    gaps: blocks between charts, between small and between tiny ones; largest extents of small and of tiny ones.
    """
    across = (side + 63) // 64
    free = np.zeros((side, across + 2), np.uint64)  # two words more, so that shifted rows need no check
    free[:, :across] = ~np.uint64(0)
    if side % 64:
        free[:, across - 1] = ~(~np.uint64(0) << np.uint64(side % 64))
    runs, widest = np.empty(across, np.uint64), np.full(side, side)
    passed = np.zeros((_CLASSES, _CLASSES), np.int64)  # below these rows charts of such a size found no place
    for rank in range(len(order)):
        k = order[rank]
        if min(size[k, 0], size[k, 1]) > side or max(size[k, 0], size[k, 1]) > side:
            return False
        best_top, best_x, best_y, best_turn = side + 1, 0, -1, 0
        for turn in range(4):
            width, rows = (size[k, 1], size[k, 0]) if turn % 2 else (size[k, 0], size[k, 1])
            if turn >= 2 and width * rows <= 4:
                break
            high_class = min(int(2.5 * np.log2(rows)), _CLASSES - 1)
            wide_class = min(int(2.5 * np.log2(width)), _CLASSES - 1)
            low = passed[high_class, wide_class] if rank >= _THOROUGH else 0
            last = best_top - 1 - rows
            rise, key = (low, last), keys[k, turn]
            y, x = _find_place(free, words, start[k, turn], (rows, width), key, rise, side, (runs, widest))
            passed[high_class, wide_class] = max(y, low) if y >= 0 else max(low, best_top - rows)
            if y >= 0:
                best_top, best_x, best_y, best_turn = y + rows, x, y, turn
        if best_y < 0:
            return False
        width, rows = (size[k, 1], size[k, 0]) if best_turn % 2 else (size[k, 0], size[k, 1])
        extent = max(width, rows)
        gap = gaps[2] if extent <= gaps[4] else (gaps[1] if extent <= gaps[3] else gaps[0])
        _occupy(free, words, start[k, best_turn], (rows, width), best_x, best_y, gap, side)
        place[k, 0], place[k, 1], place[k, 2] = best_x, best_y, best_turn
    return True


@njit(cache=True, nogil=True, parallel=True)
def _fill_squares(
    size: np.ndarray, start: np.ndarray, words: np.ndarray, keys: np.ndarray, orders: np.ndarray, sides: np.ndarray,
    gaps: np.ndarray, places: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """`_fill_square` for several sides and orders [S, C]: which hold everything, bool [S]; places int32 [S, C, 3]."""
    fits = np.zeros(len(sides), np.bool_)
    for s in prange(len(sides)):
        fits[s] = _fill_square(size, start, words, keys, orders[s], sides[s], gaps[s], places[s])
    return fits


def _gaps(side: np.ndarray, texels: int, margin: float) -> np.ndarray:
    """What `_fill_square` wants to know of margins for squares of some sides in blocks, int64 [S, 5]."""
    blocks = side / texels
    gaps = [np.ceil(share * margin * blocks).clip(1) for share in (1.0, 0.5, 0.25)]
    return np.stack([*gaps, *(extent * blocks for extent in reversed(_SMALL))], axis=1).astype(np.int64)


def least_side(masks: Masks, *, texels: int, margin: float) -> float:
    """Side in blocks of a square that outlines and half of the margins around them would fill without any waste."""
    side = np.sqrt(masks.solid.sum())
    extent = masks.size.max(axis=1)
    for _ in range(3):
        gap, small_gap, tiny_gap, small, tiny = _gaps(np.array([side]), texels, margin)[0]
        gaps = np.where(extent <= tiny, tiny_gap, np.where(extent <= small, small_gap, gap))
        side = np.sqrt((masks.solid + 0.5 * gaps * masks.rim).sum())
    return float(side)


def _tried(masks: Masks, sides: np.ndarray, orders: np.ndarray, texels: int, margin: float) -> Packing | None:
    """The best packing into squares of the given sides (blocks), with the order of that number each."""
    places = np.zeros((len(sides), len(masks.size), 3), np.int32)
    gaps = _gaps(sides, texels, margin)
    fits = _fill_squares(
        masks.size, masks.start, masks.words, masks.longest, masks.orders[orders], sides, gaps, places
    )  # fmt: skip
    if not fits.any():
        return None
    best = np.flatnonzero(fits)[np.argmin(sides[fits])]
    return Packing(places[best, :, :2], places[best, :, 2], int(sides[best]))


def pack_closely(masks: Masks, *, texels: int, margin: float, check: Check = go_on) -> Packing:
    """As `pack` for many charts: the least side that holds them to within a hundredth, those of most area first."""
    ideal, order = least_side(masks, texels=texels, margin=margin), np.ones(4, np.int64)
    ratio, step = _CLOSE_RATIO, 4 * _CLOSE_STEP
    found: Packing | None = None
    while found is None:
        check()
        sides = (ideal * (ratio + step * np.arange(4))).astype(np.int64) + 1
        found = _tried(masks, sides, order, texels, margin)
        ratio += 4 * step
        step *= 1.5
    check()
    sides = found.side - (ideal * _CLOSE_STEP * np.arange(1, 4)).astype(np.int64)
    return _tried(masks, sides, order[:3], texels, margin) or found


def pack(masks: Masks, *, texels: int, margin: float, check: Check = go_on) -> Packing:
    """Place all charts in a square whose side stands for `texels`, at least `margin` texels between any two.

    Small charts, which mip levels lose first, keep less of it. Always succeeds: in the end by a larger square, that is
    by smaller charts.
    """
    ideal = least_side(masks, texels=texels, margin=margin)
    many = len(masks.size) >= MANY
    ratio = _MANY_RATIO if many else _FEW_RATIO
    best: Packing | None = None
    while True:
        check()
        wanted = ratio + _STEP * np.arange(4 if many else 2)
        orders = np.zeros(4, np.int64) if many else np.tile(np.arange(3), 2)
        sides = (ideal * (wanted if many else np.repeat(wanted, 3))).astype(np.int64) + 1
        found = _tried(masks, sides, orders, texels, margin)
        if found is None and best is not None:
            return best
        if found is None:
            ratio += (4 if many else 2) * _STEP + 0.1 * (ratio - 1.0)
            continue
        if many or ratio <= 1.0 + _STEP or (best is not None and found.side > sides.min()):
            return found
        best = found
        if found.side > sides.min():
            return best
        ratio -= 2 * _STEP
