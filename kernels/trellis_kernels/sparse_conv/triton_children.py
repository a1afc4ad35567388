"""Children put together by their number and their parents' order, in one launch: see `ChildRows`."""

import torch
import triton
import triton.language as tl

from trellis_kernels.choice import on_device
from trellis_kernels.launch import programs
from trellis_kernels.neighbour_map.reference import LIST
from trellis_kernels.neighbour_map.triton import either, fill, scatter_numbers, store_list
from trellis_kernels.sparse_conv.plan import Blocks, ChildRows, Parts
from trellis_kernels.triton_barrier import ALL_AT_ONCE, resident_programs, wait_for_all

TILE = 256  # parents taken at a time
UNITS = 256
COUNTS = tl.constexpr(64)  # of units added up at a time


@triton.jit
def child_places(counts, unit, units, BLOCK: tl.constexpr):
    """Of the eight child numbers: where a unit's children begin, and where the blocks of rows of each number end.

    counts int32 [G * units, 8]: how many children of each number a unit has.
    """
    number = tl.arange(0, 8)[None, :]
    chunk = tl.arange(0, COUNTS)[:, None]
    first = unit // units * units
    total = tl.zeros((8,), tl.int32)
    before = tl.zeros((8,), tl.int32)
    for start in range(0, units, COUNTS):
        found = tl.load(counts + (first + start + chunk) * 8 + number, mask=start + chunk < units, other=0)
        total += tl.sum(found, axis=0)
        before += tl.sum(tl.where(first + start + chunk < unit, found, 0), axis=0)
    size = (total + BLOCK - 1) // BLOCK * BLOCK
    ends = tl.cumsum(size, axis=0)
    return ends - size + before, ends


@triton.jit(do_not_specialize=["count", "parents", "length", "units", "run"])
def group_kernel(
    slots, order, ordered, target, column, slot, offsets, counts, scratch, counter, count, parents, length, units, run,
    PARTS: tl.constexpr, LIST: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """slots int64 [M], the parts' orders and masks int32 [G, parents] -> `ChildRows`, all programs at once.

    A part has `units` units of `run` parents, and `length` rows of children. scratch int32: the child rows
    [8 * parents], masks [G, length] and counts [G * units, 8]. counter int32 [1] is zero before.
    """
    everyone = tl.num_programs(0)
    masks = scratch + 8 * parents.to(tl.int64)
    size = length.to(tl.int64) * PARTS
    totals = masks + size
    lane = tl.arange(0, TILE)
    number = tl.arange(0, 8)
    fill(scratch, 8 * parents.to(tl.int64), -1, TILE)
    fill(target, size, -1, TILE)
    fill(column, size, 0, TILE)
    fill(masks, size, 0, TILE)
    wait_for_all(counter, everyone)
    scatter_numbers(slots, scratch, count, TILE)
    wait_for_all(counter, 2 * everyone)
    for unit in range(tl.program_id(0), PARTS * units, everyone):
        base = parents.to(tl.int64) * (unit // units)
        end = tl.minimum(unit % units * run + run, parents)
        total = tl.zeros((8,), tl.int32)
        for start in range(unit % units * run, end, TILE):
            parent = tl.load(order + base + start + lane, mask=start + lane < end, other=0).to(tl.int64)
            at = scratch + parent[:, None] * 8 + number[None, :]
            child = tl.load(at, mask=(start + lane < end)[:, None], other=-1)
            total += tl.sum((child >= 0).to(tl.int32), axis=0)
        tl.store(totals + unit * 8 + number, total)
    wait_for_all(counter, 3 * everyone)
    for unit in range(tl.program_id(0), PARTS * units, everyone):
        part = unit // units
        base = parents.to(tl.int64) * part
        end = tl.minimum(unit % units * run + run, parents)
        places, ends = child_places(totals, unit, units, BLOCK)
        places += part * length
        for start in range(unit % units * run, end, TILE):
            c = start + lane
            parent = tl.load(order + base + c, mask=c < end, other=0).to(tl.int64)
            child = tl.load(scratch + parent[:, None] * 8 + number[None, :], mask=(c < end)[:, None], other=-1)
            exists = child >= 0
            rank = tl.cumsum(exists.to(tl.int32), axis=0) - 1
            place = (places[None, :] + rank).to(tl.int64)
            mask = tl.load(ordered + base + c, mask=c < end, other=0)
            tl.store(target + place, child, mask=exists)
            tl.store(column + place, tl.broadcast_to(c[:, None], child.shape), mask=exists)
            tl.store(masks + place, tl.broadcast_to(mask[:, None], child.shape), mask=exists)
            places += tl.sum(exists.to(tl.int32), axis=0)
    wait_for_all(counter, 4 * everyone)
    blocks = length // BLOCK
    _places, ends = child_places(totals, 0, units, BLOCK)
    for block in range(tl.program_id(0), PARTS * blocks, everyone):
        row = block * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
        store_list(tl.reduce(tl.load(masks + row), 0, either), offsets, counts, block, LIST)
        over = tl.sum((ends <= block * BLOCK).to(tl.int32), axis=0)
        if block < blocks:
            tl.store(slot + block, tl.minimum(over, 7))


def group_children(parts: Parts, slots: torch.Tensor, block: int) -> ChildRows:
    """Children `slots` (int64 [M] parent * 8 + child) by number, then by their parents' order."""
    (groups, parents), count, device = parts.map.order.shape, slots.shape[0], slots.device
    blocks = programs(count, block) + 8
    run = TILE * programs(parents, TILE * max(1, UNITS // groups))
    units = programs(parents, run)
    shapes = (
        (groups, blocks * block),
        (groups, blocks * block),
        (blocks,),
        (groups * blocks, LIST),
        (groups * blocks,),
    )
    target, column, slot, offsets, counts = (torch.empty(shape, dtype=torch.int32, device=device) for shape in shapes)
    scratch = torch.empty(8 * parents + groups * (blocks * block + units * 8), dtype=torch.int32, device=device)
    grid = min(resident_programs(device), groups * max(units, blocks))
    with on_device(device):
        group_kernel[(grid,)](
            slots, parts.map.order, parts.map.masks, target, column, slot, offsets, counts, scratch,
            torch.zeros(1, dtype=torch.int32, device=device), count, parents, blocks * block, units, run, PARTS=groups,
            LIST=LIST, TILE=TILE, BLOCK=block, **ALL_AT_ONCE,
        )  # fmt: skip
    return ChildRows(target, column, slot, Blocks(offsets, counts))
