"""Corner lists, edges and vertex quadrics of a closed surface.

PYTHONPATH=kernels python kernels/benchmarks/mesh_links.py [--device cpu|cuda] [--rows N]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator

import torch
from benchmarks.workload import benchmark, milliseconds
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


def cases(device: torch.device, rows: int) -> Iterator[dict[str, object]]:
    """Lists and edges, then quadrics."""
    points, faces = bumpy_torus(rows, device)
    row: dict[str, object] = {"vertices": len(points), "faces": len(faces)}
    yield row | {"case": "link", "ms": milliseconds(lambda: link(faces, len(points)), device)}
    quadrics = milliseconds(lambda: plane_quadrics(points, faces, pull=2e-5), device)
    yield row | {"case": "plane_quadrics", "ms": quadrics}


if __name__ == "__main__":
    sys.exit(benchmark("mesh_links", cases))
