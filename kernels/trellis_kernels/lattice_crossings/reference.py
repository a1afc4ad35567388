"""All lines in the boxes of all faces tested at a time in torch."""

from __future__ import annotations

import torch

from trellis_kernels.lattice_crossings.op import FINE, Hits

_FACES = 1 << 20  # faces whose crossings are found at a time
_TESTS = 1 << 22  # lattice lines tested at a time


def _tests(points: torch.Tensor, b: int, c: int, unit: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(face of each test, line positions along b and c): the lattice lines in the faces' boxes. points [F, 3, 3]."""
    low, high = points.amin(dim=1), points.amax(dim=1)
    first = -torch.div(-low, unit, rounding_mode="floor")
    size = (torch.div(high, unit, rounding_mode="floor") - first + 1).clamp_min_(0)
    count = size[:, b] * size[:, c]
    face = torch.repeat_interleave(torch.arange(len(points), device=points.device), count)
    rank = torch.arange(len(face), device=points.device) - (torch.cumsum(count, 0) - count)[face]
    width = size[face, c]
    return face, first[face, b] + rank // width, first[face, c] + rank % width


def _hits(points: torch.Tensor, axis: int, unit: int) -> tuple[torch.Tensor, ...]:
    """(line along b, line along c, height float64, face, rising) of the crossings of faces [F, 3 corners, 3]."""
    b, c = (axis + 1) % 3, (axis + 2) % 3
    face, m, n = _tests(points, b, c, unit)
    x, y = points[:, :, b], points[:, :, c]
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (y[:, 1] - y[:, 0]) * (x[:, 2] - x[:, 0])
    sign = torch.sign(area)
    px, py = m * unit, n * unit
    inside = sign[face] != 0
    height = torch.zeros(len(face), dtype=torch.float64, device=points.device)
    for i in range(3):  # the edge function of the side opposite corner i, and the top-left rule
        j, k = (i + 1) % 3, (i + 2) % 3
        dx, dy = (x[:, k] - x[:, j]) * sign, (y[:, k] - y[:, j]) * sign
        owns = (dy < 0) | ((dy == 0) & (dx > 0))
        side = dx[face] * (py - y[face, j]) - dy[face] * (px - x[face, j])
        inside &= (side > 0) | ((side == 0) & owns[face])
        height += side.double() * points[face, i, axis]
    face, m, n, height = face[inside], m[inside], n[inside], height[inside]
    return m, n, height / (area.abs().double()[face] * unit), face, sign[face] > 0


def crossings(
    corners: torch.Tensor, faces: torch.Tensor, axis: int, shape: tuple[int, int, int], unit: int
) -> Hits:  # fmt: skip
    b, c = (axis + 1) % 3, (axis + 2) % 3
    found: list[tuple[torch.Tensor, ...]] = []
    at, step = 0, _FACES
    while at < len(faces) or not found:
        points = corners[faces[at : at + step].long()]
        extent = (points.amax(dim=1) - points.amin(dim=1)) // unit + 2
        tests = int((extent[:, b] * extent[:, c]).sum())
        if tests > 4 * _TESTS and step > 1:
            step = max(1, step * _TESTS // tests)
            continue
        m, n, height, face, rising = _hits(points, axis, unit)
        line = m * shape[c] + n
        key = line * (shape[axis] * FINE) + (height * FINE).floor().long()
        found.append((key, height, (face + at).int(), rising))
        at += max(len(points), 1)
    return Hits(*(torch.cat(values) for values in zip(*found, strict=True)))
