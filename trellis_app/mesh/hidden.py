"""Scraps of inner walls that hang together with what is seen from outside.

Decoders leave them behind every wall. Where the open air does not reach a large region of a patch, rays from it decide:
they walk from lattice point to lattice point, along the lattice edges nearest to a line, until a face stops them or the
open air begins. Narrow grooves are seen by some of them; scraps behind a wall by hardly any.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import njit
from trellis_kernels.leaf import leaf

from trellis_app.mesh.air import Air
from trellis_app.mesh.orient import REGION, opposed_regions
from trellis_app.mesh.sides import Sides
from trellis_app.mesh.surface import Edges
from trellis_app.progress import Check, go_on

SAMPLES = 4000  # crossings along each axis that send rays
SEEN = 0.02  # of the rays of a region: if fewer get out it is hidden
STEPS = 400  # of a ray; one that goes so far has got out
_DIRECTIONS = 24


@cache
def ray_steps() -> np.ndarray:
    """Integer times between steps along x, y, z of evenly spread directions, signed as the direction, int64 [24, 3]."""
    k = np.arange(_DIRECTIONS) + 0.5
    z, turn = 1 - 2 * k / _DIRECTIONS, k * np.pi * (3 - np.sqrt(5))
    radius = np.sqrt(1 - z * z)
    direction = np.stack([radius * np.cos(turn), radius * np.sin(turn), z], axis=1)
    whole = np.rint(direction * 1000).astype(np.int64)
    return np.where(whole < 0, -1, 1) * ((1 << 24) // np.maximum(np.abs(whole), 1))


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
    axis: int,
    side: int,
    steps: np.ndarray,
    lines: tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]],
    shape: tuple[int, int, int],
    reached: np.ndarray,
    grain: int,
) -> np.ndarray:
    """How many rays from each lattice point get out, of those on the given side (1 or -1) along an axis.

    lines: first crossings of the lattice lines along x, y, z, and positions of the crossings.
    """
    starts, lowers = lines
    nx, ny, nz = shape
    out = np.zeros(len(points), np.int64)
    place, due = np.empty(3, np.int64), np.empty(3, np.int64)
    for i in range(len(points)):
        for d in range(len(steps)):
            if steps[d, axis] * side < 0:
                continue
            place[0], place[1], place[2] = points[i] // (ny * nz), points[i] // nz % ny, points[i] % nz
            for k in range(3):
                due[k] = abs(steps[d, k]) // 2
            free = True
            for _ in range(STEPS):
                if reached[place[0] // grain, place[1] // grain, place[2] // grain]:
                    break
                along = 0
                if due[1] < due[along]:
                    along = 1
                if due[2] < due[along]:
                    along = 2
                ahead = steps[d, along] > 0
                low = place[along] if ahead else place[along] - 1
                if low < 0 or low >= shape[along] - 1:
                    break
                if along == 0:
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
                due[along] += abs(steps[d, along])
            out[i] += free
    return out


def hidden_regions(edges: Edges, sides: Sides, air: Air, check: Check = go_on) -> np.ndarray:
    """Faces bool [F] of large regions that cannot be seen from outside, within patches that the open air reaches."""
    count = len(sides.reached)
    wish = np.where(sides.reached > 0, 1, -np.sign(sides.crossed)).astype(np.int32)
    hidden = np.zeros(count, dtype=bool)
    if -wish[wish < 0].sum() < REGION:
        return hidden
    two = edges.start[:-1][edges.counts == 2]
    region = opposed_regions(edges.halves[two] // 3, edges.halves[two + 1] // 3, wish)
    lines = tuple(one.start for one in air.along), tuple(one.lower for one in air.along)
    steps, balance = ray_steps(), np.zeros(count)
    for one in air.along:
        picked = np.flatnonzero(region[one.face] >= 0)
        picked = picked[:: -(-len(picked) // SAMPLES) or 1]
        for side in (-1, 1):
            check()
            points = one.point[picked] + (air.lattice.strides[one.axis] if side > 0 else 0)
            out = _rays_out(
                points, one.axis, side, steps, lines, air.lattice.shape, air.reached, air.grain
            )  # fmt: skip
            rays = int((steps[:, one.axis] * side > 0).sum())
            balance += np.bincount(region[one.face[picked]], weights=out - SEEN * rays, minlength=count)
    inner = region >= 0
    hidden[inner] = balance[region[inner]] < 0
    return np.zeros_like(hidden) if hidden.all() else hidden
