"""Crossings of a closed surface with edges about a lattice step long.

PYTHONPATH=kernels python kernels/benchmarks/lattice_crossings.py [--device cpu|cuda] [--rows N]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from benchmarks.mesh_links import bumpy_torus
from benchmarks.workload import Case, benchmark
from trellis_kernels.choice import REFERENCE
from trellis_kernels.lattice_crossings.op import crossings

UNIT = 65536


def cases(device: torch.device, rows: int) -> Iterator[Case]:
    """Along each axis; the keys are left out, which may round to either side of a fine step."""
    points, faces = bumpy_torus(rows, device)
    corners = ((points - points.amin(dim=0)) * UNIT + UNIT).round().long() + torch.tensor([97, 211, 331], device=device)
    x, y, z = (int(n) // UNIT + 3 for n in corners.amax(dim=0))

    def cross(axis: int, name: str = "auto") -> tuple[torch.Tensor, ...]:
        found = crossings(corners, faces, axis, (x, y, z), UNIT, implementation=name)
        return found.height, found.face, found.rising.int()

    for axis in range(3):
        yield Case(
            f"{len(faces):,} faces along axis {axis}",
            lambda axis=axis: cross(axis),
            lambda axis=axis: cross(axis, REFERENCE),
            1e-12,
        )


if __name__ == "__main__":
    sys.exit(benchmark("lattice_crossings", cases))
