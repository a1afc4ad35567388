"""A face a lane: counted first, then written where the faces before leave off."""

import torch
import triton
import triton.language as tl

from trellis_kernels.choice import on_device
from trellis_kernels.lattice_crossings.op import FINE, Hits

LANES = 32  # faces of a program: one warp, as all wait for the one with most lines


@triton.jit
def corner(corners, vertex, b, c, mask):
    """Places of vertices along two axes, int64."""
    return tl.load(corners + vertex * 3 + b, mask=mask, other=0), tl.load(corners + vertex * 3 + c, mask=mask, other=0)


@triton.jit
def side(px, py, ax, ay, bx, by, sign):
    """Edge function of the side a -> b of a face wound by `sign`, and whether a line on it is the face's (top-left)."""
    dx, dy = (bx - ax) * sign, (by - ay) * sign
    value = dx * (py - ay) - dy * (px - ax)
    return value, (value > 0) | ((value == 0) & ((dy < 0) | ((dy == 0) & (dx > 0))))


@triton.jit(do_not_specialize=["count", "axis", "lines", "length"])
def cross_kernel(
    corners,
    faces,
    begin,
    hits,
    key,
    height,
    face,
    rising,
    count,
    axis,
    lines,
    length,
    UNIT: tl.constexpr,
    FINE: tl.constexpr,
    WRITE: tl.constexpr,
    LANES: tl.constexpr,
):
    """Count each face's crossings of the lines along an axis (hits int32 [F]), or write them from begin int64 [F] on.

    lines: lattice points along the last axis across; length: points of a line.
    """
    here = tl.program_id(0) * LANES + tl.arange(0, LANES)
    inside = here < count
    b, c = (axis + 1) % 3, (axis + 2) % 3
    u = tl.load(faces + here.to(tl.int64) * 3, mask=inside, other=0).to(tl.int64)
    v = tl.load(faces + here.to(tl.int64) * 3 + 1, mask=inside, other=0).to(tl.int64)
    w = tl.load(faces + here.to(tl.int64) * 3 + 2, mask=inside, other=0).to(tl.int64)
    x0, y0 = corner(corners, u, b, c, inside)
    x1, y1 = corner(corners, v, b, c, inside)
    x2, y2 = corner(corners, w, b, c, inside)
    area = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
    sign = tl.where(area > 0, 1, -1).to(tl.int64)
    left, right = (tl.minimum(tl.minimum(x0, x1), x2) + UNIT - 1) // UNIT, tl.maximum(tl.maximum(x0, x1), x2) // UNIT
    bottom, top = (tl.minimum(tl.minimum(y0, y1), y2) + UNIT - 1) // UNIT, tl.maximum(tl.maximum(y0, y1), y2) // UNIT
    m, n = left, bottom
    going = inside & (area != 0) & (left <= right) & (bottom <= top)
    total = tl.zeros([LANES], tl.int32)
    if WRITE:
        z0 = tl.load(corners + u * 3 + axis, mask=inside, other=0).to(tl.float64)
        z1 = tl.load(corners + v * 3 + axis, mask=inside, other=0).to(tl.float64)
        z2 = tl.load(corners + w * 3 + axis, mask=inside, other=0).to(tl.float64)
        whole = tl.abs(area).to(tl.float64) * UNIT
        start = tl.load(begin + here, mask=inside, other=0)
    while tl.max(going.to(tl.int32), 0) > 0:
        px, py = m * UNIT, n * UNIT
        s0, in0 = side(px, py, x1, y1, x2, y2, sign)
        s1, in1 = side(px, py, x2, y2, x0, y0, sign)
        s2, in2 = side(px, py, x0, y0, x1, y1, sign)
        hit = going & in0 & in1 & in2
        if WRITE:
            high = (s0.to(tl.float64) * z0 + s1.to(tl.float64) * z1 + s2.to(tl.float64) * z2) / whole
            fine = (high * FINE).to(tl.int64)
            tl.store(key + start + total, (m * lines + n) * (length * FINE) + fine, mask=hit)
            tl.store(height + start + total, high, mask=hit)
            tl.store(face + start + total, here, mask=hit)
            tl.store(rising + start + total, (area > 0).to(tl.uint8), mask=hit)
        total += hit.to(tl.int32)
        last = n == top
        n = tl.where(last, bottom, n + 1)
        m = tl.where(last, m + 1, m)
        going = going & (m <= right)
    if not WRITE:
        tl.store(hits + here, total, mask=inside)


def crossings(
    corners: torch.Tensor, faces: torch.Tensor, axis: int, shape: tuple[int, int, int], unit: int
) -> Hits:  # fmt: skip
    count, device = len(faces), corners.device
    hits = torch.zeros(count, dtype=torch.int32, device=device)
    grid, sizes = (triton.cdiv(count, LANES),), (count, axis, shape[(axis + 2) % 3], shape[axis])
    options = dict(UNIT=unit, FINE=FINE, LANES=LANES, num_warps=1)
    if count:
        with on_device(device):
            cross_kernel[grid](corners, faces, hits, hits, hits, hits, hits, hits, *sizes, WRITE=False, **options)
    end = hits.cumsum(0)
    total = int(end[-1]) if count else 0
    key = torch.empty(total, dtype=torch.int64, device=device)
    height = torch.empty(total, dtype=torch.float64, device=device)
    face = torch.empty(total, dtype=torch.int32, device=device)
    rising = torch.empty(total, dtype=torch.uint8, device=device)
    if total:
        with on_device(device):
            cross_kernel[grid](
                corners, faces, end - hits, hits, key, height, face, rising, *sizes, WRITE=True, **options
            )  # fmt: skip
    return Hits(key, height, face, rising.bool())
