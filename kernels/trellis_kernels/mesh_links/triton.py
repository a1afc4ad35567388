"""Corner lists by atomic exchange, edges and planes by walking them: no sorting but that of the corners."""

import torch
import triton
import triton.language as tl

from trellis_kernels.choice import on_device
from trellis_kernels.mesh_links.op import Links
from trellis_kernels.mesh_links.reference import corner_order

BLOCK = 128  # corners of a program that walks no list
LANES = 32  # lanes of a program that walks lists: one warp, as all wait for the longest list


@triton.jit(do_not_specialize=["count"])
def link_kernel(faces, head, tail, following, count, BLOCK: tl.constexpr):
    """Chain the corners int32 [3 F] of each vertex."""
    corner = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = corner < count
    vertex = tl.load(faces + corner, mask=inside, other=0)
    before = tl.atomic_xchg(head + vertex, corner, mask=inside)
    tl.store(following + corner, before, mask=inside)
    tl.store(tail + vertex, corner, mask=inside & (before < 0))


@triton.jit(do_not_specialize=["count"])
def own_kernel(faces, head, following, own, faces_at, border, count, LANES: tl.constexpr):
    """Whether each half-edge is the lowest of its edge (uint8 [3 F]), how many there are, and the border vertices."""
    half = tl.program_id(0) * LANES + tl.arange(0, LANES)
    inside = half < count
    a = tl.load(faces + half, mask=inside, other=0)
    b = tl.load(faces + half - half % 3 + (half + 1) % 3, mask=inside, other=0)
    corner = tl.load(head + a, mask=inside, other=-1)
    least, total = half, half * 0
    while tl.max(corner, 0) >= 0:
        here = corner >= 0
        at = tl.maximum(corner, 0)
        base, place = at - at % 3, at % 3
        ahead = here & (tl.load(faces + base + (place + 1) % 3, mask=here, other=-1) == b)
        behind = here & (tl.load(faces + base + (place + 2) % 3, mask=here, other=-1) == b)
        total += (ahead | behind).to(tl.int32)
        least = tl.where(ahead, tl.minimum(least, at), least)
        least = tl.where(behind, tl.minimum(least, base + (place + 2) % 3), least)
        corner = tl.load(following + at, mask=here, other=-1)
    mine = inside & (least == half)
    tl.store(own + half, mine.to(tl.uint8), mask=inside)
    tl.store(faces_at + half, total, mask=mine)
    tl.store(border + a, tl.full([LANES], 1, tl.uint8), mask=mine & (total != 2))
    tl.store(border + b, tl.full([LANES], 1, tl.uint8), mask=mine & (total != 2))


@triton.jit
def point_at(points, vertex, mask):
    """The three coordinates of vertices."""
    x = tl.load(points + vertex * 3, mask=mask, other=0.0)
    y = tl.load(points + vertex * 3 + 1, mask=mask, other=0.0)
    z = tl.load(points + vertex * 3 + 2, mask=mask, other=0.0)
    return x, y, z


@triton.jit
def cross(ax, ay, az, bx, by, bz):
    """Cross product."""
    return ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx


@triton.jit(do_not_specialize=["count"])
def planes_kernel(points, faces, order, end, quadrics, count, pull, LANES: tl.constexpr):
    """Sum the planes of each vertex's faces, in the order int64 [3 F] of its corners, ending at end int64 [V + 1]."""
    vertex = tl.program_id(0) * LANES + tl.arange(0, LANES)
    inside = vertex < count
    slot = tl.load(end + vertex, mask=inside, other=0)
    stop = tl.load(end + vertex + 1, mask=inside, other=0)
    xx = tl.zeros([LANES], tl.float32)
    xy, xz, yy, yz, zz = xx, xx, xx, xx, xx
    while tl.max(stop - slot, 0) > 0:
        here = slot < stop
        corner = tl.load(order + slot, mask=here, other=0).to(tl.int32)
        base = corner - corner % 3
        px, py, pz = point_at(points, tl.load(faces + base, mask=here, other=0), here)
        qx, qy, qz = point_at(points, tl.load(faces + base + 1, mask=here, other=0), here)
        rx, ry, rz = point_at(points, tl.load(faces + base + 2, mask=here, other=0), here)
        x, y, z = cross(qx - px, qy - py, qz - pz, rx - px, ry - py, rz - pz)
        long = tl.sqrt(x * x + y * y + z * z)
        by = 1.0 / tl.maximum(long, 1e-30)
        x, y, z = x * by, y * by, z * by
        weight = tl.where(here, long / 6, 0.0)
        xx += weight * (x * x + pull)
        xy += weight * (x * y)
        xz += weight * (x * z)
        yy += weight * (y * y + pull)
        yz += weight * (y * z)
        zz += weight * (z * z + pull)
        slot += 1
    row = quadrics + vertex * 10
    tl.store(row, xx, mask=inside)
    tl.store(row + 1, xy, mask=inside)
    tl.store(row + 2, xz, mask=inside)
    tl.store(row + 3, yy, mask=inside)
    tl.store(row + 4, yz, mask=inside)
    tl.store(row + 5, zz, mask=inside)


def link(faces: torch.Tensor, vertex_count: int) -> Links:
    count, device = faces.numel(), faces.device
    head = torch.full((vertex_count,), -1, dtype=torch.int32, device=device)
    tail, following = torch.full_like(head, -1), torch.empty(count, dtype=torch.int32, device=device)
    own = torch.zeros(count, dtype=torch.uint8, device=device)
    faces_at = torch.zeros(count, dtype=torch.int32, device=device)
    border = torch.zeros(vertex_count, dtype=torch.uint8, device=device)
    if count:
        with on_device(device):
            link_kernel[(triton.cdiv(count, BLOCK),)](faces, head, tail, following, count, BLOCK=BLOCK)
            own_kernel[(triton.cdiv(count, LANES),)](
                faces, head, following, own, faces_at, border, count, LANES=LANES, num_warps=1
            )
    halves = torch.nonzero(own)[:, 0]
    return Links(head, tail, following, border.bool(), halves, faces_at[halves])


def plane_quadrics(points: torch.Tensor, faces: torch.Tensor, pull: float) -> torch.Tensor:
    order, valence = corner_order(faces, len(points))
    end = torch.nn.functional.pad(valence.cumsum(0), (1, 0))
    quadrics = torch.zeros((len(points), 10), dtype=torch.float32, device=points.device)
    if len(points):
        with on_device(points.device):
            planes_kernel[(triton.cdiv(len(points), LANES),)](
                points, faces, order, end, quadrics, len(points), pull, LANES=LANES, num_warps=1
            )
    return quadrics
