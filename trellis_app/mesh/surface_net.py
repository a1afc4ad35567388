"""A surface net: one vertex in every mixed cell of a set of lattice points, one quad around every mixed edge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from trellis_app.mesh.lattice import Lattice

BEHIND = 0.5  # of a step: distance from its inside end at which an edge is cut that the input does not cross
INSET = 0.005  # of a step: how far a vertex keeps from the walls of its cell, so that no two coincide
FINE = 1 << 20  # positions are summed as integers: steps in a lattice step
ROUNDS = 6  # in which cells that the input does not fix take the mean of their neighbours


@dataclass(frozen=True)
class Net:
    """The cells and quads of a set of lattice points; flat indices as in lattice.py."""

    quads: np.ndarray  # int32 [Q, 4] cells, wound outward
    edges: np.ndarray  # int64 [Q] lower end of each quad's lattice edge
    axes: np.ndarray  # int8 [Q] its axis, + 3 where the lower end is inside
    cells: np.ndarray  # int64 [N] lower corner of each cell, rising


def surface_net(inside: np.ndarray) -> Net:
    """The net of the points set in uint8 [nx, ny, nz]; none of them on the lattice's border."""
    edge_count, cell_bound = _net_size(inside)
    quads, edges = np.empty((edge_count, 4), np.int32), np.empty(edge_count, np.int64)
    axes, cells = np.empty(edge_count, np.int8), np.empty(min(cell_bound, 2 * edge_count), np.int64)
    return Net(quads, edges, axes, cells[: _net(inside, quads, edges, axes, cells)])


@njit(cache=True, nogil=True)
def _net_size(inside: np.ndarray) -> tuple[int, int]:
    """(mixed lattice edges, an upper bound of the mixed cells)."""
    nx, ny, nz = inside.shape
    edges = cells = 0
    for x in range(nx - 1):
        for y in range(ny - 1):
            for z in range(nz - 1):
                here = inside[x, y, z]
                mixed = (here != inside[x + 1, y, z]) + (here != inside[x, y + 1, z]) + (here != inside[x, y, z + 1])
                edges += mixed
                cells += mixed > 0
    return edges, 4 * cells


@njit(cache=True, nogil=True)
def _net(inside: np.ndarray, quads: np.ndarray, edges: np.ndarray, axes: np.ndarray, cells: np.ndarray) -> int:
    """Write the surface net: quads of cell numbers, outward; flat lower end and axis of each quad's lattice edge (the
    axis + 3 where the lower end is inside); flat lower corner of each cell. Returns how many cells."""
    nx, ny, nz = inside.shape
    before, now = np.full((ny, nz), -1, np.int32), np.full((ny, nz), -1, np.int32)
    q = c = 0
    for x in range(nx - 1):
        before, now = now, before
        for y in range(ny - 1):
            below = inside[x, y, 0] + inside[x, y + 1, 0] + inside[x + 1, y, 0] + inside[x + 1, y + 1, 0]
            for z in range(nz - 1):
                above = (
                    inside[x, y, z + 1]
                    + inside[x, y + 1, z + 1]
                    + inside[x + 1, y, z + 1]
                    + inside[x + 1, y + 1, z + 1]
                )
                now[y, z] = -1
                if 0 < below + above < 8:
                    now[y, z] = c
                    cells[c] = (np.int64(x) * ny + y) * nz + z
                    c += 1
                below = above
        for y in range(1, ny - 1):
            for z in range(1, nz - 1):
                here = inside[x, y, z]
                for axis in range(3):
                    if axis == 0:
                        there = inside[x + 1, y, z]
                        ring = (now[y - 1, z - 1], now[y, z - 1], now[y, z], now[y - 1, z])
                    elif axis == 1:
                        there = inside[x, y + 1, z]
                        ring = (before[y, z - 1], before[y, z], now[y, z], now[y, z - 1])
                    else:
                        there = inside[x, y, z + 1]
                        ring = (before[y - 1, z], now[y - 1, z], now[y, z], before[y, z])
                    if here == there:
                        continue
                    for i in range(4):
                        quads[q, i] = ring[i if here else 3 - i]
                    edges[q] = (np.int64(x) * ny + y) * nz + z
                    axes[q] = axis + 3 * here
                    q += 1
    return c


@njit(cache=True, nogil=True)
def _add_crossings(
    quads: np.ndarray, axes: np.ndarray, edges: np.ndarray, depth: np.ndarray, cells: np.ndarray, strides: np.ndarray,
    total: np.ndarray, missing: np.ndarray,
) -> None:  # fmt: skip
    """Add to each cell's `total` (int64 [N, 4], the last is the count) the crossings on its mixed edges from its lower
    corner, in fine steps; `missing` is set where an edge is not crossed by the input (depth NaN)."""
    place = np.empty(3, np.int64)
    for q in range(len(quads)):
        axis, leaving = axes[q] % 3, axes[q] >= 3
        absent = np.isnan(depth[q])
        at = (BEHIND if leaving else 1.0 - BEHIND) if absent else depth[q]
        for i in range(4):
            cell = quads[q, i]
            rest = edges[q] - cells[cell]
            for k in range(3):
                place[k] = 0 if k == axis or rest < strides[k] else FINE
                rest -= strides[k] if place[k] else 0
            place[axis] = np.int64(np.rint(at * FINE))
            for k in range(3):
                total[cell, k] += place[k]
            total[cell, 3] += 1
            missing[cell] = missing[cell] or absent


@njit(cache=True, nogil=True)
def _relax(quads: np.ndarray, loose: np.ndarray, corner: np.ndarray, place: np.ndarray) -> None:
    """Move loose cells' places to the mean of their neighbours, within their cells, in a few rounds."""
    total, count = np.empty((len(place), 3), np.int64), np.empty(len(place), np.int64)
    for _ in range(ROUNDS):
        total[:], count[:] = 0, 0
        for q in range(len(quads)):
            for i in range(4):
                for j in (quads[q, (i + 1) % 4], quads[q, (i + 3) % 4]):
                    cell = quads[q, i]
                    if loose[cell]:
                        count[cell] += 1
                        for k in range(3):
                            total[cell, k] += np.int64(np.rint((corner[j, k] - corner[cell, k] + place[j, k]) * FINE))
        for cell in range(len(place)):
            if loose[cell]:
                for k in range(3):
                    mean = total[cell, k] / (count[cell] * FINE)
                    place[cell, k] = min(max(mean, INSET), 1.0 - INSET)


def net_points(net: Net, depth: np.ndarray, vertices: np.ndarray, lattice: Lattice) -> np.ndarray:
    """A point in every cell, float64 [N, 3] in world units.

    It is the mean of the input's vertices (float32 [V, 3]) in the cell; without one the mean of the crossings on its
    edges (depth float64 [Q], NaN where the input has none); where crossings are missing, the mean of its neighbours.
    """
    total, missing = np.zeros((len(net.cells), 4), np.int64), np.zeros(len(net.cells), dtype=bool)
    strides = np.array(lattice.strides)
    _add_crossings(net.quads, net.axes, net.edges, depth, net.cells, strides, total, missing)
    place = total[:, :3] / (total[:, 3:] * FINE)
    given = (vertices - lattice.low) / lattice.step
    corner = np.floor(given)
    key = corner.astype(np.int64) @ strides
    at = np.minimum(np.searchsorted(net.cells, key), len(net.cells) - 1)
    inner = np.flatnonzero((net.cells[at] == key) & ~missing[at])
    at, local = at[inner], np.rint((given - corner)[inner] * FINE)
    count = np.bincount(at, minlength=len(place))
    mean = np.stack([np.bincount(at, weights=local[:, k], minlength=len(place)) for k in range(3)], axis=1)
    hit = count > 0
    place[hit] = mean[hit] / (count[hit, None] * FINE)
    place = np.clip(place, INSET, 1 - INSET)
    corner = np.stack(np.unravel_index(net.cells, lattice.shape), axis=1).astype(np.float64)
    _relax(net.quads, missing, corner, place)
    return lattice.low + lattice.step * (corner + place)


@njit(cache=True, nogil=True)
def net_triangles(quads: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Cut quads along the diagonal across which they bend less, int32 [2 Q, 3]."""
    out = np.empty((2 * len(quads), 3), np.int32)
    normal = np.empty((4, 3))
    for q in range(len(quads)):
        for i in range(4):  # of the triangle that leaves corner i out
            a, b, c = points[quads[q, (i + 1) % 4]], points[quads[q, (i + 2) % 4]], points[quads[q, (i + 3) % 4]]
            normal[i] = np.cross(b - a, c - a)
            normal[i] /= max(np.sqrt((normal[i] ** 2).sum()), 1e-30)
        straight = (normal[1] * normal[3]).sum() >= (normal[0] * normal[2]).sum()  # cut from corner 0 to corner 2
        for k, i in enumerate((0, 1, 2) if straight else (0, 1, 3)):
            out[2 * q, k] = quads[q, i]
        for k, i in enumerate((0, 2, 3) if straight else (1, 2, 3)):
            out[2 * q + 1, k] = quads[q, i]
    return out
