"""What cannot be seen from outside: inner shells, partition walls, the back of what lies behind a wall.

Decoders leave them behind every wall, and the open air comes to them through leaks; parity tells leaks apart, but it
takes a pane in a frame, or a floor above an open ground, for something inside too. Where the air does not reach a patch
or a large region of one, rays from it decide: they walk from lattice point to lattice point, along the lattice edges
nearest to a line, until a face stops them or they are out. What some of them see from the open air stays, turned to
where most of them get right out; of a patch that the air does not reach, large regions that none of them sees go.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Generic, TypeVar

import numpy as np
import torch
from numba import njit
from trellis_kernels.leaf import leaf

from trellis_app.mesh.air import Air, open_air
from trellis_app.mesh.lattice import Crossings
from trellis_app.mesh.orient import HIDDEN, REGION, opposed_regions, unreached
from trellis_app.mesh.sides import Sides, sides_of
from trellis_app.mesh.surface import Edges, Surface
from trellis_app.parallel import in_parallel
from trellis_app.progress import Check, go_on

SAMPLES = 8000  # crossings along each axis that send rays, about; more where regions are many and small
# A region, or a whole patch, is hidden if no more of a hundred rays come into the open air, or of a thousand right out.
SEEN, WHOLE = 2, 4
FEW = 100  # crossings of a region along an axis that send rays at least
LIT = 4  # weight of a crossing that is seen over one that is not, where a region is divided
STEPS = 400  # of a ray; nothing stops one that goes so far
_AT_ONCE = 1000  # points whose rays walk between two checks, and on one core
SETS, _RAYS = 5, 12  # sets of directions, taken in turn by lattice points; directions of each

Array = TypeVar("Array", np.ndarray, torch.Tensor)


@cache
def ray_steps() -> np.ndarray:
    """Integer times between steps along x, y, z of evenly spread lines, signed, int64 [SETS, rays, 3].

    A ray from one side of a face takes the end of its line that leads away from it.
    """
    k = np.arange(SETS * _RAYS).reshape(_RAYS, SETS).T + 0.5
    z, turn = k / k.size, (k // SETS) * np.pi * (3 - np.sqrt(5)) + 2 * np.pi * np.arange(SETS)[:, None] / SETS
    radius = np.sqrt(1 - z * z)
    direction = np.stack([radius * np.cos(turn), radius * np.sin(turn), z], axis=-1)
    whole = np.rint(direction * 1000).astype(np.int64)
    return np.where(whole < 0, -1, 1) * ((1 << 24) // np.maximum(np.abs(whole), 1))


def ray_weights(steps: np.ndarray) -> np.ndarray:
    """How much of a face across each axis the rays see, int64 as `ray_steps`: the cosine, times about a thousand."""
    return (1 << 24) // np.abs(steps)


@leaf
def _closed(lower: np.ndarray, first: int, last: int, position: int) -> bool:
    """Whether a line's crossings first .. last have one on the edge above a position."""
    found = False
    for i in range(first, last):
        found = found or lower[i] == position
    return found


@njit(cache=True, nogil=True)
def _rays_out(
    points: np.ndarray,
    towards: tuple[int, int],
    steps: np.ndarray,
    weights: np.ndarray,
    lines: tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]],
    shape: tuple[int, int, int],
    reached: np.ndarray,
    grain: int,
) -> np.ndarray:
    """Weight of the rays from each lattice point that come into the open air, and of those that no face stops: int64
    [2, N]. towards: an axis, and the side along it (1 or -1).

    lines: first crossings of the lattice lines along x, y, z, and positions of the crossings.
    """
    starts, lowers = lines
    axis, side = towards
    nx, ny, nz = shape
    out = np.zeros((2, len(points)), np.int64)
    place, due, step = np.empty(3, np.int64), np.empty(3, np.int64), np.empty(3, np.int64)
    for i in range(len(points)):
        chosen = points[i] % len(steps)
        for d in range(steps.shape[1]):
            place[0], place[1], place[2] = points[i] // (ny * nz), points[i] // nz % ny, points[i] % nz
            turn = side if steps[chosen, d, axis] > 0 else -side
            for k in range(3):
                step[k] = turn * steps[chosen, d, k]
                due[k] = abs(step[k]) // 2
            free, aired = True, False
            for _ in range(STEPS):
                open_here = reached[place[0] // grain, place[1] // grain, place[2] // grain]
                aired = aired or open_here
                along = 0
                if due[1] < due[along]:
                    along = 1
                if due[2] < due[along]:
                    along = 2
                ahead = step[along] > 0
                low = place[along] if ahead else place[along] - 1
                if low < 0 or low >= shape[along] - 1:
                    break
                if open_here:
                    stopped = False
                elif along == 0:
                    line = place[1] * nz + place[2]
                    stopped = _closed(lowers[0], starts[0][line], starts[0][line + 1], low)
                elif along == 1:
                    line = place[2] * nx + place[0]
                    stopped = _closed(lowers[1], starts[1][line], starts[1][line + 1], low)
                else:
                    line = place[0] * ny + place[1]
                    stopped = _closed(lowers[2], starts[2][line], starts[2][line + 1], low)
                if stopped:
                    free = False
                    break
                place[along] += 1 if ahead else -1
                due[along] += abs(step[along])
            if free or aired:
                out[0, i] += weights[chosen, d, axis]
            if free:
                out[1, i] += weights[chosen, d, axis]
    return out


@dataclass(frozen=True)
class Looks(Generic[Array]):
    """What the rays from some crossings tell; numpy arrays, or torch tensors in gpu/hidden.py."""

    face: Array  # int [S]
    stride: Array  # int64 [S] crossings of a region that each one stands for
    whole: Array  # int64 [S] weight of all rays
    aired: Array  # int64 [S] and of those that come into the open air
    out: Array  # int64 [S] and of those that nothing stops
    front: Array  # int64 [S] these at the face's front, less those at its back


def _looks(one: Crossings, region: np.ndarray, air: Air, check: Check) -> Looks[np.ndarray]:
    """Rays from crossings along an axis of regions (int [F], -1: none): all of small ones, a share of others."""
    doubtful = np.flatnonzero(region[one.face] >= 0)
    own = region[one.face[doubtful]]
    order = np.argsort(own, kind="stable")
    first, last = (np.searchsorted(own[order], own[order], side) for side in ("left", "right"))
    stride = strides(last - first, int((np.arange(len(own)) == first).sum()))
    stride = np.where((np.arange(len(own)) - first) % stride == 0, stride, 0)
    stride[order] = stride.copy()
    picked, stride = doubtful[stride > 0], stride[stride > 0]
    steps, sign = ray_steps(), np.where(one.rising[picked], 1, -1)
    weights = ray_weights(steps)
    whole, aired, out, front = (np.zeros(len(picked), np.int64) for _ in range(4))
    lines = tuple(other.start for other in air.along), tuple(other.lower for other in air.along)
    for side, ends, shift in ((-1, one.first, 0), (1, one.last, air.lattice.strides[one.axis])):
        points = one.point[picked] + shift
        free = np.flatnonzero(ends[picked] & (air.found.of(points) == 0))
        walk = partial(
            _rays_out, towards=(one.axis, side), steps=steps, weights=weights, lines=lines,
            shape=air.lattice.shape, reached=air.reached, grain=air.grain,
        )  # fmt: skip
        found = in_parallel(walk, np.array_split(points[free], -(-len(free) // _AT_ONCE) or 1), check)
        near, far = np.concatenate(found, axis=1)
        aired[free] += near
        out[free] += far
        front[free] += side * sign[free] * far
        whole += weights[points % len(steps), :, one.axis].sum(axis=1)
    return Looks(one.face[picked], stride, whole, aired, out, front)


def strides(sizes: Array, regions: int) -> Array:
    """Every which crossing along an axis sends rays, for doubtful crossings that share their region with `sizes` - 1
    others (int64 [N], numpy or torch): at least FEW of a region, or fewer where regions are so many."""
    few = min(max(4 * SAMPLES // max(regions, 1), 1), FEW)
    return (sizes // few).clip(1, -(-len(sizes) // SAMPLES) or 1)


def _doubtful(label: np.ndarray, edges: Edges, sides: Sides, unlit: np.ndarray) -> np.ndarray:
    """The patches or parts (label int [F]) that are unlit (bool [F]), and large regions that no air reaches in others:
    each face's region by one of its faces, int64 [F], -1 for faces in none."""
    count = len(label)
    region = np.full(count, -1)
    wish = np.where(sides.reached > 0, 1, -np.sign(sides.crossed)).astype(np.int32)
    if -wish[wish < 0].sum() >= REGION:
        two = edges.start[:-1][edges.counts == 2]
        region = opposed_regions(edges.halves[two] // 3, edges.halves[two + 1] // 3, wish)
    member = np.zeros(int(label.max()) + 1, np.int64)
    member[label] = np.arange(count)
    region[unlit] = member[label[unlit]]
    return region


def hidden_faces(
    label: np.ndarray, edges: Edges, sides: Sides, air: Air, *, check: Check = go_on
) -> tuple[np.ndarray, Sides]:
    """(faces bool [F] that nobody sees from outside, the sides with what the rays found out); none if all are hidden.

    label: patch or part of each face, int [F]. Small regions that hang together with what is seen stay.
    """
    count = len(label)
    unlit = unreached(label, sides)
    region = _doubtful(label, edges, sides, unlit)
    if not (region >= 0).any():
        return np.zeros(count, dtype=bool), sides
    looks = [_looks(one, region, air, check) for one in air.along]
    balance, beyond, wish = (np.zeros(count) for _ in range(3))
    least = np.where(unlit, WHOLE, SEEN)
    for look in looks:
        own, wanted = region[look.face], least[look.face] * look.whole
        balance += np.bincount(own, weights=look.stride * (100 * look.aired - wanted), minlength=count)
        beyond += np.bincount(own, weights=look.stride * (1000 * look.out - wanted), minlength=count)
        wish += np.bincount(look.face, weights=look.stride * np.where(look.aired > 0, LIT, -1), minlength=count)
    inner = region >= 0
    dark = inner.copy()
    dark[inner] = np.minimum(balance, beyond)[region[inner]] <= 0
    wish = np.where(dark, -sides.crossed, np.where(unlit, wish, 1)).astype(np.int32)
    hidden = dark
    if -wish[(wish < 0) & ~dark].sum() >= REGION:
        two = edges.start[:-1][edges.counts == 2]
        hidden = dark | (opposed_regions(edges.halves[two] // 3, edges.halves[two + 1] // 3, wish) >= 0)
    if hidden.all():
        return np.zeros_like(hidden), sides
    return hidden, _seen(sides, looks, inner & ~dark)


def _seen(sides: Sides, looks: list[Looks[np.ndarray]], lit: np.ndarray) -> Sides:
    """The sides with what rays found out about some faces (bool [F]), which the air alone did not reach."""
    vote, reached = sides.vote.copy(), np.where(lit, 0, sides.reached)
    outward, inward = np.where(lit, 0, sides.outward), np.where(lit, 0, sides.inward)
    vote[lit] = 0.0
    for look in looks:
        use = lit[look.face]
        for total, which in ((reached, look.aired > 0), (outward, look.front > 0), (inward, look.front < 0)):
            total += _sums(look.face[which & use], look.stride[which & use], len(lit))
    return Sides(vote, sides.crossed, reached, outward, inward)


def _sums(face: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Sums of integers by face, int64 [count]."""
    return np.rint(np.bincount(face, weights=values, minlength=count)).astype(np.int64)


def looked_at(
    surface: Surface, edges: Edges, label: np.ndarray, *, voxel: float, leaks: bool = True, check: Check = go_on
) -> tuple[np.ndarray, Sides]:
    """As `hidden_faces`, of a surface whose patches or parts are labelled; voxel and leaks as in `open_sides`."""
    air = open_air(surface, voxel=voxel, check=check)
    sides = sides_of(air, len(surface.faces), leaks=leaks, check=check)
    return hidden_faces(label, edges, sides, air, check=check)


def hidden_parts(hidden: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Which parts (of each face: int [F]) are nearly all hidden, bool [P]; hidden: bool [F]."""
    return np.bincount(part, weights=~hidden) < HIDDEN * np.bincount(part)
