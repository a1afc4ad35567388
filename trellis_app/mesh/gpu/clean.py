"""Valid triangles only: no coincident vertices, no broken, degenerate or repeated face."""

from __future__ import annotations

import torch

from trellis_app.types import Mesh


def _mixed(values: torch.Tensor) -> torch.Tensor:
    """A 64-bit mix of each row's integers, int64 [N]; equal rows get equal values, others hardly ever."""
    key = torch.zeros(len(values), dtype=torch.int64, device=values.device)
    for k in range(values.shape[1]):
        key = (key ^ values[:, k].long()) * 0x2545F4914F6CDD1D
        key ^= (key >> 29) & 0x7FFFFFFFF
    return key


def _first_of_equal(rows: torch.Tensor) -> torch.Tensor:
    """Index of the first row equal to each row, int64 [N]; rows int [N, C]."""
    order = torch.argsort(_mixed(rows), stable=True)
    ordered = rows[order]
    fresh = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    fresh[1:] = (ordered[1:] != ordered[:-1]).any(dim=1)
    first = torch.empty_like(order)
    first[order] = order[fresh][torch.cumsum(fresh, 0) - 1]
    return first


def compacted(mesh: Mesh) -> Mesh:
    """The same faces without unused vertices; vertices keep their order."""
    used = torch.zeros(len(mesh.vertices), dtype=torch.bool, device=mesh.faces.device)
    used[mesh.faces.reshape(-1).long()] = True
    index = (torch.cumsum(used, 0) - 1).int()
    return Mesh(mesh.vertices[used], index[mesh.faces.long()])


def clean(mesh: Mesh) -> Mesh:
    """Join coincident vertices; drop faces with non-finite or repeated corners or the corners of an earlier face."""
    if not len(mesh.faces):
        return Mesh(mesh.vertices[:0], mesh.faces)
    vertices = (mesh.vertices + 0.0).contiguous()  # -0.0 becomes 0.0
    joined = _first_of_equal(vertices.view(torch.int32))
    faces = joined[mesh.faces.long()]
    good = torch.isfinite(vertices).all(dim=1)[faces].all(dim=1)
    good &= (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    faces = faces[good]
    first = _first_of_equal(torch.sort(faces, dim=1).values)
    return compacted(Mesh(vertices, faces[first == torch.arange(len(faces), device=faces.device)].int()))
