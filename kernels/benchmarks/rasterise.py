"""Pictures of a sphere and atlases of charts, at the sizes that previews and baking draw.

PYTHONPATH=kernels python kernels/benchmarks/rasterise.py [--device cpu|cuda]
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Iterator

import torch
from benchmarks.workload import Case, Peer, benchmark
from trellis_kernels.choice import REFERENCE, installed
from trellis_kernels.rasterise.op import NVDIFFRAST, Fragments, rasterise, rasterise_batch

VIEWS = ((5, 1024), (400, 1024), (500, 2048))  # cells along a side of the sphere, picture side
ATLASES = ((224, 1024), (500, 2048), (500, 4096))  # charts along a side of the atlas, texture side
SMALL = (61, 83)  # of the pictures that the reference draws


def sphere(side: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Clip coordinates [V, 4] and faces [2 side^2, 3] of a sphere that fills most of the picture."""
    turn, height = torch.meshgrid(
        torch.linspace(0, 2 * math.pi, side + 1), torch.linspace(0.01, math.pi - 0.01, side + 1), indexing="xy"
    )
    x, y, z = height.sin() * turn.cos(), height.cos(), 3.0 + height.sin() * turn.sin()
    clip = torch.stack([2.5 * x, 2.5 * y, 1.02 * z - 1.0, z], dim=-1).reshape(-1, 4)
    first = (torch.arange(side)[:, None] * (side + 1) + torch.arange(side)).reshape(-1, 1)
    halves = torch.tensor([[0, 1, side + 1], [1, side + 2, side + 1]])
    return clip.to(device), torch.cat([first + halves[0], first + halves[1]]).int().to(device)


def atlas(side: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Clip coordinates [4 side^2, 4] and faces [2 side^2, 3] of square charts with gaps between them."""
    chart = torch.arange(side * side, device=device)
    low = torch.stack([chart % side, chart // side], dim=1).float()
    corners = 0.95 * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], device=device)
    clip = torch.nn.functional.pad((low[:, None] + corners).reshape(-1, 2) * (2 / side) - 1, (0, 2))
    clip[:, 3] = 1.0
    halves = torch.tensor([[0, 1, 2], [1, 3, 2]], device=device)
    return clip, (4 * chart[:, None, None] + halves).reshape(-1, 3).int()


def cases(device: torch.device, rows: int) -> Iterator[Case]:
    """Small pictures beside the reference, one cut by the near plane, then pictures and atlases of real size."""
    clip, faces = sphere(9, device)
    for name, corners in (("whole", clip), ("cut", clip - torch.tensor([0.0, 0.0, 2.5, 2.5], device=device))):
        small = functools.partial(rasterise, corners, faces, SMALL)
        yield Case(f"{name}, {SMALL[0]} x {SMALL[1]}", small, functools.partial(small, implementation=REFERENCE), 1e-6)
    for make, sizes in ((sphere, VIEWS), (atlas, ATLASES)):
        for cells, side in sizes:
            clip, faces = make(cells, device)
            run = functools.partial(rasterise, clip, faces, (side, side))
            yield Case(f"{make.__name__}, {len(faces):,} faces, {side}²", run, peer=nvdiffrast(run, device))
    clip, faces = sphere(40, device)
    run = functools.partial(rasterise_batch, clip.expand(16, -1, -1), faces, (512, 512))
    yield Case(f"16 spheres, {len(faces):,} faces, 512²", run, peer=nvdiffrast(run, device))


def nvdiffrast(run: functools.partial[Fragments], device: torch.device) -> Peer | None:
    """The same picture by nvdiffrast; it has nothing for a CPU."""
    if device.type != "cuda":
        return None
    return Peer(NVDIFFRAST, functools.partial(run, implementation=NVDIFFRAST) if installed(NVDIFFRAST) else None)


if __name__ == "__main__":
    sys.exit(benchmark("rasterise", cases))
