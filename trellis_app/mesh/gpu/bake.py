"""Textures from voxels on a GPU: the steps of mesh/bake.py as tensor operations, on any device.

UVs ─rasterise▶ face of each texel ─▶ place and frame ─Detail, voxels▶ values, normals ─push-pull▶ Textures
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional
from trellis_kernels.rasterise.op import rasterise

from trellis_app.mesh.bake import (
    FLATTEST,
    INVISIBLE,
    RING,
    SEE_THROUGH,
    Baked,
    Sampler,
    alpha_mode,
    attributes_at,
)
from trellis_app.mesh.gpu.normals import SplitMesh, vertex_tangents
from trellis_app.progress import Check, go_on
from trellis_app.types import Textures

_CHUNK = 1 << 20  # texels placed at once
_AROUND = ((0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))  # (y, x), sides before corners


def bake(
    split: SplitMesh, sampler: Sampler, *, size: int, alpha: str = "auto", normal_map: bool = True,
    check: Check = go_on,
) -> Baked:  # fmt: skip
    """As mesh.bake.bake with `split`, on the device of the split mesh and the sampler; deterministic there.

    normal_map: also bake the normals of sampler.detail in the frames of vertex_tangents.
    """
    uvs = split.uvs[split.faces.long()]
    inside = covering_faces(uvs, size)
    face = inside
    for _ in range(RING):
        face = grown(face)
    rows = torch.nonzero(face.reshape(-1) >= 0)[:, 0]
    owner = face.reshape(-1)[rows].long()
    check()
    tangents = vertex_tangents(split) if normal_map else None
    points, frames = _placed(split, tangents, uvs, rows, owner, size)
    check()
    places, wanted = points, None
    if sampler.detail is not None:
        places, wanted = sampler.detail.project(points, frames[:, 0])
    values = attributes_at(sampler.asset, places)
    check()
    in_chart = inside.reshape(-1)[rows] >= 0
    mode = alpha_mode_of(values[in_chart, 5]) if alpha == "auto" else alpha.upper()
    translucent = np.zeros(len(split.faces), dtype=bool)
    if mode == "BLEND":
        translucent = _translucent_faces(split, owner, values[:, 5], sampler)
    if normal_map and wanted is not None:
        values = torch.cat([values, in_frames(frames, wanted)], dim=1)
    textures = _textures(_bytes(_filled(rows, values, size, mode)), mode)
    check()
    found = None if tangents is None else tangents.cpu().numpy()
    return Baked(textures, translucent, int(in_chart.sum()), found)


def covering_faces(uvs: torch.Tensor, size: int) -> torch.Tensor:
    """The face that holds each texel centre, int32 [T, T], -1 where none does; uvs float32 [F, 3, 2]."""
    clip = functional.pad(2.0 * uvs.reshape(-1, 2) - 1.0, (0, 2))
    clip[:, 3] = 1.0
    corners = torch.arange(len(clip), dtype=torch.int32, device=uvs.device).reshape(-1, 3)
    return rasterise(clip, corners, (size, size), exact=False).face


def grown(face: torch.Tensor) -> torch.Tensor:
    """Give every empty texel beside a covered one the face of a neighbour (sides before corners); int32 [T, T]."""
    height, width = face.shape
    padded = functional.pad(face, (1, 1, 1, 1), value=-1)
    out = face
    for y, x in _AROUND:
        out = torch.where(out >= 0, out, padded[1 + y : 1 + y + height, 1 + x : 1 + x + width])
    return out


def _placed(
    split: SplitMesh, tangents: torch.Tensor | None, uvs: torch.Tensor, rows: torch.Tensor, owner: torch.Tensor,
    size: int,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """World positions float32 [Q, 3] of texels, and their frames [Q, 1 or 3, 3]: unit normal, tangent, bitangent."""
    columns = [split.vertices, split.normals]
    if tangents is not None:
        along, handed = tangents[:, :3], tangents[:, 3:]
        columns += [along, torch.linalg.cross(split.normals, along, dim=1) * handed]
    table, faces = torch.cat(columns, dim=1), split.faces.long()
    points, frames = [table.new_zeros(0, 3)], [table.new_zeros(0, len(columns) - 1, 3)]
    for start in range(0, len(rows), _CHUNK):
        row, f = rows[start : start + _CHUNK], owner[start : start + _CHUNK]
        weight = _weights(uvs[f].double(), row % size, row // size, size)
        mixed = (weight[:, :, None].float() * table[faces[f]]).sum(dim=1)
        points.append(mixed[:, :3])
        frames.append(functional.normalize(mixed[:, 3:].reshape(len(row), -1, 3), dim=2, eps=1e-12))
    return torch.cat(points), torch.cat(frames)


def _weights(uv: torch.Tensor, column: torch.Tensor, row: torch.Tensor, size: int) -> torch.Tensor:
    """Barycentric weights float64 [Q, 3] of texel centres in triangles [Q, 3, 2]; the plane goes on beyond the rim."""
    at = torch.stack([column, row], dim=1).double().add(0.5) / size - uv[:, 0]
    a, b = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    det = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    flat = det.abs() <= 1e-14
    det = torch.where(flat, 1.0, det)
    s = (at[:, 0] * b[:, 1] - at[:, 1] * b[:, 0]) / det
    t = (a[:, 0] * at[:, 1] - a[:, 1] * at[:, 0]) / det
    far = flat | (s < -8.0) | (s > 9.0) | (t < -8.0) | (t > 9.0)  # a needle: its plane leaves the neighbourhood
    s, t = torch.where(far, 1.0 / 3.0, s), torch.where(far, 1.0 / 3.0, t)
    return torch.stack([1.0 - s - t, s, t], dim=1)


def in_frames(frames: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Components float32 [Q, 3] of unit normals [Q, 3] along (tangent, bitangent, normal) of frames [Q, 3, 3].

    frames: unit normal, tangent, bitangent, as viewers interpolate them; they need not be orthogonal.
    """
    n, t, b = frames.unbind(dim=1)
    across = [torch.linalg.cross(x, y, dim=1) for x, y in ((b, n), (n, t), (t, b))]
    det = (t * across[0]).sum(dim=1)
    sound = det.abs() >= 0.1
    det = torch.where(sound, det, 1.0)
    p, q, r = ((wanted * x).sum(dim=1) / det for x in across)
    parts = torch.stack([p, q, r.clamp_min(FLATTEST)], dim=1)
    straight = parts.new_tensor([0.0, 0.0, 1.0])
    return torch.where(sound[:, None], functional.normalize(parts, dim=1), straight)


def alpha_mode_of(alpha: torch.Tensor) -> str:
    """mesh.bake.choose_alpha_mode on a device."""
    see_through = alpha < SEE_THROUGH
    counts = torch.stack([see_through.sum(), (see_through & (alpha > 0.15)).sum()]).tolist()
    return alpha_mode(len(alpha), *counts)


def push_pull(pixels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """mesh.bake.fill_gutters on a device: pixels float32 [C, T, T], weight float32 [1, T, T]."""
    side = pixels.shape[1]
    if side == 1:
        return pixels
    odd = side % 2
    padded = functional.pad(torch.cat([pixels * weight, weight]), (0, odd, 0, odd))
    total = 4.0 * functional.avg_pool2d(padded[None], 2)[0]
    mass = total[-1:]
    coarse = total[:-1] / torch.where(mass > 0, mass, 1.0)
    filled = push_pull(coarse, mass.clamp(max=1.0))
    spread = filled.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)[:, :side, :side]
    return torch.where(weight > 0, pixels, spread)


def _filled(rows: torch.Tensor, values: torch.Tensor, size: int, mode: str) -> torch.Tensor:
    """Channels float32 [C, T, T] with filled gutters; colours that cannot be seen come from those that can."""
    pixels = values.new_zeros(values.shape[1], size * size)
    weight = values.new_zeros(1, size * size)
    pixels[:, rows], weight[:, rows] = values.T, 1.0
    pixels, weight = pixels.reshape(-1, size, size), weight.reshape(1, size, size)
    filled = push_pull(pixels, weight)
    if mode != "OPAQUE":
        unseen = values[:, 5] < INVISIBLE
        if bool(unseen.any()) and not bool(unseen.all()):  # else white specks beside what can be seen
            weight.reshape(-1)[rows[unseen]] = 0.0
            filled = torch.cat([push_pull(filled[:5], weight), filled[5:]])
    return filled


def _bytes(filled: torch.Tensor) -> torch.Tensor:
    """Attributes and normals [6 or 9, T, T] as uint8."""
    if len(filled) > 6:
        unit = functional.normalize(filled[6:], dim=0, eps=1e-6)
        filled = torch.cat([filled[:6], 0.5 * unit + 0.5])
    return (255.0 * filled + 0.5).to(torch.uint8)


def _textures(planes: torch.Tensor, mode: str) -> Textures:
    """mesh.bake.textures_of of planes uint8 [6 or 9, T, T]."""
    alpha = torch.full_like(planes[5], 255) if mode == "OPAQUE" else planes[5]
    color = [*planes[:3], alpha]
    surface = [torch.zeros_like(alpha), planes[4], planes[3]]
    base, metal_rough = (torch.stack(maps, dim=2).cpu().numpy() for maps in (color, surface))
    normal = planes[6:].permute(1, 2, 0).contiguous().cpu().numpy() if len(planes) > 6 else None
    return Textures(base, metal_rough, mode, normal=normal)


def _translucent_faces(split: SplitMesh, owner: torch.Tensor, alpha: torch.Tensor, sampler: Sampler) -> np.ndarray:
    """Faces whose mean alpha (over their texels; at the centre where they have none) lets light through, bool [F]."""
    total = torch.zeros(len(split.faces), 2, dtype=torch.int64, device=alpha.device)
    units = torch.stack([(alpha * 2.0**20).round().long(), torch.ones_like(owner)], dim=1)
    total.index_add_(0, owner, units)
    summed, texels = total.double().cpu().numpy().T
    mean = summed / 2.0**20 / np.maximum(texels, 1)
    bare = np.flatnonzero(texels == 0)
    centres = split.vertices[split.faces[torch.from_numpy(bare).to(alpha.device)].long()].mean(dim=1)
    mean[bare] = sampler.at(centres.cpu().numpy())[:, 5]
    return mean < SEE_THROUGH
