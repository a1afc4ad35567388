"""Which faces of an atlas share texels, by drawing it twice: on any device."""

from __future__ import annotations

import torch
from torch.nn import functional
from trellis_kernels.rasterise.op import rasterise


def later_faces(uvs: torch.Tensor, size: int) -> torch.Tensor:
    """The last face at each texel centre that several faces of uvs float32 [F, 3, 2] hold, int64 [K] rising."""
    clip = functional.pad(2.0 * uvs.reshape(-1, 2) - 1.0, (0, 2))
    clip[:, 3] = 1.0
    corners = torch.arange(len(clip), dtype=torch.int32, device=uvs.device).reshape(-1, 3)
    first = rasterise(clip, corners, (size, size)).face
    last = len(uvs) - 1 - rasterise(clip, corners.flip(0), (size, size)).face
    return torch.unique(last[(first >= 0) & (first != last)]).long()
