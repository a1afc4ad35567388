"""Which lattice points the open air reaches, also where the surface leaks.

A point is enclosed if no path of free lattice edges leads out of the surface. Decoded surfaces have holes, and air that
comes in through them must not turn a solid into a shell: a point is also enclosed if a cube of a thirty-second of the
surface's size cannot get to it from outside and either most of the six lattice lines from it meet an odd number of
faces (the parity vote of Nooruddin and Turk, "Simplification and Repair of Polygonal Models Using Volumetric
Techniques", 2003) or none of them leaves freely.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from trellis_kernels.leaf import leaf

from trellis_app.mesh.lattice import Crossings, Lattice, Regions, crossings, lattice_around, regions
from trellis_app.mesh.surface import Surface
from trellis_app.progress import Check, go_on

_COARSE = 128  # cells of the coarse grid along the longest side
_RADIUS = 4  # half the side of the cube, in coarse cells


@dataclass(frozen=True)
class Air:
    """The open air around a surface on its lattice."""

    lattice: Lattice
    along: tuple[Crossings, Crossings, Crossings]
    found: Regions
    reached: np.ndarray  # bool [x, y, z] coarse cells that the cube covers on its way
    grain: int  # lattice points along the side of a coarse cell

    def open(self, points: np.ndarray, *, leaks: bool = True) -> np.ndarray:
        """Whether the open air reaches lattice points (flat indices), bool; `leaks`: through holes does not count."""
        free = self.found.of(points) == 0
        if leaks:
            _close_leaks(points, free, self.reached, self.grain, self.lattice.shape, *self._lines())
        return free

    def _lines(self) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        return tuple(one.start for one in self.along), tuple(one.lower for one in self.along)


def open_air(surface: Surface, *, voxel: float, check: Check = go_on) -> Air:
    """The air around a surface with at least one face, on a lattice of `voxel` (world units)."""
    lattice = lattice_around(surface.vertices, voxel)
    along = crossings(surface, lattice, check=check)
    found = regions((along[0].point, along[1].point, along[2].point), lattice, check=check)
    grain = -(-max(lattice.shape) // _COARSE)
    blocked = np.zeros([-(-n // grain) + 2 * _RADIUS for n in lattice.shape], np.uint8)
    for one in along:
        for points in (one.point, one.point + lattice.strides[one.axis]):
            _mark_coarse(blocked, points, grain, lattice.shape)
    check()
    reached = _flooded(_dilated(blocked) ^ 1)
    check()
    inner = slice(_RADIUS, -_RADIUS)
    return Air(lattice, along, found, _dilated(reached)[inner, inner, inner].astype(bool), grain)


@njit(cache=True, nogil=True)
def _mark_coarse(blocked: np.ndarray, points: np.ndarray, grain: int, shape: tuple[int, int, int]) -> None:
    for p in points:
        x, y, z = p // (shape[1] * shape[2]), p // shape[2] % shape[1], p % shape[2]
        blocked[x // grain + _RADIUS, y // grain + _RADIUS, z // grain + _RADIUS] = 1


def _dilated(cells: np.ndarray) -> np.ndarray:
    """Cells within `_RADIUS` of a set cell along every axis, uint8."""
    for axis in range(3):
        wide = np.pad(cells, [(_RADIUS, _RADIUS) if a == axis else (0, 0) for a in range(3)])
        size = cells.shape[axis]
        reach, parts = 1, wide  # running maximum over windows that double
        while 2 * reach <= 2 * _RADIUS + 1:
            length = parts.shape[axis] - reach
            parts = np.maximum(parts.take(range(length), axis), parts.take(range(reach, reach + length), axis))
            reach *= 2
        rest = 2 * _RADIUS + 1 - reach
        cells = np.maximum(parts.take(range(size), axis), parts.take(range(rest, rest + size), axis))
    return cells


@njit(cache=True, nogil=True)
def _flooded(free: np.ndarray) -> np.ndarray:
    """The free cells that are connected to the first one over their faces, uint8."""
    nx, ny, nz = free.shape
    out = np.zeros(free.shape, np.uint8)
    stack = np.empty(free.size, np.int32)
    flat_free, flat = free.reshape(-1), out.reshape(-1)
    stack[0], flat[0], top = 0, 1, 1
    while top > 0:
        top -= 1
        p = stack[top]
        x, y, z = p // (ny * nz), p // nz % ny, p % nz
        for side in range(6):
            if side == 0:
                inside, q = x > 0, p - ny * nz
            elif side == 1:
                inside, q = x < nx - 1, p + ny * nz
            elif side == 2:
                inside, q = y > 0, p - nz
            elif side == 3:
                inside, q = y < ny - 1, p + nz
            elif side == 4:
                inside, q = z > 0, p - 1
            else:
                inside, q = z < nz - 1, p + 1
            if inside and flat_free[q] and not flat[q]:
                flat[q] = 1
                stack[top] = q
                top += 1
    return out


@leaf
def _before(lower: np.ndarray, start: np.ndarray, line: int, position: int) -> tuple[int, int]:
    """(crossings of a line before a position, and after it)."""
    low, high = start[line], start[line + 1]
    end = high
    while low < high:
        middle = (low + high) // 2
        if lower[middle] < position:
            low = middle + 1
        else:
            high = middle
    return low - start[line], end - low


@njit(cache=True, nogil=True)
def _close_leaks(
    points: np.ndarray,
    free: np.ndarray,
    reached: np.ndarray,
    grain: int,
    shape: tuple[int, int, int],
    starts: tuple[np.ndarray, ...],
    lowers: tuple[np.ndarray, ...],
) -> None:
    """Clear `free` at points that only leaks connect with the open air."""
    nx, ny, nz = shape
    for i in range(len(points)):
        if not free[i]:
            continue
        p = points[i]
        x, y, z = p // (ny * nz), p // nz % ny, p % nz
        if reached[x // grain, y // grain, z // grain]:
            continue
        below_x, above_x = _before(lowers[0], starts[0], y * nz + z, x)
        below_y, above_y = _before(lowers[1], starts[1], z * nx + x, y)
        below_z, above_z = _before(lowers[2], starts[2], x * ny + y, z)
        odd = (below_x & 1) + (above_x & 1) + (below_y & 1) + (above_y & 1) + (below_z & 1) + (above_z & 1)
        blind = below_x > 0 and above_x > 0 and below_y > 0 and above_y > 0 and below_z > 0 and above_z > 0
        free[i] = odd < 4 and not blind
