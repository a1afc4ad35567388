"""Rasteriser of the package nvdiffrast (Laine et al. 2020), where it is installed beside a CUDA device.

It shares our orientation and pixel centres. It snaps vertices more coarsely and clips at the far plane too, so pixels
on edges may go to another face than with the implementations of our own.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import torch

MOST_FACES = 1 << 24  # it returns face numbers as floats


@cache
def context(device: torch.device) -> Any:
    """The package's buffers on a device, kept for all calls."""
    from nvdiffrast.torch import RasterizeCudaContext

    return RasterizeCudaContext(device=device)


@cache
def available() -> bool:
    """Whether the package is there and can be loaded."""
    try:
        importlib.import_module("nvdiffrast.torch")
    except (ImportError, OSError):  # built for another torch
        return False
    return True


def serves(clip: torch.Tensor, faces: torch.Tensor, behind: object) -> bool:
    """Whether the package can draw this."""
    return clip.is_cuda and 0 < len(faces) < MOST_FACES and behind is None


def rasterise_nvdiffrast(
    clip: torch.Tensor, faces: torch.Tensor, size: tuple[int, int], behind: object
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """clip float32 [B, V, 4], faces int32 [F, 3] -> face [B, H, W], barycentric [B, H, W, 3], depth [B, H, W].

    Raises ValueError for what the package cannot draw.
    """
    if not serves(clip, faces, behind):
        raise ValueError(
            f"nvdiffrast draws one layer of 1 to {MOST_FACES - 1} faces on CUDA, got {len(faces)} on {clip.device}"
        )
    from nvdiffrast.torch import rasterize

    drawn, _ = rasterize(context(clip.device), clip.contiguous(), faces.contiguous(), list(size), grad_db=False)
    face = drawn[..., 3].to(torch.int32) - 1
    seen = face >= 0
    u, v = drawn[..., 0], drawn[..., 1]
    barycentric = torch.stack([u, v, 1.0 - u - v], dim=-1) * seen[..., None]
    return face, barycentric, torch.where(seen, drawn[..., 2], torch.inf)
