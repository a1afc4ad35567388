"""Which sides of its faces the open air around a surface reaches."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from trellis_app.mesh.air import Air, open_air
from trellis_app.mesh.lattice import Crossings
from trellis_app.mesh.surface import Surface
from trellis_app.progress import Check, go_on

SKY, PARITY = 0.5, 0.02  # weight of a free line, and of an even number of faces on it, where air is on both sides


@dataclass(frozen=True)
class Sides:
    """What the open air reaches of each face."""

    vote: np.ndarray  # float64 [F] positive: its front, negative: its back
    crossed: np.ndarray  # int64 [F] lattice edges that cross the face
    reached: np.ndarray  # int64 [F] how many of these have open air at one end at least
    outward: np.ndarray  # int64 [F] how many have it at the front only
    inward: np.ndarray  # int64 [F] how many have it at the back only

    def picked(self, faces: np.ndarray) -> Sides:
        """Of the faces selected by a mask or an index array."""
        return Sides(*(getattr(self, field.name)[faces] for field in fields(self)))


def open_sides(surface: Surface, *, voxel: float, leaks: bool = True, check: Check = go_on) -> Sides:
    """Which sides of the faces the open air reaches, on a lattice of `voxel` (world units).

    leaks: air that comes in through holes does not count; False for closed surfaces, whose narrow passages are real.
    """
    return sides_of(open_air(surface, voxel=voxel, check=check), len(surface.faces), leaks=leaks, check=check)


def sides_of(air: Air, count: int, *, leaks: bool = True, check: Check = go_on) -> Sides:
    """As `open_sides`, of a surface with `count` faces, from its air."""
    vote = np.zeros(count)
    crossed, reached, outward, inward = (np.zeros(count, np.int64) for _ in range(4))
    for one in air.along:
        low = one.first & air.open(one.point, leaks=leaks)
        high = one.last & air.open(one.point + air.lattice.strides[one.axis], leaks=leaks)
        vote += np.bincount(one.face, weights=_votes(one, low, high), minlength=count)
        crossed += np.bincount(one.face, minlength=count)
        reached += np.bincount(one.face[low | high], minlength=count)
        outward += np.bincount(one.face[(low ^ high) & (high == one.rising)], minlength=count)
        inward += np.bincount(one.face[(low ^ high) & (low == one.rising)], minlength=count)
        check()
    return Sides(vote, crossed, reached, outward, inward)


def _votes(one: Crossings, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Vote of each crossing for the front of its face; low, high: whether the open air is at its ends."""
    up = high.astype(np.float64) - low
    both = low & high
    sky = (one.above == 0).astype(np.float64) - (one.below == 0)
    parity = (one.above % 2 == 0).astype(np.float64) - (one.below % 2 == 0)
    up[both] = SKY * sky[both] + PARITY * parity[both]
    return np.where(one.rising, up, -up)
