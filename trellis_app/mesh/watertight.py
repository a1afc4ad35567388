"""A closed solid from any oriented surface: the lattice points inside it, and a surface net around them.

Inside are the points that the open air does not reach, and, where a sheet has air on both sides, the points behind it:
a sheet becomes a plate about a voxel thick. Points are added until no two inside points touch only over an edge or a
corner of the lattice (a well-composed set: Latecki, "3D Well-Composed Pictures", 1997) and no cavity is left. The net,
one vertex a mixed cell and one quad a mixed lattice edge, is then a closed 2-manifold, whatever came in.

Vertices of the input stay where they are if the net has a cell around them; other cells take the mean of the crossings.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trellis_app.mesh.air import Air, open_air
from trellis_app.mesh.lattice import Crossings, Lattice, Regions, regions
from trellis_app.mesh.surface import Surface
from trellis_app.progress import Check, go_on

_BEHIND = 0.25  # of a step: distance of the far side of a plate from its points
_INSET = 0.005  # of a step: how far a vertex keeps from the walls of its cell, so that no two coincide


@njit(cache=True, nogil=True)
def _fill_runs(inside: np.ndarray, cuts: np.ndarray, region: np.ndarray, slab: tuple[int, int]) -> None:
    """Mark the points of the lines slab[0] .. slab[1] (x index) whose run is not open air."""
    ny, nz = inside.shape[1], inside.shape[2]
    first = np.searchsorted(cuts, np.int64(slab[0]) * ny * nz)
    i = first
    for x in range(slab[0], slab[1]):
        for y in range(ny):
            line = x * ny + y
            base, low = np.int64(line) * nz, 0
            while True:
                cut = i < len(cuts) and cuts[i] < base + nz
                high = cuts[i] - base if cut else nz - 1
                if region[line + i] != 0:
                    inside[x, y, low : high + 1] = 1
                if not cut:
                    break
                low = high + 1
                i += 1


def _behind_sheets(one: Crossings, inside: np.ndarray, stride: int) -> np.ndarray:
    """Points to add behind the crossings that have no inside point at either end of their edge."""
    start = np.flatnonzero(one.first)
    flat = inside.reshape(-1)
    both = (flat[one.point[start]] == 0) & (flat[one.point[start] + stride] == 0)
    rising = np.add.reduceat(np.where(one.rising, 1, -1), start) if len(start) else np.zeros(0, np.int64)
    return (one.point[start] + np.where(rising < 0, stride, 0))[both]


@njit(cache=True, nogil=True)
def _part_diagonals(inside: np.ndarray, x: int) -> int:
    """Add points in the cells between the planes x and x + 1 where points touch only diagonally; returns how many."""
    added = 0
    corner = np.empty((2, 2, 2), np.uint8)
    ny, nz = inside.shape[1], inside.shape[2]
    for y in range(ny - 1):
        below = inside[x, y, 0] + inside[x, y + 1, 0] + inside[x + 1, y, 0] + inside[x + 1, y + 1, 0]
        for z in range(nz - 1):
            above = (
                inside[x, y, z + 1] + inside[x, y + 1, z + 1] + inside[x + 1, y, z + 1] + inside[x + 1, y + 1, z + 1]
            )
            total, below = below + above, above
            if total < 2 or total > 6:
                continue
            corner[:, :, :] = inside[x : x + 2, y : y + 2, z : z + 2]
            if _fill_diagonals(corner):
                added += corner.sum() - total
                inside[x : x + 2, y : y + 2, z : z + 2] = corner
                below = corner[:, :, 1].sum()
    return added


@njit(cache=True, nogil=True)
def _fill_diagonals(corner: np.ndarray) -> bool:
    """Add corners of one cell until inside and outside corners are each connected along its edges; True if any."""
    changed, again = False, True
    while again:
        again = False
        for side in range(2):
            for p in range(2):  # on each face: a corner that is out between two that are in, itself opposite one out
                q = 1 - p
                if corner[side, p, p] and corner[side, q, q] and not corner[side, p, q] and not corner[side, q, p]:
                    corner[side, 0, 1] = 1
                    again = True
                if corner[p, side, p] and corner[q, side, q] and not corner[p, side, q] and not corner[q, side, p]:
                    corner[0, side, 1] = 1
                    again = True
                if corner[p, p, side] and corner[q, q, side] and not corner[p, q, side] and not corner[q, p, side]:
                    corner[0, 1, side] = 1
                    again = True
            if corner[side, 0, 1] and corner[side, 1, 0] and not corner[side, 0, 0] and not corner[side, 1, 1]:
                corner[side, 0, 0] = 1
                again = True
            if corner[0, side, 1] and corner[1, side, 0] and not corner[0, side, 0] and not corner[1, side, 1]:
                corner[0, side, 0] = 1
                again = True
            if corner[0, 1, side] and corner[1, 0, side] and not corner[0, 0, side] and not corner[1, 1, side]:
                corner[0, 0, side] = 1
                again = True
        total = corner.sum()
        for p in range(2):
            for q in range(2):
                near, far = corner[0, p, q], corner[1, 1 - p, 1 - q]
                if total == 2 and near and far:
                    corner[1, p, q] = corner[1, 1 - p, q] = 1
                    again = True
                elif total == 6 and not near and not far:
                    corner[0, p, q] = 1
                    again = True
        changed = changed or again
    return changed


def _compose_well(inside: np.ndarray, check: Check) -> None:
    """Add points until the set is well-composed; only slabs beside a change are looked at again."""
    pending = np.ones(len(inside) - 1, dtype=bool)
    while pending.any():
        for x in np.flatnonzero(pending):
            check()
            pending[x] = False
            if _part_diagonals(inside, int(x)):
                pending[max(x - 1, 0) : x + 2] = True


@njit(cache=True, nogil=True)
def _net(
    inside: np.ndarray, quads: np.ndarray, edges: np.ndarray, axes: np.ndarray, cells: np.ndarray
) -> tuple[int, int]:
    """Write the surface net: quads of cell numbers, outward; flat lower end and axis of each quad's lattice edge (the
    axis + 3 where the lower end is inside); flat lower corner of each cell. Returns how many quads and cells."""
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
    return q, c


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
def _set_points(inside: np.ndarray, points: np.ndarray) -> None:
    flat = inside.reshape(-1)
    for p in points:
        flat[p] = 1


@njit(cache=True, nogil=True)
def _place_cells(
    quads: np.ndarray,
    edges: np.ndarray,
    axes: np.ndarray,
    depth: np.ndarray,
    shape: tuple[int, int, int],
    total: np.ndarray,
    count: np.ndarray,
    known: np.ndarray,
) -> None:
    """Add to each cell the positions of the crossings on its mixed edges (lattice units); `known` is cleared where an
    edge was not crossed by the input (depth NaN)."""
    for q in range(len(quads)):
        p = edges[q]
        axis, leaving = axes[q] % 3, axes[q] >= 3
        place = np.array([p // (shape[1] * shape[2]), p // shape[2] % shape[1], p % shape[2]], np.float64)
        recorded = not np.isnan(depth[q])
        place[axis] += depth[q] if recorded else (_BEHIND if leaving else 1.0 - _BEHIND)
        for i in range(4):
            cell = quads[q, i]
            count[cell] += 1
            known[cell] = known[cell] and recorded
            for k in range(3):
                total[cell, k] += place[k]


@njit(cache=True, nogil=True)
def _triangles(quads: np.ndarray, points: np.ndarray) -> np.ndarray:
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


def _depths(along: tuple[Crossings, ...], edges: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Where the input crosses each net edge, farthest from the inside end; NaN where it does not."""
    depth = np.full(len(edges), np.nan)
    for one in along:
        for leaving in (False, True):
            pick = np.flatnonzero(axes == one.axis + 3 * leaving)
            ends = one.last if leaving else one.first
            keys, values = one.point[ends], one.depth[ends]
            order = np.argsort(keys, kind="stable")
            at = np.minimum(np.searchsorted(keys[order], edges[pick]), max(len(keys) - 1, 0))
            if len(keys):
                hit = keys[order][at] == edges[pick]
                depth[pick[hit]] = values[order][at[hit]]
    return depth


def _kept_vertices(vertices: np.ndarray, lattice: Lattice, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(cells that hold a vertex of the input, its place in lattice units): the first of several vertices."""
    place = (vertices - lattice.low) / lattice.step
    corner = np.floor(place).astype(np.int64)
    key = corner @ np.array(lattice.strides)
    order = np.argsort(key, kind="stable")
    fresh = np.concatenate([[True], np.diff(key[order]) != 0])
    key, first = key[order[fresh]], order[fresh]
    at = np.minimum(np.searchsorted(key, cells), len(key) - 1)
    hit = np.flatnonzero(key[at] == cells)
    return hit, place[first[at[hit]]]


def _mark_inside(inside: np.ndarray, found: Regions, check: Check) -> None:
    """Mark the points outside region 0."""
    for x in range(0, len(inside), 16):
        _fill_runs(inside, found.cuts, found.region, (x, min(x + 16, len(inside))))
        check()


def _close_leaks(inside: np.ndarray, air: Air, check: Check) -> None:
    """Mark the points that the open air reaches through leaks only."""
    step = max(1, (1 << 22) // inside[0].size)
    for x in range(0, len(inside), step):
        slab = inside[x : x + step].reshape(-1)
        points = np.flatnonzero(slab == 0)
        slab[points[~air.open(points + x * inside[0].size)]] = 1
        check()


def _solid(surface: Surface, air: Air, check: Check) -> np.ndarray:
    """The well-composed inside without cavities, uint8 [nx, ny, nz]; never empty."""
    lattice = air.lattice
    inside = np.zeros(lattice.shape, np.uint8)
    _mark_inside(inside, air.found, check)
    _close_leaks(inside, air, check)
    sheets = [_behind_sheets(one, inside, lattice.strides[one.axis]) for one in air.along]
    for points in sheets:
        _set_points(inside, points)
    if not inside.any():  # smaller than a lattice step: the nearest points
        nearest = np.rint((surface.vertices - lattice.low) / lattice.step).astype(np.int64)
        _set_points(inside, nearest @ np.array(lattice.strides))
    _compose_well(inside, check)
    flat = inside.reshape(-1)
    walls = []
    for stride in lattice.strides:
        walls.append(np.flatnonzero(flat[:-stride] != flat[stride:]))
        check()
    _mark_inside(inside, regions((walls[0], walls[1], walls[2]), lattice, check=check), check)
    return inside


def closed_solid(surface: Surface, *, voxel: float, check: Check = go_on) -> Surface:
    """A closed, outward wound 2-manifold without cavities around an oriented surface with at least one face."""
    air = open_air(surface, voxel=voxel, check=check)
    lattice, inside = air.lattice, _solid(surface, air, check)
    edge_count, cell_bound = _net_size(inside)
    check()
    quads, edges = np.empty((edge_count, 4), np.int32), np.empty(edge_count, np.int64)
    axes, cells = np.empty(edge_count, np.int8), np.empty(min(cell_bound, 2 * edge_count), np.int64)
    cells = cells[: _net(inside, quads, edges, axes, cells)[1]]
    check()
    total, count = np.zeros((len(cells), 3)), np.zeros(len(cells), np.int32)
    known = np.ones(len(cells), dtype=bool)
    _place_cells(quads, edges, axes, _depths(air.along, edges, axes), lattice.shape, total, count, known)
    check()
    place = total / count[:, None]
    hit, kept = _kept_vertices(surface.vertices, lattice, cells)
    place[hit[known[hit]]] = kept[known[hit]]
    corner = np.stack(np.unravel_index(cells, lattice.shape), axis=1).astype(np.float64)
    place = corner + np.clip(place - corner, _INSET, 1 - _INSET)
    points = lattice.low + lattice.step * place
    return Surface(points.astype(np.float32), _triangles(quads, points))
