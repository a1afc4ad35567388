"""Door of the op: which rays get from lattice points to the open air.

A ray walks from lattice point to lattice point, along the lattice edges nearest to its line, until a closed edge stops
it, or it gets out: into an open cell, to the border of the lattice, or past its last step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trellis_kernels.choice import REFERENCE, TRITON, choose


@dataclass(frozen=True)
class Walls:
    """What stops rays in a lattice of `shape` points along x, y, z, and what ends them.

    Edge number: axis * points of the lattice + line * points a line + position of the lower end. Lines along axis a are
    numbered by their place along a + 1, then a + 2 (modulo 3).
    """

    edges: torch.Tensor  # int64 [K] numbers of the closed edges, rising; repeats do no harm
    open_cells: torch.Tensor  # bool [x, y, z] cells of `grain` points along each side in which a ray is out
    grain: int
    shape: tuple[int, int, int]


def rays_out(
    points: torch.Tensor, steps: torch.Tensor, walls: Walls, *, limit: int, implementation: str = "auto"
) -> torch.Tensor:
    """Whether each ray gets out, bool [N, D].

    points int64 [N]: flat indices (x ny + y) nz + z. steps int64 [D, 3]: time between steps along x, y, z with the sign
    of the direction, never 0; the first comes after half of it, of steps due at the same time x goes before y before z.
    limit: steps of a ray.
    """
    if choose(implementation, points.device, (REFERENCE, TRITON)) == REFERENCE:
        from trellis_kernels.lattice_rays import reference

        return reference.rays_out(points, steps, walls, limit)
    from trellis_kernels.lattice_rays import triton

    return triton.rays_out(points, steps, walls, limit)
