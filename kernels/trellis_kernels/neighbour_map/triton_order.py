"""Rows with like neighbourhoods put together: masks, a stable sort of their codes, then the table and the lists.

Few rows are sorted by counting, in one launch with all the rest. They are dealt to units, runs of rows of one part; a
unit counts its rows of each digit, and knows where they belong when all units have counted theirs. The result does
not depend on timing. Many rows are sorted by torch, between two kernels.
"""

import torch
import triton
import triton.language as tl

from trellis_kernels.choice import on_device
from trellis_kernels.launch import programs
from trellis_kernels.neighbour_map.reference import LIST, code_bits
from trellis_kernels.neighbour_map.triton import SMALL, either, store_list
from trellis_kernels.triton_barrier import ALL_AT_ONCE, resident_programs, wait_for_all

TILE = 128  # rows sorted at a time
UNITS = 256
LEAST_DIGIT, MOST_DIGIT = 5, 9  # bits of a code that one pass sorts by; a warp counts 32 digits at least
COLUMNS = tl.constexpr(32)  # rows that TILE rows are compared with at a time
COUNTS = tl.constexpr(4096)  # of digits in histograms that are added up at a time


@triton.jit
def code_of(mask, PLACES: tl.constexpr):
    """What the bits at PLACES of masks, the lowest first, stand for as a Gray code word."""
    code = mask & 0
    for k in tl.static_range(len(PLACES)):
        code |= ((mask >> PLACES[k]) & 1) << k
    for k in tl.static_range(5):
        code ^= code >> (1 << k)
    return code


@triton.jit
def first_places(histograms, unit, units, BINS: tl.constexpr):
    """Where the rows of each digit begin for a unit, one of its part's; histograms int32 [G * units, BINS]."""
    CHUNK: tl.constexpr = COUNTS // BINS
    chunk = tl.arange(0, CHUNK)[:, None]
    first = unit // units * units
    total = tl.zeros((BINS,), tl.int32)
    before = tl.zeros((BINS,), tl.int32)
    for start in range(0, units, CHUNK):
        at = (first + start + chunk) * BINS + tl.arange(0, BINS)[None, :]
        found = tl.load(histograms + at, mask=start + chunk < units, other=0)
        total += tl.sum(found, axis=0)
        before += tl.sum(tl.where(first + start + chunk < unit, found, 0), axis=0)
    return tl.cumsum(total, axis=0) - total + before


@triton.jit
def earlier_alike(codes, digit, begin, end, SHIFT: tl.constexpr, BINS: tl.constexpr, TILE: tl.constexpr):
    """How many rows of the tile at `begin` come before each and have its digit."""
    own = begin + tl.arange(0, TILE)[:, None]
    rank = tl.zeros((TILE,), tl.int32)
    for start in range(begin, begin + TILE, COLUMNS):
        other = start + tl.arange(0, COLUMNS)[None, :]
        theirs = (tl.load(codes + other, mask=other < end, other=0) >> SHIFT) & (BINS - 1)
        rank += tl.sum(((other < own) & (theirs == digit[:, None])).to(tl.int32), axis=1)
    return rank


@triton.jit
def row_codes(neighbours, i, end, part, VOLUME: tl.constexpr, PART: tl.constexpr, PLACES: tl.constexpr):
    """Masks of rows i below `end` in a part, whose offsets have the bits from 0 on here, and their codes."""
    PAD: tl.constexpr = triton.next_power_of_2(PART)
    v = tl.arange(0, PAD)
    inside = (i < end)[:, None] & (v < PART)[None, :]
    at = i.to(tl.int64)[:, None] * VOLUME + (part * PART + v)[None, :]
    row = tl.load(neighbours + at, mask=inside, other=-1)
    mask = tl.sum(tl.where(row >= 0, 1 << v[None, :], 0), axis=1)
    return mask, code_of(mask, PLACES)


@triton.jit
def store_block(
    neighbours, source, found, masks, table, offsets, counts, part, number, count, stride,
    VOLUME: tl.constexpr, PART: tl.constexpr, LIST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The columns of a block of rows `source` int64 [BLOCK] in a part's order, and what the block visits."""
    PAD: tl.constexpr = triton.next_power_of_2(PART)
    c = number * BLOCK + tl.arange(0, BLOCK)
    base = count.to(tl.int64) * part
    mask = tl.load(found + base + source, mask=c < count, other=0)
    tl.store(masks + base + c, mask, mask=c < count)
    blocks = tl.cdiv(count, BLOCK)
    if number < blocks:
        store_list(tl.reduce(mask, 0, either), offsets, counts, part * blocks + number, LIST)
    v = tl.arange(0, PAD)
    own = part * PART + v
    inside = (c < count)[:, None] & (v < PART)[None, :]
    row = tl.load(neighbours + source[:, None] * VOLUME + own[None, :], mask=inside, other=-1)
    place = table + own[:, None].to(tl.int64) * stride + c[None, :]
    tl.store(place, tl.trans(row), mask=(v < PART)[:, None])


@triton.jit(do_not_specialize=["count", "stride", "units", "run"])
def order_kernel(
    neighbours, order, masks, table, offsets, counts, scratch, count, stride, units, run,
    VOLUME: tl.constexpr, PARTS: tl.constexpr, PLACES: tl.constexpr, PASSES: tl.constexpr, BINS: tl.constexpr,
    DIGIT: tl.constexpr, LIST: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """neighbours int32 [N, VOLUME] -> an `OrderedMap`, all programs at once.

    A part has `units` units of `run` rows. scratch int32, zeros: one number for the barrier; masks [PARTS, N]; then for
    each pass histograms [PARTS * units, BINS], codes and rows [PARTS, N].
    """
    PART: tl.constexpr = VOLUME // PARTS
    everyone = tl.num_programs(0)
    size = count.to(tl.int64) * PARTS
    found = scratch + 1
    histograms = found + size
    codes = histograms + PARTS * units * BINS
    each = 2 * size + PARTS * units * BINS
    lane = tl.arange(0, TILE)
    bins = tl.arange(0, BINS)
    for unit in range(tl.program_id(0), PARTS * units, everyone):
        part = unit // units
        begin = unit % units * run
        end = tl.minimum(begin + run, count)
        base = count.to(tl.int64) * part
        histogram = tl.zeros((BINS,), tl.int32)
        for start in range(begin, end, TILE):
            i = start + lane
            mask, code = row_codes(neighbours, i, end, part, VOLUME, PART, PLACES)
            tl.store(found + base + i, mask << (part * PART), mask=i < end)
            tl.store(codes + base + i, code, mask=i < end)
            histogram += tl.histogram(code & (BINS - 1), BINS, mask=i < end)
        tl.store(histograms + unit * BINS + bins, histogram)
    for turn in tl.static_range(PASSES):
        wait_for_all(scratch, everyone * (turn + 1))
        for unit in range(tl.program_id(0), PARTS * units, everyone):
            part = unit // units
            begin = unit % units * run
            end = tl.minimum(begin + run, count)
            base = count.to(tl.int64) * part
            own = codes + turn * each + base
            places = first_places(histograms + turn * each, unit, units, BINS)
            for start in range(begin, end, TILE):
                i = start + lane
                inside = i < end
                code = tl.load(own + i, mask=inside, other=0)
                digit = (code >> (turn * DIGIT)) & (BINS - 1)
                place = tl.gather(places, digit, 0) + earlier_alike(own, digit, start, end, turn * DIGIT, BINS, TILE)
                places += tl.histogram(digit, BINS, mask=inside)
                row = i
                if turn > 0:
                    row = tl.load(own + size + i, mask=inside, other=0)
                if turn == PASSES - 1:
                    tl.store(order + base + place, row, mask=inside)
                else:
                    tl.store(own + each + place, code, mask=inside)
                    tl.store(own + each + size + place, row, mask=inside)
                    later = (place // run + part * units) * BINS + ((code >> DIGIT) & (BINS - 1))
                    tl.atomic_add(histograms + each + later, 1, mask=inside, sem="relaxed")
    wait_for_all(scratch, everyone * (PASSES + 1))
    for block in range(tl.program_id(0), PARTS * (stride // BLOCK), everyone):
        part = block // (stride // BLOCK)
        number = block % (stride // BLOCK)
        c = number * BLOCK + tl.arange(0, BLOCK)
        source = tl.load(order + count.to(tl.int64) * part + c, mask=c < count, other=0).to(tl.int64)
        store_block(
            neighbours, source, found, masks, table, offsets, counts, part, number, count, stride,
            VOLUME, PART, LIST, BLOCK,
        )  # fmt: skip


@triton.jit(do_not_specialize=["count"])
def codes_kernel(
    neighbours, found, codes, count,
    VOLUME: tl.constexpr, PARTS: tl.constexpr, PLACES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """neighbours int32 [N, VOLUME] -> masks int32 and codes int16 [PARTS, N], a part's above the last one's."""
    part = tl.program_id(1)
    i = tl.program_id(0) * TILE + tl.arange(0, TILE)
    mask, code = row_codes(neighbours, i, count, part, VOLUME, VOLUME // PARTS, PLACES)
    at = count.to(tl.int64) * part + i
    tl.store(found + at, mask << (part * (VOLUME // PARTS)), mask=i < count)
    tl.store(codes + at, ((part << len(PLACES)) + code - 32768).to(tl.int16), mask=i < count)


@triton.jit(do_not_specialize=["count"])
def table_kernel(
    neighbours, indices, found, order, masks, table, offsets, counts, count, stride,
    VOLUME: tl.constexpr, PART: tl.constexpr, LIST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """indices int64 [G, N], row + part * N, and the masks by row, int32 [G, N] -> an `OrderedMap`."""
    number, part = tl.program_id(0), tl.program_id(1)
    c = number * BLOCK + tl.arange(0, BLOCK)
    base = count.to(tl.int64) * part
    source = tl.load(indices + base + c, mask=c < count, other=0) - base
    tl.store(order + base + c, source.to(tl.int32), mask=c < count)
    store_block(
        neighbours, source, found, masks, table, offsets, counts, part, number, count, stride, VOLUME, PART, LIST, BLOCK
    )


def order_rows(neighbours: torch.Tensor, parts: int, columns: int, block: int) -> tuple[torch.Tensor, ...]:
    """int32 [N, V] -> table, order, masks, offsets and counts of an `OrderedMap`; up to SMALL rows in one launch."""
    (count, volume), device = neighbours.shape, neighbours.device
    blocks = programs(count, block)
    shapes = ((volume, columns), (parts, count), (parts, count), (parts * blocks, LIST), (parts * blocks,))
    table, order, masks, offsets, counts = made = tuple(
        torch.empty(shape, dtype=torch.int32, device=device) for shape in shapes
    )
    constants = dict(VOLUME=volume, LIST=LIST, BLOCK=block)
    if count > SMALL:
        indices, found = sorted_rows(neighbours, parts)
        with on_device(device):
            table_kernel[(columns // block, parts)](
                neighbours, indices, found, order, masks, table, offsets, counts, count, columns,
                PART=volume // parts, **constants,
            )  # fmt: skip
    elif count:
        bits = code_bits(volume // parts)
        passes = 1 if len(bits) <= MOST_DIGIT else 2
        digit = max(LEAST_DIGIT, programs(len(bits), passes))
        run = TILE * programs(count, TILE * max(1, UNITS // parts))
        units = programs(count, run)
        size = 1 + parts * (count + passes * (2 * count + (units << digit)))
        scratch = torch.zeros(size, dtype=torch.int32, device=device)
        with on_device(device):
            order_kernel[(min(resident_programs(device), parts * max(units, columns // block)),)](
                neighbours, order, masks, table, offsets, counts, scratch, count, columns, units, run, PARTS=parts,
                PLACES=bits, PASSES=passes, BINS=1 << digit, DIGIT=digit, TILE=TILE, **constants, **ALL_AT_ONCE,
            )  # fmt: skip
    return made


def sorted_rows(neighbours: torch.Tensor, parts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """int32 [N, V] -> by code int64 [G, N] rows, to which part * N is added, and by row int32 [G, N] masks."""
    (count, volume), device = neighbours.shape, neighbours.device
    found = torch.empty((parts, count), dtype=torch.int32, device=device)
    codes = torch.empty((parts, count), dtype=torch.int16, device=device)
    with on_device(device):
        codes_kernel[(programs(count, TILE), parts)](
            neighbours, found, codes, count, VOLUME=volume, PARTS=parts, PLACES=code_bits(volume // parts), TILE=TILE
        )
    return torch.sort(codes.flatten(), stable=True).indices.view(parts, count), found
