"""Readable rasteriser: every triangle against every pixel, in torch with exact integer edge functions."""

from __future__ import annotations

from dataclasses import dataclass

import torch

SUBPIXEL = 4096
GUARD = 2.0


def clip_triangle(corners: torch.Tensor) -> list[torch.Tensor]:
    """Triangles [3, 7] (x y z w, three weights) of corners [3, 7] inside the near plane and the guard band.

    Sutherland and Hodgman 1974, in homogeneous coordinates.
    """
    planes = [(0.0, 0.0, 1.0, 1.0)]
    planes += [
        (sign if axis == 0 else 0.0, sign if axis == 1 else 0.0, 0.0, GUARD) for axis in (0, 1) for sign in (1, -1)
    ]
    polygon = list(corners)
    for plane in planes:
        normal = torch.tensor(plane, dtype=torch.float64)
        kept: list[torch.Tensor] = []
        for a, b in zip(polygon, polygon[1:] + polygon[:1], strict=True):
            da, db = float(a[:4] @ normal), float(b[:4] @ normal)
            if da >= 0:
                kept.append(a)
            if (da >= 0) != (db >= 0):
                kept.append(a + (b - a) * (da / (da - db)))
        polygon = kept
    return [torch.stack([polygon[0], polygon[k], polygon[k + 1]]) for k in range(1, len(polygon) - 1)]


@dataclass(frozen=True)
class ScreenTriangles:
    """Triangles that are drawn, by picture, then by face."""

    corners: torch.Tensor  # float64 [T, 3, 7] x y z w and the weights of the face's corners
    face: torch.Tensor  # int64 [T]
    picture: torch.Tensor  # int64 [T]


def screen_triangles(clip: torch.Tensor, faces: torch.Tensor) -> ScreenTriangles:
    """Triangles of clip float32 [B, V, 4], faces int32 [F, 3]; cut faces (near plane, guard band) come in parts."""
    batch, count = len(clip), len(faces)
    corners = clip.double()[:, faces.long()].reshape(batch * count, 3, 4)
    weights = torch.eye(3, dtype=torch.float64, device=clip.device).expand(batch * count, 3, 3)
    corners = torch.cat([corners, weights], dim=2)
    x, y, z, w = corners[..., :4].unbind(-1)
    near = (z < -w) | (w <= 0)
    guard = (x.abs() > GUARD * w) | (y.abs() > GUARD * w)
    sides = torch.stack([near, x < -w, x > w, y < -w, y > w])
    usable = corners.isfinite().all(-1).all(-1) & ~sides.all(-1).any(0)
    crossing = usable & (near | guard).any(-1)
    rows = torch.nonzero(usable & ~crossing)[:, 0]
    parts, part_rows = [corners[rows]], [rows]
    for row in torch.nonzero(crossing)[:, 0].tolist():
        cut = [part for part in clip_triangle(corners[row].cpu()) if bool((part[:, 3] > 1e-12).all())]
        if cut:
            parts.append(torch.stack(cut).to(clip.device))
            part_rows.append(torch.full((len(cut),), row, device=clip.device))
    rows, order = torch.sort(torch.cat(part_rows), stable=True)
    return ScreenTriangles(torch.cat(parts)[order], rows % max(count, 1), rows // max(count, 1))


def snap(corners: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Screen positions int64 [T, 3, 2] (x, y) in steps of 1/4096 pixel."""
    inverse = 1.0 / corners[..., 3:4]
    scale = torch.tensor([size[1], size[0]], dtype=torch.float64, device=corners.device)
    return torch.round((corners[..., :2] * inverse * 0.5 + 0.5) * scale * SUBPIXEL).long()


def rasterise_reference(
    clip: torch.Tensor,
    faces: torch.Tensor,
    size: tuple[int, int],
    behind: tuple[torch.Tensor, torch.Tensor] | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """clip float32 [B, V, 4], faces int32 [F, 3] -> face [B, H, W], barycentric [B, H, W, 3], depth [B, H, W]."""
    triangles = screen_triangles(clip, faces)
    positions = snap(triangles.corners, size)
    shape = (len(clip), *size)
    face = torch.full(shape, -1, dtype=torch.int32, device=clip.device)
    depth = torch.full(shape, float("inf"), device=clip.device)
    barycentric = torch.zeros(*shape, 3, device=clip.device)
    for k, (owner, b) in enumerate(zip(triangles.face.tolist(), triangles.picture.tolist(), strict=True)):
        covered, screen = _coverage(positions[k], size)
        corners = triangles.corners[k]
        inverse_w = 1.0 / corners[:, 3]
        z = (screen * (corners[:, 2] * inverse_w)).sum(-1).float()
        wins = covered & ((z < depth[b]) | ((z == depth[b]) & (owner < face[b])))
        if behind is not None:
            wins &= (z > behind[1][b]) | ((z == behind[1][b]) & (owner > behind[0][b]))
        perspective = screen * inverse_w
        perspective = perspective / perspective.sum(-1, keepdim=True)
        barycentric[b][wins] = (perspective @ corners[:, 4:]).float()[wins]
        depth[b][wins], face[b][wins] = z[wins], owner
    return face, barycentric, depth


def _coverage(position: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Covered pixels bool [H, W] and affine screen weights float64 [H, W, 3] of a snapped triangle [3, 2]."""
    centres = (torch.arange(n, device=position.device) * SUBPIXEL + SUBPIXEL // 2 for n in size)
    y, x = torch.meshgrid(*centres, indexing="ij")
    (x0, y0), (x1, y1), (x2, y2) = position.tolist()
    area = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
    sign = 1 if area > 0 else -1
    covered = torch.full(x.shape, area != 0, device=x.device)
    edges = []
    for ax, ay, bx, by in ((x1, y1, x2, y2), (x2, y2, x0, y0), (x0, y0, x1, y1)):
        dx, dy = sign * (bx - ax), sign * (by - ay)
        value = dx * (y - ay) - dy * (x - ax)
        top_left = dy < 0 or (dy == 0 and dx > 0)
        covered &= (value >= 0) if top_left else (value > 0)
        edges.append(value)
    return covered, torch.stack(edges, dim=-1).double() / max(abs(area), 1)
