"""The full-resolution surface as one oriented point a voxel: where is it near a point, and how does it face?

A point moves along a blend of the eight planes around it (as in moving least squares on oriented points; Adamson and
Alexa, "Approximating and intersecting surfaces from points", 2003): no tree is built, a hash table finds the planes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch
from numba import njit, prange
from trellis_kernels.choice import TRITON
from trellis_kernels.grid_sample import reference
from trellis_kernels.voxel_index.cpu import find, pack
from trellis_kernels.voxel_index.op import VoxelIndex, build_voxel_index

STEPS = 2  # projections of a point
REACH = 8  # voxels along the normal in which a point that sees no plane looks for one
FARTHEST = 1.5  # voxels that one step may move a point
SHARPNESS = 4  # power of the cosine by which a plane counts: those across a crease hardly do
_CHUNK = 1 << 20  # points projected at once on a GPU
_UNITS = 2.0**40


@dataclass(frozen=True)
class Detail:
    """Points and unit normals of the full surface, at most one a voxel."""

    points: torch.Tensor  # float32 [K, 3] voxel units
    normals: torch.Tensor  # float32 [K, 3]
    index: VoxelIndex  # cell of each point -> its row
    resolution: int

    def project(self, points: torch.Tensor, facing: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """(points on the full surface, unit normals there), float32 [Q, 3] each, of points near it in world units.

        facing: unit normals float32 [Q, 3] of the side that is meant, or None; they are the answer where no plane is.
        """
        query = (points.float() + 0.5) * self.resolution
        if self.index.implementation == "cpu":
            moved, normals = _project(
                query.numpy(), np.zeros((0, 3), np.float32) if facing is None else facing.numpy(),
                self.points.numpy(), self.normals.numpy(), self.index.keys.numpy(), self.index.rows.numpy(),
            )  # fmt: skip
            return torch.from_numpy(moved) / self.resolution - 0.5, torch.from_numpy(normals)
        if not len(query):
            return query, torch.zeros_like(query)
        moved_, normals_ = self._walk(query, facing)
        return moved_ / self.resolution - 0.5, normals_

    def _walk(self, query: torch.Tensor, facing: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        normal, distance, seen = self._planes(query, facing)
        lost = torch.nonzero(~seen)[:, 0]
        if facing is not None and len(lost):
            found = self._found(query[lost], facing[lost])
            query = query.index_copy(0, lost, found)
            normal[lost], distance[lost], _ = self._planes(found, facing[lost])
        for step in range(STEPS):
            if step:
                normal, distance, _ = self._planes(query, facing)
            query = query - normal * distance.clamp(-FARTHEST, FARTHEST)[:, None]
        return query, normal

    def _found(self, query: torch.Tensor, facing: torch.Tensor) -> torch.Tensor:
        """Points that see no plane moved along their normals to the nearest place where they do, if there is one."""
        query, lost = query.clone(), torch.arange(len(query), device=query.device)
        for step in range(1, REACH + 1):
            for sign in (1.0, -1.0):
                away = query[lost] + sign * step * facing[lost]
                there = self._planes(away, facing[lost])[2]
                query[lost[there]] = away[there]
                lost = lost[~there]
                if not len(lost):
                    return query
        return query

    def _planes(
        self, query: torch.Tensor, facing: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Blend of the planes around points in voxel units: (unit normal, distance to it, whether there was one)."""
        sides: Iterable[torch.Tensor | None] = repeat(None) if facing is None else facing.split(_CHUNK)
        parts = [self._blend(*some) for some in zip(query.split(_CHUNK), sides, strict=False)]
        normal, distance, seen = (torch.cat(values) for values in zip(*parts, strict=True))
        return normal, distance, seen

    def _blend(
        self, query: torch.Tensor, facing: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        item, side = torch.zeros(len(query), dtype=torch.int64, device=query.device), self.resolution
        if self.index.implementation == TRITON:
            from trellis_kernels.grid_sample import triton

            rows, weights = triton.trilinear_taps(query, item, self.index.keys, self.index.rows, (side, side, side))
        else:
            rows, weights = reference.trilinear_taps(query, item, self.index, (side, side, side))
        there = rows >= 0
        rows = rows.clamp_min(0)
        normals = self.normals[rows]
        if facing is not None:
            weights = weights * (normals * facing[:, None]).sum(dim=2).clamp_min(0.0) ** SHARPNESS
        weights = torch.where(there, weights, 0.0)
        total = weights.sum(dim=1)
        seen = total > 1e-6
        away = ((query[:, None] - self.points[rows]) * normals).sum(dim=2)
        distance = (weights * away).sum(dim=1) / total.clamp_min(1e-6)
        blend = (weights[:, :, None] * normals).sum(dim=1)
        length = torch.linalg.vector_norm(blend, dim=1, keepdim=True)
        sound = seen & (length[:, 0] > 1e-3 * total)
        other = torch.zeros_like(blend) if facing is None else facing
        normal = torch.where(sound[:, None], blend / length.clamp_min(1e-12), other)
        return normal, torch.where(sound, distance, 0.0), seen


def vertex_normals(vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """Unit area-weighted normals float32 [V, 3] (0 without faces), the same for any order of additions."""
    index = faces.long()
    p = vertices[index[:, 0]].double()
    cross = torch.linalg.cross(vertices[index[:, 1]].double() - p, vertices[index[:, 2]].double() - p, dim=1)
    scale = _UNITS / cross.abs().max().clamp_min(1e-300) if len(cross) else 1.0
    units = (cross * scale).round().long()
    total = torch.zeros(len(vertices), 3, dtype=torch.int64, device=vertices.device)
    for corner in range(3):
        total.index_add_(0, index[:, corner], units)
    mean = total.double()
    return (mean / torch.linalg.vector_norm(mean, dim=1, keepdim=True).clamp_min(1.0)).float()


@njit(cache=True, nogil=True)
def _vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """`vertex_normals` on one core."""
    total = np.zeros((len(vertices), 3))
    for f in range(len(faces)):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, az = (
            vertices[j, 0] - vertices[i, 0], vertices[j, 1] - vertices[i, 1], vertices[j, 2] - vertices[i, 2]
        )  # fmt: skip
        bx, by, bz = (
            vertices[k, 0] - vertices[i, 0], vertices[k, 1] - vertices[i, 1], vertices[k, 2] - vertices[i, 2]
        )  # fmt: skip
        x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        for v in (i, j, k):
            total[v, 0] += x
            total[v, 1] += y
            total[v, 2] += z
    out = np.zeros((len(vertices), 3), np.float32)
    for v in range(len(vertices)):
        length = np.sqrt(total[v, 0] ** 2 + total[v, 1] ** 2 + total[v, 2] ** 2)
        if length > 1e-30:
            out[v, 0], out[v, 1], out[v, 2] = total[v, 0] / length, total[v, 1] / length, total[v, 2] / length
    return out


def surface_detail(
    vertices: torch.Tensor, faces: torch.Tensor, resolution: int, *, implementation: str = "auto"
) -> Detail:
    """The detail of a full surface in the unit box on its device; of several vertices in a cell the first counts.

    vertices float32 [V, 3]; faces int [F, 3]; resolution: voxels along a side, about one vertex each.
    """
    if vertices.device.type == "cpu" and implementation == "auto":
        normals = torch.from_numpy(_vertex_normals(vertices.numpy(), faces.numpy()))
    else:
        normals = vertex_normals(vertices, faces)
    used = torch.nonzero(normals.abs().sum(dim=1) > 0)[:, 0]
    points = (vertices[used].float() + 0.5) * resolution
    coords = torch.cat([torch.zeros_like(points[:, :1]), points.floor().clamp(0, resolution - 1)], dim=1).int()
    return Detail(
        points.contiguous(), normals[used].contiguous(),
        build_voxel_index(coords.contiguous(), implementation=implementation), resolution,
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _blend(
    at: np.ndarray, side: np.ndarray, points: np.ndarray, normals: np.ndarray, keys: np.ndarray,
    rows: np.ndarray, out: np.ndarray,
) -> float:  # fmt: skip
    """Blend of the planes around a point: out gets the unit normal and the distance; returns the planes' weight."""
    mask = np.uint64(len(keys) - 1)
    x, y, z = at[0], at[1], at[2]
    fx, fy, fz = x - 0.5, y - 0.5, z - 0.5
    cx, cy, cz = np.int64(np.floor(fx)), np.int64(np.floor(fy)), np.int64(np.floor(fz))
    fx, fy, fz = fx - cx, fy - cy, fz - cz
    total, away, nx, ny, nz = 0.0, 0.0, 0.0, 0.0, 0.0
    for corner in range(8):
        dx, dy, dz = corner >> 2, (corner >> 1) & 1, corner & 1
        key = pack(0, cx + dx, cy + dy, cz + dz)
        row = find(keys, rows, mask, key) if key >= 0 else np.int64(-1)
        if row < 0:
            continue
        weight = (fx if dx else 1.0 - fx) * (fy if dy else 1.0 - fy) * (fz if dz else 1.0 - fz)
        px, py, pz = normals[row, 0], normals[row, 1], normals[row, 2]
        if len(side):
            facing = px * side[0] + py * side[1] + pz * side[2]
            if facing <= 0.0:
                continue
            facing *= facing
            weight *= facing * facing
        total += weight
        away += weight * ((x - points[row, 0]) * px + (y - points[row, 1]) * py + (z - points[row, 2]) * pz)
        nx, ny, nz = nx + weight * px, ny + weight * py, nz + weight * pz
    length = np.sqrt(nx * nx + ny * ny + nz * nz)
    if total > 1e-6 and length > 1e-3 * total:
        out[0], out[1], out[2], out[3] = nx / length, ny / length, nz / length, away / total
    elif len(side):
        out[0], out[1], out[2], out[3] = side[0], side[1], side[2], 0.0
    else:
        out[:] = 0.0
    return total


@njit(cache=True, nogil=True, parallel=True)
def _project(
    query: np.ndarray, facing: np.ndarray, points: np.ndarray, normals: np.ndarray, keys: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`Detail.project` in voxel units; facing [Q, 3] or [0, 3]."""
    moved, out = np.empty(query.shape, np.float32), np.empty(query.shape, np.float32)
    chunk = 4096
    for part in prange((len(query) + chunk - 1) // chunk):
        plane, side = np.zeros(4), np.zeros(3 if len(facing) else 0)
        at, far = np.empty(3), np.empty(3)
        for i in range(part * chunk, min((part + 1) * chunk, len(query))):
            at[:] = query[i]
            if len(facing):
                side[:] = facing[i]
            total = _blend(at, side, points, normals, keys, rows, plane)
            if total <= 1e-6 and len(side):
                for step in range(2, 2 * REACH + 2):
                    far[:] = at + side * (step // 2 if step % 2 == 0 else -(step // 2))
                    if _blend(far, side, points, normals, keys, rows, plane) > 1e-6:
                        at[:] = far
                        break
            for step in range(STEPS):
                if step > 0:
                    _blend(at, side, points, normals, keys, rows, plane)
                length = min(max(plane[3], -FARTHEST), FARTHEST)
                at -= length * plane[:3]
            moved[i] = at
            out[i] = plane[:3]
    return moved, out
