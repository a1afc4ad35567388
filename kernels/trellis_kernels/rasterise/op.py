"""Rasterise triangles: which face each pixel centre sees, where on it, and how deep.

Conventions (our own implementations agree on them, bit for bit in coverage; nvdiffrast may differ on edges):

    pixels      row r, column c has its centre at clip (2 (c + 0.5) / W - 1, 2 (r + 0.5) / H - 1): row 0 is clip y = -1
    coverage    vertices snap to 1/4096 pixel; a centre on an edge belongs to the triangle whose top or left edge it is;
                faces of both windings are drawn
    clipping    against the near plane z = -w and a guard band of twice the picture; the far plane does not clip
    visibility  the smallest depth z / w wins, the smaller face index where depths are equal
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from trellis_kernels.choice import CPU, REFERENCE, TRITON, choose
from trellis_kernels.rasterise import nvdiffrast

Layers = tuple[torch.Tensor, torch.Tensor]  # face and depth of the layer in front
Run = Callable[[torch.Tensor, torch.Tensor, tuple[int, int], Layers | None], tuple[torch.Tensor, ...]]
NVDIFFRAST = "nvdiffrast"
OFFERED = (CPU, TRITON, NVDIFFRAST, REFERENCE)


@dataclass(frozen=True)
class Fragments:
    """What the pixels see; leading batch dimension [B] from `rasterise_batch`."""

    face: torch.Tensor  # int32 [H, W], -1 where nothing is seen
    barycentric: torch.Tensor  # float32 [H, W, 3] perspective correct, sums to 1; 0 where nothing is seen
    depth: torch.Tensor  # float32 [H, W] z / w; inf where nothing is seen

    def __getitem__(self, index: int) -> Fragments:
        return Fragments(self.face[index], self.barycentric[index], self.depth[index])


def rasterise(
    clip: torch.Tensor,
    faces: torch.Tensor,
    size: tuple[int, int],
    *,
    behind: Fragments | None = None,
    exact: bool = True,
    implementation: str = "auto",
) -> Fragments:
    """Fragments of one picture.

    clip: float32 [V, 4] homogeneous clip coordinates; faces: int32 [F, 3]; size: (H, W) in pixels, each 1 to 16384.
    behind: only fragments behind these count (the next layer of a depth peel; Everitt 2001); same size.
    exact: False where a face may win or lose a pixel on its edge; auto then takes nvdiffrast where it is installed.
    implementation: auto (cpu or triton by the tensors' device), cpu, triton, nvdiffrast or reference.
    Raises ValueError where shapes, dtypes, devices or face indices do not fit.
    """
    _check(clip, faces, size, behind)
    last = _batched(behind) if behind is not None else None
    return rasterise_batch(clip[None], faces, size, behind=last, exact=exact, implementation=implementation)[0]


def rasterise_batch(
    clip: torch.Tensor,
    faces: torch.Tensor,
    size: tuple[int, int],
    *,
    behind: Fragments | None = None,
    exact: bool = True,
    implementation: str = "auto",
) -> Fragments:
    """Fragments [B, ...] of B pictures of the same faces: clip float32 [B, V, 4]. Otherwise as `rasterise`.

    Several objects go through one call by concatenating their vertices and moving those of the other pictures
    outside the clip box, or by one call each.
    """
    if clip.ndim != 3:
        raise ValueError(f"clip must have shape [B, V, 4], got {tuple(clip.shape)}")
    if clip.shape[0] == 0:
        empty = torch.zeros(0, *size, device=clip.device)
        return Fragments(empty.int(), empty[..., None].expand(*empty.shape, 3).contiguous(), empty)
    _check(clip[0], faces, size, behind[0] if behind is not None else None)
    chosen = choose(implementation, clip.device, OFFERED)
    if implementation == "auto" and not exact and nvdiffrast.serves(clip, faces, behind) and nvdiffrast.available():
        chosen = NVDIFFRAST
    run = _implementation(chosen)
    return Fragments(*run(clip, faces, size, (behind.face, behind.depth) if behind is not None else None))


def _implementation(name: str) -> Run:
    if name == CPU:
        from trellis_kernels.rasterise.cpu import rasterise_cpu

        return rasterise_cpu
    if name == NVDIFFRAST:
        return nvdiffrast.rasterise_nvdiffrast
    if name == TRITON:
        from trellis_kernels.rasterise.triton import rasterise_triton

        return rasterise_triton
    from trellis_kernels.rasterise.reference import rasterise_reference

    return rasterise_reference


def _batched(fragments: Fragments) -> Fragments:
    return Fragments(fragments.face[None], fragments.barycentric[None], fragments.depth[None])


def _check(clip: torch.Tensor, faces: torch.Tensor, size: tuple[int, int], behind: Fragments | None) -> None:
    if clip.ndim != 2 or clip.shape[1] != 4 or clip.dtype != torch.float32:
        raise ValueError(f"clip must be float32 [V, 4], got {clip.dtype} {tuple(clip.shape)}")
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype != torch.int32:
        raise ValueError(f"faces must be int32 [F, 3], got {faces.dtype} {tuple(faces.shape)}")
    if faces.device != clip.device:
        raise ValueError(f"clip is on {clip.device} but faces are on {faces.device}")
    if not (1 <= size[0] <= 16384 and 1 <= size[1] <= 16384):
        raise ValueError(f"size must be (H, W) from 1 to 16384, got {size}")
    if faces.numel() and not (int(faces.min()) >= 0 and int(faces.max()) < clip.shape[0]):
        raise ValueError(f"faces refer to vertices outside 0..{clip.shape[0] - 1}")
    if behind is not None and tuple(behind.face.shape) != tuple(size):
        raise ValueError(f"behind has size {tuple(behind.face.shape)}, expected {tuple(size)}")
