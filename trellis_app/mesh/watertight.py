"""A closed solid from any oriented surface: the lattice points inside it, and a surface net around them.

Inside are the points that the open air does not reach, and, where a sheet has air on both sides, the points behind it:
a sheet becomes a plate about a voxel thick. Points are added until no two inside points touch only over an edge or a
corner of the lattice (a well-composed set: Latecki, "3D Well-Composed Pictures", 1997) and no cavity is left. The net,
one vertex a mixed cell and one quad a mixed lattice edge, is then a closed 2-manifold, whatever came in.

Vertices of the input stay where they are if the net has a cell around them; other cells take the mean of the crossings.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import njit

from trellis_app.mesh.air import Air, open_air
from trellis_app.mesh.lattice import Crossings, Lattice, Regions, regions
from trellis_app.mesh.repair import remove_small_components
from trellis_app.mesh.surface import Surface, face_areas
from trellis_app.mesh.surface_net import net_points, net_triangles, surface_net
from trellis_app.progress import Check, go_on

SOLID_CRUMB = 24.0  # area of parts that are left out, in lattice squares


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


def _connected(code: int) -> bool:
    """Whether the set corners of a cell are connected along its edges."""
    reach, grown = 0, code & -code
    while grown:
        reach |= grown
        beside = [1 << (i ^ bit) for i in range(8) if reach >> i & 1 for bit in (1, 2, 4)]
        grown = code & ~reach & int(np.bitwise_or.reduce(beside))
    return reach == code


def _simple(code: int) -> bool:
    """Whether a cell has one piece of surface: inside and outside corners are each connected, also on every face."""
    faces = [[i for i in range(8) if (i >> axis & 1) == side] for axis in range(3) for side in range(2)]
    diagonal = any(
        code >> a & 1 == code >> d & 1 != code >> b & 1 == code >> c & 1 for a, b, c, d in faces
    )  # fmt: skip
    return not diagonal and _connected(code) and _connected(code ^ 255)


@cache
def simple_cells() -> np.ndarray:
    """The code (bit 4 x + 2 y + z: corner inside) that each cell's code becomes by adding corners, uint8 [256].

    The fewest corners are added that leave one piece of surface in the cell; the lowest code among equals.
    """
    simple = [code for code in range(256) if _simple(code)]
    best = [min((s for s in simple if s & code == code), key=lambda s: (s.bit_count(), s)) for code in range(256)]
    return np.array(best, np.uint8)


@njit(cache=True, nogil=True)
def _tangled_cells(inside: np.ndarray, slab: tuple[int, int], simple: np.ndarray, found: np.ndarray) -> int:
    """Write the flat lower corners of the cells with slab[0] <= x < slab[1] that need more corners; returns how many,
    of which only as many as fit are written."""
    count = 0
    ny, nz = inside.shape[1], inside.shape[2]
    for x in range(slab[0], slab[1]):
        for y in range(ny - 1):
            code = np.uint8(0)
            for z in range(nz):
                far = (inside[x, y, z] << 1) | (inside[x, y + 1, z] << 3) | (inside[x + 1, y, z] << 5)
                code = np.uint8((code >> 1 & 0x55) | far | (inside[x + 1, y + 1, z] << 7))
                if z > 0 and simple[code] != code:
                    if count < len(found):
                        found[count] = (np.int64(x) * ny + y) * nz + z - 1
                    count += 1
    return count


def _compose_well(inside: np.ndarray, lattice: Lattice, check: Check) -> None:
    """Add points until every cell has one piece of surface at most; then only cells beside a change are looked at."""
    simple, flat = simple_cells(), inside.reshape(-1)
    cells = []
    for x in range(0, len(inside) - 1, 32):
        check()
        slab = (x, min(x + 32, len(inside) - 1))
        found = np.empty(_tangled_cells(inside, slab, simple, np.empty(0, np.int64)), np.int64)
        _tangled_cells(inside, slab, simple, found)
        cells.append(found)
    pending = np.concatenate(cells)
    offset = np.array([np.dot(lattice.strides, (i >> 2, i >> 1 & 1, i & 1)) for i in range(8)])
    while len(pending):
        check()
        code = (flat[pending[:, None] + offset] << np.arange(8, dtype=np.uint8)).sum(axis=1)
        fill = simple[code] & ~code
        added = np.unique(np.concatenate([pending[fill >> i & 1 > 0] + offset[i] for i in range(8)]))
        flat[added] = 1
        pending = np.unique(added[:, None] - offset)


@njit(cache=True, nogil=True)
def _set_points(inside: np.ndarray, points: np.ndarray) -> None:
    flat = inside.reshape(-1)
    for p in points:
        flat[p] = 1


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
    _compose_well(inside, lattice, check)
    flat = inside.reshape(-1)
    walls = []
    for stride in lattice.strides:
        walls.append(np.flatnonzero(flat[:-stride] != flat[stride:]))
        check()
    _mark_inside(inside, regions((walls[0], walls[1], walls[2]), lattice, check=check), check)
    return inside


def closed_solid(surface: Surface, *, voxel: float, check: Check = go_on) -> Surface:
    """A closed, outward wound 2-manifold without cavities around an oriented surface with at least one face.

    Parts with less than a crumb of surface are left out.
    """
    air = open_air(surface, voxel=voxel, check=check)
    lattice, inside = air.lattice, _solid(surface, air, check)
    net = surface_net(inside)
    check()
    points = net_points(net, _depths(air.along, net.edges, net.axes), surface.vertices, lattice)
    check()
    solid = Surface(points.astype(np.float32), net_triangles(net.quads, points))
    area = float(face_areas(solid).sum())
    return remove_small_components(solid, min(SOLID_CRUMB * lattice.step**2, 0.01 * area)).compacted()
