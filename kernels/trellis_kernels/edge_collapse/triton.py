"""Edge collapses on the GPU: a lane for each edge, walking the corner lists of its two ends.

Atomic minima decide which edges are independent; independent edges own everything they write, so no order shows.
"""

import torch
import triton
import triton.language as tl

from trellis_kernels.choice import on_device
from trellis_kernels.edge_collapse.op import NEVER, TRIES, CollapseMesh, Verdict
from trellis_kernels.edge_collapse.reference import AWAY, LENIENT, LONGEST, NEEDLE, STEP_BITS, TURN
from trellis_kernels.mesh_links.triton import LANES, cross, point_at

BLOCK = 128  # edges of a program that walks no list


@triton.jit
def error(q0, q1, q2, q3, q4, q5, q6, q7, q8, q9, x, y, z):
    """Quadric error of a point."""
    ax, ay, az = q0 * x + q1 * y + q2 * z, q1 * x + q3 * y + q4 * z, q2 * x + q4 * y + q5 * z
    return (x * ax + y * ay + z * az) + 2.0 * (q6 * x + q7 * y + q8 * z) + q9


@triton.jit
def better(best, x, y, z, value, tx, ty, tz, able):
    """Take the trial point where it is allowed and better."""
    take = able & (value < best)
    return tl.where(take, value, best), tl.where(take, tx, x), tl.where(take, ty, y), tl.where(take, tz, z)


@triton.jit
def merged(points, quadrics, a, b, mask):
    """Merged ends: offset of the new point from a (3), the summed quadric about a (9 numbers), the error."""
    ax, ay, az = point_at(points, a, mask)
    bx, by, bz = point_at(points, b, mask)
    dx, dy, dz = bx - ax, by - ay, bz - az
    u, v = quadrics + a * 10, quadrics + b * 10
    p0 = tl.load(v, mask=mask, other=0.0)
    p1 = tl.load(v + 1, mask=mask, other=0.0)
    p2 = tl.load(v + 2, mask=mask, other=0.0)
    p3 = tl.load(v + 3, mask=mask, other=0.0)
    p4 = tl.load(v + 4, mask=mask, other=0.0)
    p5 = tl.load(v + 5, mask=mask, other=0.0)
    p6 = tl.load(v + 6, mask=mask, other=0.0)
    p7 = tl.load(v + 7, mask=mask, other=0.0)
    p8 = tl.load(v + 8, mask=mask, other=0.0)
    p9 = tl.load(v + 9, mask=mask, other=0.0)
    tx, ty, tz = p0 * dx + p1 * dy + p2 * dz, p1 * dx + p3 * dy + p4 * dz, p2 * dx + p4 * dy + p5 * dz
    q0 = tl.load(u, mask=mask, other=0.0) + p0
    q1 = tl.load(u + 1, mask=mask, other=0.0) + p1
    q2 = tl.load(u + 2, mask=mask, other=0.0) + p2
    q3 = tl.load(u + 3, mask=mask, other=0.0) + p3
    q4 = tl.load(u + 4, mask=mask, other=0.0) + p4
    q5 = tl.load(u + 5, mask=mask, other=0.0) + p5
    q6 = tl.load(u + 6, mask=mask, other=0.0) + p6 - tx
    q7 = tl.load(u + 7, mask=mask, other=0.0) + p7 - ty
    q8 = tl.load(u + 8, mask=mask, other=0.0) + p8 - tz
    c = tl.load(u + 9, mask=mask, other=0.0) + p9
    q9 = c - 2.0 * (p6 * dx + p7 * dy + p8 * dz) + (tx * dx + ty * dy + tz * dz)
    l10, l20 = q1 / q0, q2 / q0
    d1 = q3 - l10 * q1
    s = q4 - l10 * q2
    l21 = s / d1
    d2 = q5 - l20 * q2 - l21 * s
    y1 = -q7 + l10 * q6
    y2 = -q8 + l20 * q6 - l21 * y1
    z = y2 / d2
    y = y1 / d1 - l21 * z
    x = -q6 / q0 - l10 * y - l20 * z
    mx, my, mz = x - 0.5 * dx, y - 0.5 * dy, z - 0.5 * dz
    near = (mx * mx + my * my + mz * mz) <= 4.0 * (dx * dx + dy * dy + dz * dz)
    good = (q0 > 0) & (d1 > 0) & (d2 > 0) & near
    x, y, z = tl.where(good, x, 0.0), tl.where(good, y, 0.0), tl.where(good, z, 0.0)
    best = error(q0, q1, q2, q3, q4, q5, q6, q7, q8, q9, x, y, z)
    best = tl.where(good, best, float("inf"))
    hx, hy, hz = 0.5 * dx, 0.5 * dy, 0.5 * dz
    value = error(q0, q1, q2, q3, q4, q5, q6, q7, q8, q9, hx, hy, hz)
    best, x, y, z = better(best, x, y, z, value, hx, hy, hz, ~good)
    best, x, y, z = better(best, x, y, z, q9, dx * 0, dy * 0, dz * 0, ~good)
    value = error(q0, q1, q2, q3, q4, q5, q6, q7, q8, q9, dx, dy, dz)
    best, x, y, z = better(best, x, y, z, value, dx, dy, dz, ~good)
    return x, y, z, q0, q1, q2, q3, q4, q5, q6, q7, q8, tl.maximum(best, 0.0)


@triton.jit(do_not_specialize=["count"])
def keys_kernel(
    points, quadrics, edges, refused, cost, key, count,
    TRIES: tl.constexpr, STEP_BITS: tl.constexpr, NEVER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """edges int32 [E, 2] -> cost float32 [E], key int64 [E]."""
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = e < count
    a = tl.load(edges + e * 2, mask=inside, other=0)
    b = tl.load(edges + e * 2 + 1, mask=inside, other=0)
    times = tl.load(refused + e, mask=inside, other=0).to(tl.int32)
    gone = (a == b) | (times >= TRIES)
    found = merged(points, quadrics, a, b, inside & ~gone)
    value = found[12]
    value *= tl.where(times == 0, 1.0, tl.where(times == 1, 8.0, tl.where(times == 2, 64.0, 512.0)))
    value = tl.where(gone, float("inf"), value)
    tl.store(cost + e, value, mask=inside)
    m = e.to(tl.int64)
    m = ((m ^ (m >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    m = ((m ^ (m >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    m = m ^ (m >> 16)
    step = (value.to(tl.int32, bitcast=True) >> STEP_BITS).to(tl.int64)
    tl.store(key + e, tl.where(gone, NEVER, (step << 32) | m), mask=inside)


@triton.jit(do_not_specialize=["limit", "count"])
def least_kernel(edges, key, limit, least, count, BLOCK: tl.constexpr):
    """The least key at most `limit` of the edges at each vertex."""
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = tl.load(key + e, mask=e < count, other=0)
    able = (e < count) & (k <= limit)
    tl.atomic_min(least + tl.load(edges + e * 2, mask=able, other=0), k, mask=able)
    tl.atomic_min(least + tl.load(edges + e * 2 + 1, mask=able, other=0), k, mask=able)


@triton.jit(do_not_specialize=["count"])
def near_kernel(edges, least, near, count, BLOCK: tl.constexpr):
    """Lower `near` (at first a copy of `least`) to the least key of the neighbours."""
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = e < count
    a = tl.load(edges + e * 2, mask=inside, other=0)
    b = tl.load(edges + e * 2 + 1, mask=inside, other=0)
    at_a, at_b = tl.load(least + a, mask=inside, other=0), tl.load(least + b, mask=inside, other=0)
    tl.atomic_min(near + a, at_b, mask=inside & (at_b < at_a))
    tl.atomic_min(near + b, at_a, mask=inside & (at_a < at_b))


@triton.jit(do_not_specialize=["limit", "count"])
def winners_kernel(edges, key, limit, near, wins, count, BLOCK: tl.constexpr):
    """uint8 [E]: the edge holds the least key near both its ends."""
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = tl.load(key + e, mask=e < count, other=0)
    able = (e < count) & (k <= limit)
    a = tl.load(near + tl.load(edges + e * 2, mask=able, other=0), mask=able, other=0)
    b = tl.load(near + tl.load(edges + e * 2 + 1, mask=able, other=0), mask=able, other=0)
    tl.store(wins + e, (able & (a == k) & (b == k)).to(tl.uint8), mask=e < count)


@triton.jit
def others_at(faces, alive, corner, here):
    """Of corners: whether the face lives, its other two vertices."""
    at = tl.maximum(corner, 0)
    lives = here & (tl.load(alive + at // 3, mask=here, other=0) != 0)
    u = tl.load(faces + at - at % 3 + (at + 1) % 3, mask=lives, other=-1)
    v = tl.load(faces + at - at % 3 + (at + 2) % 3, mask=lives, other=-1)
    return lives, u, v


@triton.jit
def meets_fan(faces, alive, head, following, a, u, v, mask, LONGEST: tl.constexpr):
    """Whether u or v (-1: neither) is a neighbour of a."""
    corner = tl.load(head + a, mask=mask, other=-1)
    found = corner < -1
    hops = 0
    while (tl.max(corner, 0) >= 0) & (hops < LONGEST):
        here = corner >= 0
        lives, s, t = others_at(faces, alive, corner, here)
        found = found | (lives & (((u >= 0) & ((s == u) | (t == u))) | ((v >= 0) & ((s == v) | (t == v)))))
        corner = tl.load(following + tl.maximum(corner, 0), mask=here, other=-1)
        hops += 1
    return found


@triton.jit
def keeps_sides(
    points, faces, ahead, alive, head, following, end, other, nx, ny, nz, lenient, mask,
    LONGEST: tl.constexpr, TURN: tl.constexpr, AWAY: tl.constexpr, NEEDLE: tl.constexpr,
):  # fmt: skip
    """Whether no face around `end` but not at `other` turns over or becomes a needle; also its corners, or -1."""
    px, py, pz = point_at(points, end, mask)
    corner = tl.load(head + end, mask=mask, other=-1)
    good, corners, hops = corner >= -1, end * 0, 0
    while (tl.max(corner, 0) >= 0) & (hops < LONGEST):
        lives, i, j = others_at(faces, alive, corner, corner >= 0)
        corners += lives.to(tl.int32)
        moves = lives & (i != other) & (j != other)
        qx, qy, qz = point_at(points, i, moves)
        rx, ry, rz = point_at(points, j, moves)
        ex, ey, ez = rx - qx, ry - qy, rz - qz
        ux, uy, uz = px - qx, py - qy, pz - qz
        vx, vy, vz = nx - qx, ny - qy, nz - qz
        ox, oy, oz = cross(ex, ey, ez, ux, uy, uz)
        mx, my, mz = cross(ex, ey, ez, vx, vy, vz)
        old, new = ox * ox + oy * oy + oz * oz, mx * mx + my * my + mz * mz
        turn = ox * mx + oy * my + oz * mz
        sx, sy, sz = point_at(ahead, tl.maximum(corner, 0) // 3, moves)
        away = sx * mx + sy * my + sz * mz
        over = (turn <= 0) | (turn * turn < TURN * old * new) | (away <= 0) | (away * away < AWAY * new)
        wx, wy, wz = vx - ex, vy - ey, vz - ez
        sx, sy, sz = ux - ex, uy - ey, uz - ez
        base = ex * ex + ey * ey + ez * ez
        after = base + (vx * vx + vy * vy + vz * vz) + (wx * wx + wy * wy + wz * wz)
        before = base + (ux * ux + uy * uy + uz * uz) + (sx * sx + sy * sy + sz * sz)
        needle = (12 * new < NEEDLE * after * after) & (new * before * before < old * after * after) & ~lenient
        good = good & ~(moves & (over | needle))
        corner = tl.load(following + tl.maximum(corner, 0), mask=corner >= 0, other=-1)
        hops += 1
    return good & (corner < 0), corners


@triton.jit(do_not_specialize=["count"])
def examine_kernel(
    points, quadrics, border, faces, ahead, alive, head, following, edges, refused, picked, vanishing, out, row, count,
    LENIENT: tl.constexpr, LONGEST: tl.constexpr, TURN: tl.constexpr, AWAY: tl.constexpr, NEEDLE: tl.constexpr,
    LANES: tl.constexpr,
):  # fmt: skip
    """picked int64 [K] -> vanishing int32 [K], out float32 [K, 3], row float32 [K, 10]."""
    i = tl.program_id(0) * LANES + tl.arange(0, LANES)
    mask = i < count
    e = tl.load(picked + i, mask=mask, other=0)
    a, b = tl.load(edges + e * 2, mask=mask, other=0), tl.load(edges + e * 2 + 1, mask=mask, other=0)
    lenient = tl.load(refused + e, mask=mask, other=0) >= LENIENT
    x, y, z, q0, q1, q2, q3, q4, q5, q6, q7, q8, value = merged(points, quadrics, a, b, mask)
    ax, ay, az = point_at(points, a, mask)
    nx, ny, nz = ax + x, ay + y, az + z
    good, at_a = keeps_sides(
        points, faces, ahead, alive, head, following, a, b, nx, ny, nz, lenient, mask, LONGEST, TURN, AWAY, NEEDLE
    )
    fine, at_b = keeps_sides(
        points, faces, ahead, alive, head, following, b, a, nx, ny, nz, lenient, mask, LONGEST, TURN, AWAY, NEEDLE
    )
    good = good & fine & mask
    shared, first, last = a * 0, a * 0 - 1, a * 0 - 1  # faces of the edge and their opposite corners
    corner, hops = tl.load(head + b, mask=good, other=-1), 0
    while (tl.max(corner, 0) >= 0) & (hops < LONGEST):
        lives, u, v = others_at(faces, alive, corner, corner >= 0)
        opposite = tl.where(u == a, v, u)
        holds = lives & ((u == a) | (v == a))
        first, last = tl.where(holds & (shared == 0), opposite, first), tl.where(holds, opposite, last)
        shared += holds.to(tl.int32)
        corner = tl.load(following + tl.maximum(corner, 0), mask=corner >= 0, other=-1)
        hops += 1
    both = (tl.load(border + a, mask=mask, other=0) != 0) & (tl.load(border + b, mask=mask, other=0) != 0)
    good = good & (shared == tl.where(both, 1, 2)) & (both | (first != last))
    good = good & (at_a + at_b - 2 * shared >= tl.where(both, 1, 3))
    corner, hops = tl.load(head + b, mask=good, other=-1), 0
    while (tl.max(corner, 0) >= 0) & (hops < LONGEST):
        lives, u, v = others_at(faces, alive, corner, corner >= 0)
        u = tl.where(lives & (u != a) & (u != first) & (u != last), u, -1)
        v = tl.where(lives & (v != a) & (v != first) & (v != last), v, -1)
        good = good & ~meets_fan(faces, alive, head, following, a, u, v, good & ((u >= 0) | (v >= 0)), LONGEST)
        corner = tl.load(following + tl.maximum(corner, 0), mask=(corner >= 0) & good, other=-1)
        hops += 1
    tl.store(vanishing + i, tl.where(good, shared, 0), mask=mask)
    tl.store(out + i * 3, nx, mask=mask)
    tl.store(out + i * 3 + 1, ny, mask=mask)
    tl.store(out + i * 3 + 2, nz, mask=mask)
    row += i * 10
    tl.store(row, q0, mask=mask)
    tl.store(row + 1, q1, mask=mask)
    tl.store(row + 2, q2, mask=mask)
    tl.store(row + 3, q3, mask=mask)
    tl.store(row + 4, q4, mask=mask)
    tl.store(row + 5, q5, mask=mask)
    tl.store(row + 6, q6 + (q0 * x + q1 * y + q2 * z), mask=mask)
    tl.store(row + 7, q7 + (q1 * x + q3 * y + q4 * z), mask=mask)
    tl.store(row + 8, q8 + (q2 * x + q4 * y + q5 * z), mask=mask)
    tl.store(row + 9, value, mask=mask)


@triton.jit(do_not_specialize=["count"])
def merge_kernel(
    points, quadrics, border, faces, alive, head, tail, following, edges, picked, new, row, target, touched, count,
    LANES: tl.constexpr,
):  # fmt: skip
    """Collapse picked edges int64 [K]; target int32 [V] of gone vertices, touched uint8 [V] are noted."""
    i = tl.program_id(0) * LANES + tl.arange(0, LANES)
    mask = i < count
    e = tl.load(picked + i, mask=mask, other=0)
    a, b = tl.load(edges + e * 2, mask=mask, other=0), tl.load(edges + e * 2 + 1, mask=mask, other=0)
    start = tl.load(head + b, mask=mask, other=-1)
    corner = start
    while tl.max(corner, 0) >= 0:
        lives, u, v = others_at(faces, alive, corner, corner >= 0)
        dies = lives & ((u == a) | (v == a))
        at = tl.maximum(corner, 0)
        tl.store(alive + at // 3, tl.zeros([LANES], tl.uint8), mask=dies)
        tl.store(faces + at, a, mask=lives & ~dies)
        corner = tl.load(following + at, mask=corner >= 0, other=-1)
    end = tl.load(tail + a, mask=mask, other=0)
    tl.store(following + end, start, mask=mask)
    tl.store(tail + a, tl.load(tail + b, mask=mask, other=0), mask=mask)
    for k in tl.static_range(3):
        tl.store(points + a * 3 + k, tl.load(new + i * 3 + k, mask=mask, other=0.0), mask=mask)
    for k in tl.static_range(10):
        tl.store(quadrics + a * 10 + k, tl.load(row + i * 10 + k, mask=mask, other=0.0), mask=mask)
    on_border = tl.load(border + a, mask=mask, other=0) | tl.load(border + b, mask=mask, other=0)
    tl.store(border + a, on_border, mask=mask)
    tl.store(target + b, a, mask=mask)
    tl.store(touched + a, tl.full([LANES], 1, tl.uint8), mask=mask)
    tl.store(touched + b, tl.full([LANES], 1, tl.uint8), mask=mask)


@triton.jit(do_not_specialize=["count"])
def follow_kernel(edges, refused, target, touched, count, BLOCK: tl.constexpr):
    """Point edges at the vertices that took over; a changed end clears the refusals."""
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = e < count
    a = tl.load(edges + e * 2, mask=inside, other=0)
    b = tl.load(edges + e * 2 + 1, mask=inside, other=0)
    at_a, at_b = tl.load(touched + a, mask=inside, other=0), tl.load(touched + b, mask=inside, other=0)
    changed = inside & ((at_a | at_b) != 0)
    tl.store(refused + e, tl.zeros([BLOCK], tl.int8), mask=changed)
    tl.store(edges + e * 2, tl.load(target + a, mask=changed, other=0), mask=changed)
    tl.store(edges + e * 2 + 1, tl.load(target + b, mask=changed, other=0), mask=changed)


def edge_keys(mesh: CollapseMesh) -> tuple[torch.Tensor, torch.Tensor]:
    count = len(mesh.edges)
    cost = torch.empty(count, dtype=torch.float32, device=mesh.points.device)
    key = torch.empty(count, dtype=torch.int64, device=mesh.points.device)
    if count:
        with on_device(key.device):
            keys_kernel[(triton.cdiv(count, BLOCK),)](
                mesh.points, mesh.quadrics, mesh.edges, mesh.refused, cost, key, count,
                TRIES=TRIES, STEP_BITS=STEP_BITS, NEVER=NEVER, BLOCK=BLOCK,
            )  # fmt: skip
    return cost, key


def independent_edges(mesh: CollapseMesh, keys: torch.Tensor, limit: int) -> torch.Tensor:
    count = len(keys)
    least = torch.full((len(mesh.points),), NEVER, dtype=torch.int64, device=keys.device)
    wins = torch.zeros(count, dtype=torch.uint8, device=keys.device)
    if count:
        grid = (triton.cdiv(count, BLOCK),)
        with on_device(keys.device):
            least_kernel[grid](mesh.edges, keys, limit, least, count, BLOCK=BLOCK)
            near = least.clone()
            near_kernel[grid](mesh.edges, least, near, count, BLOCK=BLOCK)
            winners_kernel[grid](mesh.edges, keys, limit, near, wins, count, BLOCK=BLOCK)
    return torch.nonzero(wins)[:, 0]


def examine(mesh: CollapseMesh, picked: torch.Tensor) -> Verdict:
    count, device = len(picked), picked.device
    vanishing = torch.zeros(count, dtype=torch.int32, device=device)
    points = torch.empty((count, 3), dtype=torch.float32, device=device)
    quadrics = torch.empty((count, 10), dtype=torch.float32, device=device)
    if count:
        with on_device(device):
            examine_kernel[(triton.cdiv(count, LANES),)](
                mesh.points, mesh.quadrics, mesh.border.view(torch.uint8), mesh.faces, mesh.ahead,
                mesh.alive.view(torch.uint8), mesh.head, mesh.following, mesh.edges, mesh.refused, picked, vanishing,
                points, quadrics, count,
                LENIENT=LENIENT, LONGEST=LONGEST, TURN=TURN, AWAY=AWAY, NEEDLE=NEEDLE, LANES=LANES, num_warps=1,
            )  # fmt: skip
    return Verdict(vanishing, points, quadrics)


def merge(mesh: CollapseMesh, picked: torch.Tensor, verdict: Verdict) -> None:
    count, device = len(picked), picked.device
    if not count:
        return
    target = torch.arange(len(mesh.points), dtype=torch.int32, device=device)
    touched = torch.zeros(len(mesh.points), dtype=torch.uint8, device=device)
    with on_device(device):
        merge_kernel[(triton.cdiv(count, LANES),)](
            mesh.points, mesh.quadrics, mesh.border.view(torch.uint8), mesh.faces, mesh.alive.view(torch.uint8),
            mesh.head, mesh.tail, mesh.following, mesh.edges, picked, verdict.points, verdict.quadrics,
            target, touched, count, LANES=LANES, num_warps=1,
        )  # fmt: skip
        edges = len(mesh.edges)
        follow_kernel[(triton.cdiv(edges, BLOCK),)](mesh.edges, mesh.refused, target, touched, edges, BLOCK=BLOCK)
