"""Corner lists, edges and vertex quadrics by sorting, in plain torch."""

from __future__ import annotations

import torch

from trellis_kernels.mesh_links.op import Links


def corner_order(faces: torch.Tensor, vertex_count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(corners int64 [3 F] grouped by vertex, rising within a vertex; how many each vertex has, int64 [V])."""
    flat = faces.reshape(-1)
    return torch.sort(flat, stable=True)[1], torch.bincount(flat, minlength=vertex_count)


def link(faces: torch.Tensor, vertex_count: int) -> Links:
    order, valence = corner_order(faces, vertex_count)
    last, used = valence.cumsum(0), valence > 0
    head = torch.full((vertex_count,), -1, dtype=torch.int32, device=faces.device)
    tail, following = head.clone(), head.new_full((faces.numel(),), -1)
    head[used], tail[used] = order[(last - valence)[used]].int(), order[(last - 1)[used]].int()
    following[order[:-1]] = order[1:].int()
    following[tail[used].long()] = -1
    a, b = faces.reshape(-1).long(), faces[:, [1, 2, 0]].reshape(-1).long()
    key, half = torch.sort(torch.minimum(a, b) * vertex_count + torch.maximum(a, b), stable=True)
    faces_at = torch.unique_consecutive(key, return_counts=True)[1]
    halves, rising = half[faces_at.cumsum(0) - faces_at].sort()
    faces_at = faces_at[rising].int()
    border = torch.zeros(vertex_count, dtype=torch.bool, device=faces.device)
    open_halves = halves[faces_at != 2]
    border[a[open_halves]] = True
    border[b[open_halves]] = True
    return Links(head, tail, following, border, halves, faces_at)


def plane_quadrics(points: torch.Tensor, faces: torch.Tensor, pull: float) -> torch.Tensor:
    order, valence = corner_order(faces, len(points))
    p = points[faces.long()]
    cross = torch.linalg.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    long = cross.norm(dim=1)
    x, y, z = (cross / long.clamp_min(1e-30)[:, None]).unbind(1)
    entries = [x * x + pull, x * y, x * z, y * y + pull, y * z, z * z + pull]
    shares = torch.stack([long / 6 * entry for entry in entries], dim=1)[order // 3]
    sums = torch.segment_reduce(shares, "sum", lengths=valence) if len(faces) else points.new_zeros(len(points), 6)
    return torch.nn.functional.pad(sums, (0, 4))
