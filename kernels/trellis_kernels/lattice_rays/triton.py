"""A ray a lane, from its first step to its last."""

import torch
import triton
import triton.language as tl

from trellis_kernels.choice import on_device
from trellis_kernels.lattice_rays.op import Walls

LANES = 32  # rays of a program: one warp, as all wait for the longest


@triton.jit(
    do_not_specialize=["count", "sets", "ways", "edge_count", "nx", "ny", "nz", "grain", "cells_y", "cells_z", "limit"]
)
def walk_kernel(
    points,
    steps,
    edges,
    open_cells,
    ends,
    count,
    sets,
    ways,
    edge_count,
    nx,
    ny,
    nz,
    grain,
    cells_y,
    cells_z,
    limit,
    LANES: tl.constexpr,
):
    """How far ray r gets from p = points int64 [r // ways] by steps int64 [p % sets, r % ways, 3]: ends uint8."""
    ray = tl.program_id(0) * LANES + tl.arange(0, LANES)
    walking = ray < count
    point = tl.load(points + ray // ways, mask=walking, other=0)
    step = steps + (point % sets * ways + ray % ways) * 3
    tx, ty, tz = (
        tl.load(step, mask=walking, other=1),
        tl.load(step + 1, mask=walking, other=1),
        tl.load(step + 2, mask=walking, other=1),
    )
    dx, dy, dz = tl.abs(tx) // 2, tl.abs(ty) // 2, tl.abs(tz) // 2
    x, y, z = point // nz // ny, point // nz % ny, point % nz
    lattice = nx.to(tl.int64) * ny * nz
    aired, out, number = walking & False, walking, 0
    while (number < limit) & (tl.max(walking.to(tl.int32), 0) > 0):
        cell = (x // grain * cells_y + y // grain) * cells_z + z // grain
        open_here = tl.load(open_cells + cell, mask=walking, other=0) != 0
        aired = aired | open_here
        first_two, last = dy < dx, dz < tl.minimum(dx, dy)
        on_x, on_y, on_z = ~first_two & ~last, first_two & ~last, last
        place = tl.where(on_x, x, tl.where(on_y, y, z))
        length = tl.where(on_x, nx, tl.where(on_y, ny, nz))
        across = tl.where(on_x, y * nz + z, tl.where(on_y, z * nx + x, x * ny + y))
        time = tl.where(on_x, tx, tl.where(on_y, ty, tz))
        low = tl.where(time > 0, place, place - 1)
        walking = walking & (low >= 0) & (low < length - 1)
        edge = tl.where(on_x, 0, tl.where(on_y, lattice, 2 * lattice)) + across * length + low
        begin = tl.zeros([LANES], tl.int64)
        end = tl.where(walking & ~open_here, begin + edge_count, begin)
        while tl.max(end - begin, 0) > 0:  # the first closed edge not below this one
            middle = (begin + end) // 2
            below = tl.load(edges + middle, mask=begin < end, other=0) < edge
            begin, end = tl.where((begin < end) & below, middle + 1, begin), tl.where(below, end, middle)
        closed = walking & ~open_here & (begin < edge_count)
        closed = closed & (tl.load(edges + begin, mask=closed, other=0) == edge)
        out, walking = out & ~closed, walking & ~closed
        moved = tl.where(walking, tl.where(time > 0, 1, -1), 0)
        x, y, z = x + tl.where(on_x, moved, 0), y + tl.where(on_y, moved, 0), z + tl.where(on_z, moved, 0)
        wait = tl.abs(time)
        dx, dy, dz = dx + tl.where(on_x, wait, 0), dy + tl.where(on_y, wait, 0), dz + tl.where(on_z, wait, 0)
        number += 1
    tl.store(ends + ray, tl.where(out, 2, aired.to(tl.int32)).to(tl.uint8), mask=ray < count)


def ray_reach(points: torch.Tensor, steps: torch.Tensor, walls: Walls, limit: int) -> torch.Tensor:
    ways = steps.shape[1]
    count = len(points) * ways
    ends = torch.empty(count, dtype=torch.uint8, device=points.device)
    if count:
        with on_device(points.device):
            walk_kernel[(triton.cdiv(count, LANES),)](
                points.contiguous(), steps.contiguous(), walls.edges.contiguous(),
                walls.open_cells.contiguous().view(torch.uint8), ends, count, len(steps),
                ways, len(walls.edges), *walls.shape, walls.grain, *walls.open_cells.shape[1:], limit, LANES=LANES,
                num_warps=1,
            )  # fmt: skip
    return ends.view(len(points), ways)
