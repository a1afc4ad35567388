"""The engine of the simplifier for the CPU: quadric edge collapse of one mesh, or one part of a mesh, cheapest first.

Candidates wait in buckets of nearly equal cost, first in first out, so that picking the cheapest takes constant time.
Vertices can be locked (stamp -1 from the start): no edge at them collapses. The work can be done in slices.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from trellis_kernels.leaf import leaf

BUCKETS = 1 << 13
STEPS = 32  # buckets for each doubling of the cost
_BUCKET_BITS = 18  # bits dropped of a float32 cost
_RETRIES = 4  # a refused collapse is tried again later, the last time whatever its shape
_NEEDLE = 0.03  # squared roundness (12 (2 area)^2 / (sum of squared sides)^2, at most 1) of a needle
_TURN = 0.07  # squared cosine of the most a triangle may turn in one collapse
_AWAY = 0.03  # squared cosine of the most it may turn in all


class Work(NamedTuple):
    """The mesh while it shrinks."""

    points: np.ndarray  # float64 [V, 3]
    quadrics: np.ndarray  # float64 [V, 10] xx xy xz x yy yz y zz z 1
    faces: np.ndarray  # int32 [F, 3]
    ahead: np.ndarray  # float32 [F, 3] unit normals at the start
    dead: np.ndarray  # bool [F]
    head: np.ndarray  # int32 [V] first corner in the list of each vertex, -1 none
    tail: np.ndarray  # int32 [V]
    following: np.ndarray  # int32 [3 F] next corner of the same vertex
    stamp: np.ndarray  # int32 [V] counts the changes of a vertex; -1 when it is gone or locked
    mark: np.ndarray  # int64 [V] scratch of neighbourhood tests
    border: np.ndarray  # bool [V]
    state: np.ndarray  # int64 [2] faces left, last mark


class Scratch(NamedTuple):
    """Room for one candidate; made by the caller, since short functions must not make arrays."""

    quadric: np.ndarray  # float64 [10]
    point: np.ndarray  # float64 [3]
    cost: np.ndarray  # float32 [1]
    bits: np.ndarray  # uint32 [1], the same memory


class Queue(NamedTuple):
    """Collapse candidates in buckets by cost."""

    first: np.ndarray  # int32 [buckets]
    last: np.ndarray  # int32 [buckets]
    ends: np.ndarray  # int32 [capacity, 2]
    stamps: np.ndarray  # int32 [capacity, 2]
    tries: np.ndarray  # int8 [capacity]
    following: np.ndarray  # int32 [capacity]
    state: np.ndarray  # int64 [3] lowest bucket, first free slot, slots ever used


@leaf
def _error(q: np.ndarray, x: float, y: float, z: float) -> float:
    return (
        x * (q[0] * x + 2.0 * (q[1] * y + q[2] * z + q[3]))
        + y * (q[4] * y + 2.0 * (q[5] * z + q[6]))
        + z * (q[7] * z + 2.0 * q[8])
        + q[9]
    )


@leaf
def _best_point(work: Work, a: int, b: int, q: np.ndarray, out: np.ndarray) -> float:
    """Least-error point of the merged vertex into `out` (q is scratch); returns its error."""
    for k in range(10):
        q[k] = work.quadrics[a, k] + work.quadrics[b, k]
    c00, c01, c02 = q[4] * q[7] - q[5] * q[5], q[2] * q[5] - q[1] * q[7], q[1] * q[5] - q[2] * q[4]
    c11, c12, c22 = q[0] * q[7] - q[2] * q[2], q[1] * q[2] - q[0] * q[5], q[0] * q[4] - q[1] * q[1]
    det = q[0] * c00 + q[1] * c01 + q[2] * c02
    px, py, pz = work.points[a, 0], work.points[a, 1], work.points[a, 2]
    dx, dy, dz = work.points[b, 0] - px, work.points[b, 1] - py, work.points[b, 2] - pz
    if det > 0.0:
        out[0] = -(c00 * q[3] + c01 * q[6] + c02 * q[8]) / det
        out[1] = -(c01 * q[3] + c11 * q[6] + c12 * q[8]) / det
        out[2] = -(c02 * q[3] + c12 * q[6] + c22 * q[8]) / det
        ox, oy, oz = out[0] - px - 0.5 * dx, out[1] - py - 0.5 * dy, out[2] - pz - 0.5 * dz
        if ox * ox + oy * oy + oz * oz <= 4.0 * (dx * dx + dy * dy + dz * dz):
            return max(_error(q, out[0], out[1], out[2]), 0.0)
    best = 1e300
    for t in (0.5, 0.0, 1.0):
        x, y, z = px + t * dx, py + t * dy, pz + t * dz
        error = _error(q, x, y, z)
        if error < best:
            best, out[0], out[1], out[2] = error, x, y, z
    return max(best, 0.0)


@leaf
def _push(queue: Queue, scratch: Scratch, cost: float, a: int, b: int, stamps: tuple[int, int], tries: int) -> int:
    """Append a candidate to the bucket of its cost; when all slots are taken it is dropped (the caller seeds again)."""
    scratch.cost[0] = cost
    bucket = min(np.int64(scratch.bits[0]) >> _BUCKET_BITS, BUCKETS - 1)
    slot = queue.state[1]
    if slot >= 0:
        queue.state[1] = queue.following[slot]
    elif queue.state[2] < len(queue.tries):
        slot = queue.state[2]
        queue.state[2] += 1
    else:
        return bucket
    queue.ends[slot, 0], queue.ends[slot, 1] = a, b
    queue.stamps[slot, 0], queue.stamps[slot, 1] = stamps
    queue.tries[slot], queue.following[slot] = tries, -1
    if queue.first[bucket] < 0:
        queue.first[bucket] = slot
    else:
        queue.following[queue.last[bucket]] = slot
    queue.last[bucket] = slot
    queue.state[0] = min(queue.state[0], bucket)
    return bucket


@leaf
def _pop(queue: Queue, limit: int) -> int:
    """Take the oldest candidate of the lowest bucket, -1 beyond `limit`; its slot is freed but keeps its values."""
    while queue.state[0] <= limit and queue.first[queue.state[0]] < 0:
        queue.state[0] += 1
    if queue.state[0] > limit:
        return -1
    bucket = queue.state[0]
    slot = queue.first[bucket]
    queue.first[bucket] = queue.following[slot]
    queue.following[slot] = queue.state[1]
    queue.state[1] = slot
    return slot


@leaf
def _mark_ring(work: Work, vertex: int, value: int) -> int:
    """Mark the neighbours of a vertex; dead corners leave its list on the way. Returns how many faces it has."""
    count, previous, corner = 0, -1, work.head[vertex]
    while corner >= 0:
        after = work.following[corner]
        f, c = corner // 3, corner % 3
        if work.dead[f]:
            if previous < 0:
                work.head[vertex] = after
            else:
                work.following[previous] = after
            if after < 0:
                work.tail[vertex] = previous
        else:
            previous = corner
            count += 1
            for k in range(1, 3):
                work.mark[work.faces[f, (c + k) % 3]] = value
        corner = after
    return count


@leaf
def _link_allows(work: Work, a: int, b: int, value: int, tunnels: bool) -> bool:
    """Whether collapsing edge (a, b) keeps the surface manifold: common neighbours are the edge's opposite corners.

    With `tunnels` it may also pinch a tunnel or a bridge shut, after which the surface has to be separated.
    """
    around = _mark_ring(work, a, value)
    shared, faces, corner = 0, 0, work.head[b]
    while corner >= 0:
        f, c = corner // 3, corner % 3
        if not work.dead[f]:
            around += 1
            u, v = work.faces[f, (c + 1) % 3], work.faces[f, (c + 2) % 3]
            faces += u == a or v == a
            for other in (u, v):
                if work.mark[other] == value:
                    work.mark[other] = value + 1
                    shared += 1
        corner = work.following[corner]
    if faces == 0 or faces > 2:
        return False
    if tunnels:
        return True
    if shared != faces:
        return False
    if work.border[a] and work.border[b]:
        return faces == 1 and around > 2
    return faces == 2 and around > 6  # a tetrahedron stays


@leaf
def _keeps_sides(work: Work, a: int, b: int, point: np.ndarray, strict: bool) -> bool:
    """Whether no triangle around `a` turns by more than about 75 degrees (80 from the start) or becomes a needle when
    `a` moves."""
    px, py, pz = work.points[a, 0], work.points[a, 1], work.points[a, 2]
    corner = work.head[a]
    while corner >= 0:
        f, c = corner // 3, corner % 3
        corner = work.following[corner]
        i, j = work.faces[f, (c + 1) % 3], work.faces[f, (c + 2) % 3]
        if work.dead[f] or i == b or j == b:
            continue
        qx, qy, qz = work.points[i, 0], work.points[i, 1], work.points[i, 2]
        ex, ey, ez = work.points[j, 0] - qx, work.points[j, 1] - qy, work.points[j, 2] - qz
        ux, uy, uz = px - qx, py - qy, pz - qz
        vx, vy, vz = point[0] - qx, point[1] - qy, point[2] - qz
        ox, oy, oz = ey * uz - ez * uy, ez * ux - ex * uz, ex * uy - ey * ux
        nx, ny, nz = ey * vz - ez * vy, ez * vx - ex * vz, ex * vy - ey * vx
        old, new = ox * ox + oy * oy + oz * oz, nx * nx + ny * ny + nz * nz
        dot = ox * nx + oy * ny + oz * nz
        if dot <= 0.0 or dot * dot < _TURN * old * new:
            return False
        dot = work.ahead[f, 0] * nx + work.ahead[f, 1] * ny + work.ahead[f, 2] * nz
        if dot <= 0.0 or dot * dot < _AWAY * new:
            return False
        wx, wy, wz = vx - ex, vy - ey, vz - ez
        sides = (ex * ex + ey * ey + ez * ez) + (vx * vx + vy * vy + vz * vz) + (wx * wx + wy * wy + wz * wz)
        sx, sy, sz = ux - ex, uy - ey, uz - ez
        before = (ex * ex + ey * ey + ez * ez) + (ux * ux + uy * uy + uz * uz) + (sx * sx + sy * sy + sz * sz)
        needle = 12.0 * new < _NEEDLE * sides * sides
        if strict and needle and new * before * before < old * sides * sides:
            return False
    return True


@leaf
def _collapse(work: Work, a: int, b: int, q: np.ndarray, point: np.ndarray) -> int:
    """Merge b into a at `point` with quadric q; returns the number of faces that vanish."""
    gone, corner = 0, work.head[b]
    while corner >= 0:
        f, c = corner // 3, corner % 3
        if not work.dead[f]:
            if work.faces[f, (c + 1) % 3] == a or work.faces[f, (c + 2) % 3] == a:
                work.dead[f] = True
                gone += 1
            else:
                work.faces[f, c] = a
        corner = work.following[corner]
    if work.head[a] < 0:
        work.head[a] = work.head[b]
    else:
        work.following[work.tail[a]] = work.head[b]
    work.tail[a] = work.tail[b]
    for k in range(10):
        work.quadrics[a, k] = q[k]
    for k in range(3):
        work.points[a, k] = point[k]
    work.stamp[a] += 1
    work.stamp[b] = -1
    work.border[a] |= work.border[b]
    return gone


@leaf
def _push_ring(work: Work, queue: Queue, scratch: Scratch, a: int, value: int) -> None:
    """Queue the edges of a changed vertex again."""
    work.mark[a] = value
    corner = work.head[a]
    while corner >= 0:
        f, c = corner // 3, corner % 3
        corner = work.following[corner]
        if work.dead[f]:
            continue
        for k in range(1, 3):
            other = work.faces[f, (c + k) % 3]
            if work.mark[other] != value and work.stamp[other] >= 0:
                work.mark[other] = value
                cost = _best_point(work, a, other, scratch.quadric, scratch.point)
                _push(queue, scratch, cost, a, other, (work.stamp[a], work.stamp[other]), 0)


@njit(cache=True, nogil=True)
def _room() -> Scratch:
    cost = np.empty(1, np.float32)
    return Scratch(np.empty(10), np.empty(3), cost, cost.view(np.uint32))


@njit(cache=True, nogil=True)
def seed(work: Work, queue: Queue, pairs: np.ndarray, costs: np.ndarray) -> None:
    """Queue the edges int32 [E, 2] between vertices that are not locked; counts them by bucket int64 [BUCKETS]."""
    scratch = _room()
    q, point = scratch.quadric, scratch.point
    for e in range(len(pairs)):
        a, b = pairs[e, 0], pairs[e, 1]
        if work.stamp[a] >= 0 and work.stamp[b] >= 0:
            bucket = _push(queue, scratch, _best_point(work, a, b, q, point), a, b, (work.stamp[a], work.stamp[b]), 0)
            costs[bucket] += 1


@njit(cache=True, nogil=True)
def shrink(work: Work, queue: Queue, floor: int, limit: int, steps: int, tunnels: bool) -> int:
    """Collapse until at most `floor` faces are left, the cheapest bucket is beyond `limit`, or `steps` are done.

    Returns the steps done; fewer than asked for say that the slice is finished. work.state[0] holds the faces left.
    """
    scratch = _room()
    q, point = scratch.quadric, scratch.point
    alive, value = work.state[0], work.state[1]
    done = 0
    while alive > floor and done < steps:
        slot = _pop(queue, limit)
        if slot < 0:
            break
        done += 1
        a, b, tries = queue.ends[slot, 0], queue.ends[slot, 1], queue.tries[slot]
        if work.stamp[a] != queue.stamps[slot, 0] or work.stamp[b] != queue.stamps[slot, 1] or work.stamp[a] < 0:
            continue
        value += 3
        cost = _best_point(work, a, b, q, point)
        if tunnels:  # planes of opposite walls meet far away
            for k in range(3):
                point[k] = 0.5 * (work.points[a, k] + work.points[b, k])
        strict = tries < _RETRIES - 1
        if (
            not _link_allows(work, a, b, value, tunnels)
            or not _keeps_sides(work, a, b, point, strict)
            or not _keeps_sides(work, b, a, point, strict)
        ):
            if tries < _RETRIES:
                _push(queue, scratch, 8.0 * cost + 1e-16, a, b, (work.stamp[a], work.stamp[b]), tries + 1)
            continue
        alive -= _collapse(work, a, b, q, point)
        _mark_ring(work, a, value + 2)  # drops dead corners from the list
        value += 3
        _push_ring(work, queue, scratch, a, value)
    work.state[0], work.state[1] = alive, value
    return done


@njit(cache=True, nogil=True)
def corner_lists(faces: np.ndarray, vertex_count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    head, tail = np.full(vertex_count, -1, np.int32), np.full(vertex_count, -1, np.int32)
    following = np.full(3 * len(faces), -1, np.int32)
    for corner in range(3 * len(faces)):
        v = faces[corner // 3, corner % 3]
        if head[v] < 0:
            head[v] = corner
        else:
            following[tail[v]] = corner
        tail[v] = corner
    return head, tail, following


def empty_queue(capacity: int) -> Queue:
    """A queue for about `capacity` candidates at a time."""
    return Queue(
        np.full(BUCKETS, -1, np.int32), np.full(BUCKETS, -1, np.int32), np.empty((capacity, 2), np.int32),
        np.empty((capacity, 2), np.int32), np.zeros(capacity, np.int8), np.full(capacity, -1, np.int32),
        np.array([BUCKETS, -1, 0], np.int64),
    )  # fmt: skip
