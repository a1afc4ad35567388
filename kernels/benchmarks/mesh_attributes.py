"""Two textures of 1024² on a sphere that nearly fills the box, into the voxels of its dual grid.

PYTHONPATH=kernels python kernels/benchmarks/mesh_attributes.py [--rows FACES]
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator

import numpy as np
import torch
from benchmarks.mesh_to_dual_grid import sphere
from benchmarks.workload import Case, benchmark
from trellis_kernels.mesh_attributes.op import Sampling, textured_attributes
from trellis_kernels.mesh_attributes.surface import Material, Texture, TexturedMesh
from trellis_kernels.mesh_to_dual_grid.op import GridBox, mesh_to_dual_grid


def cases(device: torch.device, rows: int) -> Iterator[Case]:
    """Both rules, one thread and all of them; the work is done on the CPU."""
    rng = np.random.default_rng(0)
    base, rest = (Texture(rng.integers(0, 256, (1024, 1024, 4)).astype(np.uint8)) for _ in range(2))
    vertices, faces, uv = sphere(rows)
    index = faces.numpy()
    mesh = TexturedMesh(
        vertices.numpy(), index, uv.numpy()[index], np.zeros(len(index), np.int32), (Material(base, rest, rest),)
    )
    for resolution in (256, 512, 1024):
        box = GridBox.cube(resolution)
        coords = mesh_to_dual_grid(vertices, faces, box).coords.numpy()
        for original, workers in ((False, 1), (True, 1), (False, os.cpu_count() or 1)):
            run = functools.partial(textured_attributes, mesh, coords, box, Sampling(original, workers=workers))
            rule = "original rule" if original else "our rule"
            yield Case(f"{rule}, {len(index):,} faces, {resolution}³, {workers} threads", run)


if __name__ == "__main__":
    sys.exit(benchmark("mesh_attributes", cases))
