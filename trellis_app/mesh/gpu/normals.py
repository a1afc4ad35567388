"""Shading normals, split vertices and tangents on a GPU: mesh/normals.py and mesh/tangents.py as tensor operations.

Mesh, UVs ─smooth fans▶ groups of corners ─sums▶ normals ─split▶ SplitMesh ─▶ tangents; on any device
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from trellis_app.mesh.gpu.topology import exact_sums, fans, first_alike, numbered
from trellis_app.mesh.normals import CREASE_DEGREES, SplitSurface
from trellis_app.mesh.tangents import TINY
from trellis_app.types import Mesh


@dataclass(frozen=True)
class SplitMesh:
    """mesh.normals.SplitSurface as tensors."""

    vertices: torch.Tensor  # float32 [V, 3]
    faces: torch.Tensor  # int32 [F, 3], in the order of the mesh's faces
    normals: torch.Tensor  # float32 [V, 3] unit
    uvs: torch.Tensor  # float32 [V, 2]

    def on_cpu(self) -> SplitSurface:
        """The same as arrays."""
        vertices, faces, normals, uvs = (x.cpu().numpy() for x in (self.vertices, self.faces, self.normals, self.uvs))
        return SplitSurface(vertices, faces, normals, uvs)


def split_mesh(mesh: Mesh, partner: torch.Tensor, uvs: torch.Tensor) -> SplitMesh:
    """As mesh.normals.split_surface: one vertex for each distinct crease group and UV, in the same order.

    partner: int64 [3 F] the half-edge across each half-edge or -1; uvs float32 [F, 3, 2].
    """
    group, normals = crease_normals(mesh, partner)
    u, v = (uvs.reshape(-1, 2) + 0.0).view(torch.int32).long().unbind(dim=1)  # + 0.0: one zero, and its bits
    first = first_alike(first_alike((u << 32) | v) * len(normals) + group)
    vertex, _ = numbered(first)
    corner = (first == torch.arange(len(first), device=first.device)).nonzero()[:, 0]
    return SplitMesh(
        mesh.vertices[mesh.faces.reshape(-1)[corner].long()],
        vertex.int().reshape(-1, 3),
        normals[group[corner]],
        uvs.reshape(-1, 2)[corner],
    )


def crease_normals(
    mesh: Mesh, partner: torch.Tensor, *, crease_degrees: float = CREASE_DEGREES
) -> tuple[torch.Tensor, torch.Tensor]:
    """(corner groups int64 [3 F], unit normal float32 [G, 3] of each group), as mesh.normals.crease_normals."""
    points = mesh.vertices[mesh.faces.long()].double()
    after, before = points.roll(-1, dims=1) - points, points.roll(1, dims=1) - points
    cross = torch.linalg.cross(after[:, 0], before[:, 0], dim=1)
    length = torch.linalg.vector_norm(cross, dim=1)
    unit = cross / torch.where(length > 0.0, length, 1.0)[:, None]
    bend = (unit.repeat_interleave(3, dim=0) * unit[partner.clamp_min(0) // 3]).sum(dim=1)
    smooth = (partner >= 0) & (bend >= math.cos(math.radians(crease_degrees)))
    group, count = numbered(fans(mesh.faces, torch.where(smooth, partner, -1)))
    angle = torch.atan2(length[:, None], (after * before).sum(dim=2))
    total = exact_sums((angle[:, :, None] * unit[:, None]).reshape(-1, 3), group, count)
    size = torch.linalg.vector_norm(total, dim=1, keepdim=True)
    upwards = total.new_tensor([0.0, 0.0, 1.0])
    return group, torch.where(size > 1e-9, total / size.clamp_min(1e-9), upwards).float()


def vertex_tangents(split: SplitMesh) -> torch.Tensor:
    """Unit tangents and handedness, float32 [V, 4], as mesh.tangents.vertex_tangents."""
    corners = split.faces.long()
    points, uvs = split.vertices[corners].double(), split.uvs[corners].double()
    e, g = points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]
    u1, u2 = (uvs[:, k, 0] - uvs[:, 0, 0] for k in (1, 2))
    v1, v2 = (uvs[:, 0, 1] - uvs[:, k, 1] for k in (1, 2))
    sign = torch.where(u1 * v2 - u2 * v1 >= 0.0, 1.0, -1.0)
    rising = sign[:, None] * (v2[:, None] * e - v1[:, None] * g)
    length = torch.linalg.vector_norm(rising, dim=1)
    size = torch.linalg.vector_norm(torch.linalg.cross(e, g, dim=1), dim=1)
    size = torch.where(length < TINY, 0.0, size)
    weighted = torch.cat([rising * (size / length.clamp_min(TINY))[:, None], (sign * size)[:, None]], dim=1)
    total = exact_sums(weighted.repeat_interleave(3, dim=0), corners.reshape(-1), len(split.vertices))
    handed = torch.where(total[:, 3:] >= 0.0, 1.0, -1.0)
    return torch.cat([_across(total[:, :3], split.normals.double()), handed], dim=1).float()


def _across(along: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
    """Unit vectors [V, 3] across the normals, as close to `along` as can be; any where that leaves no direction."""
    scale = torch.linalg.vector_norm(along, dim=1)
    flat = along - (normals * along).sum(dim=1, keepdim=True) * normals
    lost = (torch.linalg.vector_norm(flat, dim=1) <= 1e-4 * scale) | (scale < TINY)
    x, y, z = normals.unbind(dim=1)
    nothing = torch.zeros_like(x)
    any_one = torch.where(
        (x.abs() < 0.6)[:, None], torch.stack([nothing, z, -y], dim=1), torch.stack([z, nothing, -x], dim=1)
    )
    return functional.normalize(torch.where(lost[:, None], any_one, flat), dim=1, eps=1e-300)
