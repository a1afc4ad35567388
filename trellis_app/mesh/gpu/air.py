"""The lattice of mesh/lattice.py and mesh/air.py in torch: crossings, regions and the open air around a mesh."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from trellis_kernels.lattice_crossings.op import FINE, crossings

from trellis_app.mesh.gpu.topology import connected, numbered
from trellis_app.mesh.lattice import SHIFT, SNAP, UNIT, Lattice, lattice_around
from trellis_app.progress import Check, go_on
from trellis_app.types import Mesh

_COARSE, _RADIUS = 128, 4  # as in mesh/air.py


@dataclass(frozen=True)
class Crossings:
    """Crossings of the lattice edges along one axis, ordered by line, edge and depth."""

    axis: int
    start: torch.Tensor  # int64 [lines + 1] first crossing of each line
    key: torch.Tensor  # int64 [K] line times points a line + position of the edge's lower end: rising
    depth: torch.Tensor  # float32 [K] position on the edge, 0 to 1
    face: torch.Tensor  # int32 [K]
    rising: torch.Tensor  # bool [K] the face's normal points along the axis

    def lower(self, shape: tuple[int, int, int]) -> torch.Tensor:
        """Flat index of the edges' lower ends, int64 [K]."""
        line, position = self.key // shape[self.axis], self.key % shape[self.axis]
        axis, b, c = self.axis, (self.axis + 1) % 3, (self.axis + 2) % 3
        place = {axis: position, b: line // shape[c], c: line % shape[c]}
        return (place[0] * shape[1] + place[1]) * shape[2] + place[2]

    def ends(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(first, last) crossing of its edge, bool [K] each."""
        first = torch.ones(len(self.key), dtype=torch.bool, device=self.key.device)
        first[1:] = self.key[1:] != self.key[:-1]
        last = torch.ones_like(first)
        last[:-1] = first[1:]
        return first, last

    def ranks(self, points: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(crossings before, crossings after each one on its line of so many points), int64 [K] each."""
        line = self.key // points
        at = torch.arange(len(line), device=line.device)
        return at - self.start[line], self.start[line + 1] - 1 - at


def lattice_of(mesh: Mesh, voxel: float) -> Lattice:
    """The lattice around a mesh with at least one vertex; every vertex counts, used or not."""
    low, high = mesh.vertices.amin(dim=0), mesh.vertices.amax(dim=0)
    return lattice_around(torch.stack([low, high]).cpu().numpy(), voxel)


def snapped(mesh: Mesh, lattice: Lattice) -> torch.Tensor:
    """Vertices in lattice units, int64 [V, 3]: multiples of SNAP, moved off the lattice."""
    device = mesh.vertices.device
    low = torch.from_numpy(lattice.low).to(device)
    shift = torch.from_numpy(SHIFT * (lattice.step / UNIT)).to(device)
    near = torch.round((mesh.vertices.double() - low + shift) * (UNIT / SNAP / lattice.step)).long()
    return SNAP * near - torch.from_numpy(SHIFT).to(device)


def _crossings_along(corners: torch.Tensor, faces: torch.Tensor, lattice: Lattice, axis: int) -> Crossings:
    """Crossings along an axis; corners int64 [V, 3] from `snapped`."""
    b, c = (axis + 1) % 3, (axis + 2) % 3
    length = lattice.shape[axis]
    found = crossings(corners, faces, axis, lattice.shape, UNIT)
    key, order = torch.sort(found.key, stable=True)
    line, height = key // (length * FINE), found.height[order]
    position = height.floor().clamp_(0, length - 2)
    lines = lattice.shape[b] * lattice.shape[c]
    start = torch.searchsorted(line, torch.arange(lines + 1, device=line.device))
    depth = (height - position).float()
    return Crossings(axis, start, line * length + position.long(), depth, found.face[order], found.rising[order])


@dataclass(frozen=True)
class Air:
    """The open air around a mesh on its lattice."""

    lattice: Lattice
    along: tuple[Crossings, Crossings, Crossings]
    cuts: torch.Tensor  # int64 [C] flat lower ends of the crossed edges along z, rising
    region: torch.Tensor  # int64 [runs] of each run along z; 0 is the air around
    reached: torch.Tensor  # bool [x, y, z] coarse cells that a cube covers on its way in
    grain: int  # lattice points along the side of a coarse cell

    def region_of(self, points: torch.Tensor) -> torch.Tensor:
        """Region of lattice points (flat indices)."""
        return self.region[points // self.lattice.shape[2] + torch.searchsorted(self.cuts, points)]

    def open(self, points: torch.Tensor) -> torch.Tensor:
        """Whether the open air reaches lattice points (flat indices), bool."""
        free = self.region_of(points) == 0
        at = free.nonzero()[:, 0]
        place = self._place(points[at])
        cell = tuple(axis // self.grain for axis in place)
        doubtful = ~self.reached[cell]
        at = at[doubtful]
        place = self._place(points[at])
        odd, blind = torch.zeros_like(at), torch.ones_like(at, dtype=torch.bool)
        for one in self.along:
            before, behind = self._around(one, place)
            odd += before % 2 + behind % 2
            blind &= (before > 0) & (behind > 0)
        free[at[(odd >= 4) | blind]] = False
        return free

    def _place(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        _, ny, nz = self.lattice.shape
        line = points // nz
        return line // ny, line % ny, points % nz

    def _around(self, one: Crossings, place: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Crossings before and behind lattice points on their lines along the axis of `one`."""
        shape, axis = self.lattice.shape, one.axis
        line = place[(axis + 1) % 3] * shape[(axis + 2) % 3] + place[(axis + 2) % 3]
        at = torch.searchsorted(one.key, line * shape[axis] + place[axis])
        return at - one.start[line], one.start[line + 1] - at


def _touching_runs(
    cuts: torch.Tensor, blocked: torch.Tensor, lattice: Lattice, axis: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of runs along z on neighbouring lines (one step along axis 0 or 1) that a free edge connects."""
    nx, ny, nz = lattice.shape
    lines = nx * ny
    stride = ny if axis == 0 else 1
    line = torch.cat([torch.arange(lines, device=cuts.device), cuts // nz])
    begin = torch.cat([torch.arange(lines, device=cuts.device) * nz, cuts + 1])  # first point of every run
    pairs = []
    for shift in (stride, -stride):  # a run here and the run beside its first point
        keep = (line + shift >= 0) & (line + shift < lines)
        if axis == 1:
            keep &= (line % ny + shift >= 0) & (line % ny + shift < ny)
        here, mine = begin[keep], line[keep]
        there, its = here + shift * nz, mine + shift
        rank, its_rank = torch.searchsorted(cuts, here), torch.searchsorted(cuts, there)
        ends = []
        for row, run in ((mine, rank), (its, its_rank)):
            cut = cuts[run.clamp_max(len(cuts) - 1)] if len(cuts) else torch.full_like(run, -1)
            whole = (row + 1) * nz - 1
            ends.append(torch.where((run < len(cuts)) & (cut < whole), cut, whole) - row * nz)
        low, high = here - mine * nz, torch.minimum(ends[0], ends[1])
        base = torch.minimum(mine, its) * nz  # blocked edges are kept at their lower end
        closed = torch.searchsorted(blocked, base + high + 1) - torch.searchsorted(blocked, base + low)
        free = closed < high - low + 1
        pairs.append(torch.stack([(mine + rank)[free], (its + its_rank)[free]]))
    a, b = torch.cat(pairs, dim=1)
    return a, b


def regions(blocked: tuple[torch.Tensor, ...], lattice: Lattice) -> tuple[torch.Tensor, torch.Tensor]:
    """(cuts, region of each run along z) of a lattice whose edges with these lower ends (rising) are closed."""
    cuts = blocked[2]
    pairs = [_touching_runs(cuts, blocked[axis], lattice, axis) for axis in (0, 1)]
    a, b = torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])
    return cuts, numbered(connected(lattice.shape[0] * lattice.shape[1] + len(cuts), a, b))[0]


def open_air(mesh: Mesh, *, voxel: float, check: Check = go_on) -> Air:
    """The air around a mesh with at least one face, on a lattice of `voxel` (world units)."""
    lattice = lattice_of(mesh, voxel)
    corners = snapped(mesh, lattice)
    along = []
    for axis in range(3):
        along.append(_crossings_along(corners, mesh.faces.int(), lattice, axis))
        check()
    x, y, z = along
    lower = tuple(one.lower(lattice.shape) for one in (x, y, z))
    blocked = tuple(torch.unique(points) for points in lower)
    grain = -(-max(lattice.shape) // _COARSE)
    coarse = torch.zeros([-(-n // grain) for n in lattice.shape], dtype=torch.bool, device=mesh.faces.device)
    for axis, points in enumerate(blocked):
        for ends in (points, points + lattice.strides[axis]):
            line = ends // lattice.shape[2]
            at = (line // lattice.shape[1] // grain, line % lattice.shape[1] // grain, ends % lattice.shape[2] // grain)
            coarse[at] = True
    cuts, region = regions(blocked, lattice)
    check()
    return Air(lattice, (x, y, z), cuts, region, _reached(coarse), grain)


def _dilated(cells: torch.Tensor) -> torch.Tensor:
    wide = cells[None, None].half() if cells.is_cuda else cells[None, None].float()
    for axis in range(3):
        window = [2 * _RADIUS + 1 if a == axis else 1 for a in range(3)]
        wide = nnf.max_pool3d(wide, window, stride=1, padding=[n // 2 for n in window])
    return wide[0, 0] > 0


def _reached(blocked: torch.Tensor) -> torch.Tensor:
    """Coarse cells that a cube covers when it moves from outside through cells that are not blocked."""
    free = ~_dilated(nnf.pad(blocked, (_RADIUS,) * 6))
    air = torch.zeros_like(free)
    air[0, 0, 0] = True
    known = -1
    while known != (known := int(air.sum())):
        for axis in range(3):
            for _ in range(2):
                air, free = air.flip(axis), free.flip(axis)
                index = torch.arange(1, air.shape[axis] + 1, device=air.device, dtype=torch.int32)
                index = index.view([-1 if a == axis else 1 for a in range(3)])
                last_air = torch.cummax(index * air, dim=axis).values
                last_wall = torch.cummax(index * ~free, dim=axis).values
                air = last_air > last_wall
    inner = slice(_RADIUS, -_RADIUS)
    return _dilated(air)[inner, inner, inner]
