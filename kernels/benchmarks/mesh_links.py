"""Corner lists, edges and vertex quadrics of a closed surface.

PYTHONPATH=kernels python kernels/benchmarks/mesh_links.py [--device cpu|cuda] [--rows N]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator

import torch
from benchmarks.workload import Case, benchmark
from trellis_kernels.choice import REFERENCE
from trellis_kernels.mesh_links.op import link, plane_quadrics


def bumpy_torus(vertices: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(points float32 [V, 3] about one unit apart, faces int32 [2 V, 3]) of a closed torus with bumps."""
    across = max(3, round(math.sqrt(vertices / 3)))
    around = 3 * across
    u, v = torch.meshgrid(torch.arange(around, device=device), torch.arange(across, device=device), indexing="ij")
    a, b = u * (2 * math.pi / around), v * (2 * math.pi / across)
    radius = across / (2 * math.pi) * (1 + 0.1 * torch.sin(5 * a) * torch.sin(4 * b))
    ring = around / (2 * math.pi) + radius * torch.cos(b)
    points = torch.stack([ring * torch.cos(a), ring * torch.sin(a), radius * torch.sin(b)], dim=-1).reshape(-1, 3)
    here = u * across + v
    ahead, beside = ((u + 1) % around) * across + v, u * across + (v + 1) % across
    far = ((u + 1) % around) * across + (v + 1) % across
    faces = torch.stack([here, ahead, far, here, far, beside], dim=-1).reshape(-1, 3)
    return points.contiguous(), faces.int()


def cases(device: torch.device, rows: int) -> Iterator[Case]:
    """Lists and edges, then quadrics."""
    points, faces = bumpy_torus(rows, device)
    size = f"{len(points):,} vertices"

    def edges(name: str = "auto") -> tuple[torch.Tensor, ...]:
        """Links without the corner lists, whose order is free."""
        found = link(faces, len(points), implementation=name)
        return found.border, found.halves, found.faces_at

    def quadrics(name: str = "auto") -> torch.Tensor:
        return plane_quadrics(points, faces, pull=2e-5, implementation=name)

    yield Case(f"link, {size}", edges, lambda: edges(REFERENCE))
    yield Case(f"plane_quadrics, {size}", quadrics, lambda: quadrics(REFERENCE), 1e-5)


if __name__ == "__main__":
    sys.exit(benchmark("mesh_links", cases))
