"""A closed solid from any oriented mesh, as mesh/watertight.py, in torch: inside points, and a surface net around them.

The inside is a dense bool volume that is worked on in slabs; everything else follows the surface.
"""

from __future__ import annotations

import torch

from trellis_app.mesh.gpu.air import Air, Crossings, open_air, regions
from trellis_app.mesh.gpu.clean import compacted
from trellis_app.mesh.gpu.topology import AREA, areas, edge_table, large_parts, sums
from trellis_app.mesh.lattice import Lattice
from trellis_app.mesh.surface_net import BEHIND, FINE, INSET, ROUNDS
from trellis_app.mesh.watertight import SOLID_CRUMB, simple_cells
from trellis_app.progress import Check, go_on
from trellis_app.types import Mesh

_SLAB = 1 << 24  # lattice points worked on at a time


def closed_solid(mesh: Mesh, *, voxel: float, check: Check = go_on) -> Mesh:
    """A closed, outward wound 2-manifold without cavities around an oriented mesh with at least one face."""
    air = open_air(mesh, voxel=voxel, check=check)
    lattice = air.lattice
    inside = _inside(mesh, air, check)
    cells, edges = _net(inside, lattice, check)
    if _fill_cavities(inside, edges, lattice, check):
        cells, edges = _net(inside, lattice, check)
    flat = inside.reshape(-1)
    strides = torch.tensor(lattice.strides, device=cells.device)
    quads, axes, depth = [], [], []
    for axis, low in enumerate(edges):
        b, c = strides[(axis + 1) % 3], strides[(axis + 2) % 3]
        ring = torch.searchsorted(cells, torch.stack([low - b - c, low - c, low, low - b], dim=1))
        outward = flat[low]
        quads.append(torch.where(outward[:, None], ring, ring.flip(1)))
        axes.append(torch.full_like(low, axis))
        depth.append(_depths(air.along[axis], low, outward, lattice))
    check()
    quad = torch.cat(quads)
    total, missing = _crossing_sums(quad, torch.cat(edges), torch.cat(axes), torch.cat(depth), cells, lattice)
    place = _with_input_vertices(total[:, :3] / (total[:, 3:] * FINE), missing, mesh, cells, lattice).clamp(
        INSET, 1 - INSET
    )
    check()
    corner = _points(cells, lattice)
    place = _relaxed(quad, missing, corner, place)
    points = torch.from_numpy(lattice.low).to(place.device) + lattice.step * (corner + place)
    solid = Mesh(points.float(), _triangles(quad, points))
    table = edge_table(solid.faces, len(points))
    area = areas(solid, lattice.step)
    large = large_parts(table, area, min(SOLID_CRUMB * AREA, 0.01 * float(area.sum())))
    return compacted(Mesh(solid.vertices, solid.faces[large]))


def _points(flat: torch.Tensor, lattice: Lattice) -> torch.Tensor:
    """Lattice coordinates of flat indices, int64 [N, 3]."""
    _, ny, nz = lattice.shape
    line = flat // nz
    return torch.stack([line // ny, line % ny, flat % nz], dim=1)


def _slabs(lattice: Lattice) -> list[tuple[int, int]]:
    """Ranges of x that together cover the lattice."""
    nx, ny, nz = lattice.shape
    step = max(1, _SLAB // (ny * nz))
    return [(x, min(x + step, nx)) for x in range(0, nx, step)]


def _mark_runs(inside: torch.Tensor, cuts: torch.Tensor, region: torch.Tensor, lattice: Lattice, check: Check) -> None:
    """Mark the points outside region 0."""
    _, ny, nz = lattice.shape
    for first, last in _slabs(lattice):
        check()
        low, high = (torch.searchsorted(cuts, torch.tensor(x * ny * nz, device=cuts.device)) for x in (first, last))
        part = cuts[int(low) : int(high)] - first * ny * nz
        runs = region[first * ny + int(low) : last * ny + int(high)]
        ends = torch.cat([part + 1, torch.arange(1, (last - first) * ny + 1, device=cuts.device) * nz])
        length = torch.sort(ends).values.diff(prepend=torch.zeros(1, dtype=ends.dtype, device=ends.device))
        inside[first:last] |= torch.repeat_interleave(runs != 0, length).view(last - first, ny, nz)


def _close_leaks(inside: torch.Tensor, air: Air, check: Check) -> None:
    """Mark the points that the open air reaches through leaks only."""
    _, ny, nz = air.lattice.shape
    grain = air.grain
    for first, last in _slabs(air.lattice):
        check()
        planes = torch.arange(first, last, device=inside.device) // grain
        reached = air.reached[planes].repeat_interleave(grain, 1)[:, :ny].repeat_interleave(grain, 2)[:, :, :nz]
        points = (~inside[first:last] & ~reached).reshape(-1).nonzero()[:, 0] + first * ny * nz
        for part in points.split(_SLAB // 4):
            inside.view(-1)[part[~air.open(part)]] = True


def _inside(mesh: Mesh, air: Air, check: Check) -> torch.Tensor:
    """The well-composed inside, bool [nx, ny, nz]; never empty. It may have cavities."""
    lattice = air.lattice
    inside = torch.zeros(lattice.shape, dtype=torch.bool, device=mesh.faces.device)
    flat = inside.view(-1)
    _mark_runs(inside, air.cuts, air.region, lattice, check)
    _close_leaks(inside, air, check)
    sheets = []
    for one in air.along:
        stride, low = lattice.strides[one.axis], one.lower(lattice.shape)
        first, _ = one.ends()
        edge = torch.cumsum(first, 0) - 1
        rising = sums(torch.where(one.rising, 1, -1), edge, int(edge[-1]) + 1 if len(edge) else 0)
        low = low[first]
        sheets.append((low + stride * (rising < 0))[~flat[low] & ~flat[low + stride]])
    for points in sheets:
        flat[points] = True
    if not bool(flat.any()):  # smaller than a lattice step: the nearest points
        low = torch.from_numpy(lattice.low).to(mesh.vertices.device)
        nearest = ((mesh.vertices.double() - low) / lattice.step).round().long()
        flat[(nearest * torch.tensor(lattice.strides, device=nearest.device)).sum(dim=1)] = True
    _compose_well(inside, lattice, check)
    return inside


def _mixed_cells(inside: torch.Tensor, lattice: Lattice, check: Check) -> torch.Tensor:
    """Flat lower corners of the cells with inside and outside corners, int64 rising."""
    nx, ny, nz = lattice.shape
    found = []
    for first, last in _slabs(lattice):
        check()
        some = every = inside[first : min(last + 1, nx)]
        for axis in range(3):
            size = some.shape[axis] - 1
            some = some.narrow(axis, 0, size) | some.narrow(axis, 1, size)
            every = every.narrow(axis, 0, size) & every.narrow(axis, 1, size)
        x, y, z = (some & ~every).nonzero(as_tuple=True)
        found.append(((x + first) * ny + y) * nz + z)
    return torch.cat(found)


def _compose_well(inside: torch.Tensor, lattice: Lattice, check: Check) -> None:
    """Add points until every cell has one piece of surface at most; then only cells beside a change are looked at."""
    flat = inside.view(-1)
    simple = torch.from_numpy(simple_cells()).to(inside.device).long()
    sx, sy, sz = lattice.strides
    offset = torch.tensor([x * sx + y * sy + z * sz for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    offset = offset.to(inside.device)
    cells = _mixed_cells(inside, lattice, check)
    while len(cells):
        check()
        code = torch.zeros_like(cells)
        for i in range(8):
            code |= flat[cells + offset[i]].long() << i
        fill = simple[code] & ~code
        added = [cells[(fill >> i & 1).bool()] + offset[i] for i in range(8)]
        points = torch.unique(torch.cat(added))
        flat[points] = True
        cells = torch.unique(points[:, None] - offset)


def _net(
    inside: torch.Tensor, lattice: Lattice, check: Check
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(mixed cells, lower ends of the mixed lattice edges along x, y, z), all flat and rising."""
    flat, cells = inside.view(-1), _mixed_cells(inside, lattice, check)
    x, y, z = (cells[flat[cells] != flat[cells + stride]] for stride in lattice.strides)
    return cells, (x, y, z)


def _fill_cavities(inside: torch.Tensor, edges: tuple[torch.Tensor, ...], lattice: Lattice, check: Check) -> bool:
    """Fill what no path from outside reaches; True if there was anything."""
    before = int(inside.sum())
    _mark_runs(inside, *regions(edges, lattice), lattice, check)
    return int(inside.sum()) != before


def _depths(one: Crossings, low: torch.Tensor, leaving: torch.Tensor, lattice: Lattice) -> torch.Tensor:
    """Where the input crosses each net edge, farthest from the inside end, float64 from 0 to 1; where it does not, 2
    more than the place at which such an edge is cut."""
    place, axis, shape = _points(low, lattice), one.axis, lattice.shape
    line = place[:, (axis + 1) % 3] * shape[(axis + 2) % 3] + place[:, (axis + 2) % 3]
    key = line * shape[axis] + place[:, axis]
    first, behind = torch.searchsorted(one.key, key), torch.searchsorted(one.key, key, right=True)
    depth = torch.where(leaving, 2 + BEHIND, 3 - BEHIND).double()
    hit = behind > first
    depth[hit] = one.depth[torch.where(leaving, behind - 1, first)[hit]].double()
    return depth


def _crossing_sums(
    quad: torch.Tensor,
    edges: torch.Tensor,
    axes: torch.Tensor,
    depth: torch.Tensor,
    cells: torch.Tensor,
    lattice: Lattice,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(sums int64 [N, 4] of the crossings on each cell's edges from its lower corner in fine steps, the last their
    number; whether the input misses one of the edges). depth: as from `_depths`; past 2 where the input has none."""
    absent = depth >= 2
    place = _points(edges, lattice) * FINE
    place.scatter_add_(1, axes[:, None], ((depth - 2 * absent) * FINE).round().long()[:, None])
    place = torch.cat([place, torch.ones_like(place[:, :1])], dim=1)
    corner = torch.nn.functional.pad(_points(cells, lattice) * FINE, (0, 1))
    total = torch.zeros(len(cells), 4, dtype=torch.int64, device=cells.device)
    missing = torch.zeros(len(cells), dtype=torch.bool, device=cells.device)
    for i in range(4):
        total.index_add_(0, quad[:, i], place - corner[quad[:, i]])
        missing[quad[absent, i]] = True
    return total, missing


def _with_input_vertices(
    place: torch.Tensor, missing: torch.Tensor, mesh: Mesh, cells: torch.Tensor, lattice: Lattice
) -> torch.Tensor:
    """Places of cells with vertices of the input: their mean, if the input crosses all edges of the cell."""
    given = (mesh.vertices.double() - torch.from_numpy(lattice.low).to(place.device)) / lattice.step
    corner = given.floor()
    key = (corner.long() * torch.tensor(lattice.strides, device=place.device)).sum(dim=1)
    at = torch.searchsorted(cells, key).clamp_max(len(cells) - 1)
    inner = (cells[at] == key) & ~missing[at]
    local = ((given - corner)[inner] * FINE).round().long()
    total = torch.zeros(len(cells), 3, dtype=torch.int64, device=cells.device).index_add_(0, at[inner], local)
    count = sums(torch.ones_like(at[inner]), at[inner], len(cells))[:, None]
    return torch.where(count > 0, total / (count.clamp_min(1) * FINE), place)


def _relaxed(quad: torch.Tensor, loose: torch.Tensor, corner: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Places after loose cells moved to the mean of their neighbours, within their cells, in a few rounds."""
    own = torch.cat([quad.reshape(-1), quad.reshape(-1)])
    beside = torch.cat([quad.roll(-1, dims=1).reshape(-1), quad.roll(1, dims=1).reshape(-1)])
    own, beside = own[loose[own]], beside[loose[own]]
    if not len(own):
        return place
    which, index = torch.unique(own, return_inverse=True)
    count = sums(torch.ones_like(index), index, len(which))[:, None]
    for _ in range(ROUNDS):
        step = ((corner[beside] - corner[own] + place[beside]) * FINE).round().long()
        total = torch.zeros(len(which), 3, dtype=torch.int64, device=own.device).index_add_(0, index, step)
        place = place.clone()
        place[which] = (total / (count * FINE)).clamp(INSET, 1 - INSET)
    return place


def _triangles(quad: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Cut quads along the diagonal across which they bend less, int32 [2 Q, 3]."""
    corner = [points[quad[:, i]].float() for i in range(4)]

    def normal(a: int, b: int, c: int) -> torch.Tensor:
        cross = torch.linalg.cross(corner[b] - corner[a], corner[c] - corner[a])
        return torch.nn.functional.normalize(cross, dim=1, eps=1e-30)

    along = (normal(0, 1, 2) * normal(0, 2, 3)).sum(dim=1) >= (normal(0, 1, 3) * normal(1, 2, 3)).sum(dim=1)
    first = torch.where(along[:, None], quad[:, [0, 1, 2]], quad[:, [0, 1, 3]])
    second = torch.where(along[:, None], quad[:, [0, 2, 3]], quad[:, [1, 2, 3]])
    return torch.stack([first, second], dim=1).reshape(-1, 3).int()
