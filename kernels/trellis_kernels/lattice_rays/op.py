"""Door of the op: how far rays get from lattice points, into the open air and out of the lattice.

A ray walks from lattice point to lattice point, along the lattice edges nearest to its line, until a closed edge stops
it, or it gets out: beyond the border of the lattice, or past its last step. Edges that begin in open cells stop none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trellis_kernels.choice import REFERENCE, TRITON, choose

SHUT_IN, OPEN, OUT = 0, 1, 2  # stopped before it came into an open cell; stopped after that; never stopped


@dataclass(frozen=True)
class Walls:
    """What stops rays in a lattice of `shape` points along x, y, z, and where the air is open.

    Edge number: axis * points of the lattice + line * points a line + position of the lower end. Lines along axis a are
    numbered by their place along a + 1, then a + 2 (modulo 3).
    """

    edges: torch.Tensor  # int64 [K] numbers of the closed edges, rising; repeats do no harm
    open_cells: torch.Tensor  # bool [x, y, z] cells of `grain` points along each side: the open air
    grain: int
    shape: tuple[int, int, int]


def ray_reach(
    points: torch.Tensor, steps: torch.Tensor, walls: Walls, *, limit: int, implementation: str = "auto"
) -> torch.Tensor:
    """How far each ray gets, uint8 [N, D]: SHUT_IN, OPEN or OUT.

    points int64 [N]: flat indices (x ny + y) nz + z. steps int64 [S, D, 3]: sets of directions, the set of a point is
    its index modulo S; time between steps along x, y, z with the sign of the direction, never 0; the first comes after
    half of it, of steps due at the same time x goes before y before z. limit: steps of a ray.
    """
    if choose(implementation, points.device, (REFERENCE, TRITON)) == REFERENCE:
        from trellis_kernels.lattice_rays import reference

        return reference.ray_reach(points, steps, walls, limit)
    from trellis_kernels.lattice_rays import triton

    return triton.ray_reach(points, steps, walls, limit)
