"""Door of the op: where triangles cross the lines of a cubic lattice."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trellis_kernels.choice import REFERENCE, TRITON, choose

FINE = 4096  # steps of a lattice step in the keys


@dataclass(frozen=True)
class Hits:
    """Crossings by face, and for each face by line."""

    key: torch.Tensor  # int64 [K] line times FINE steps a line + fine steps of the height, rounded down
    height: torch.Tensor  # float64 [K] lattice steps along the line
    face: torch.Tensor  # int32 [K]
    rising: torch.Tensor  # bool [K] the face's normal points along the line


def crossings(
    corners: torch.Tensor, faces: torch.Tensor, axis: int, shape: tuple[int, int, int], unit: int, *,
    implementation: str = "auto",
) -> Hits:  # fmt: skip
    """Crossings of faces int32 [F, 3] with the lattice lines along an axis.

    corners int64 [V, 3]: none negative, in parts of which a lattice step has `unit`. A line through an edge meets one
    of its two faces (top-left rule). Lines are numbered by their place along axis + 1, then axis + 2 (modulo 3), in a
    lattice of `shape` points along x, y, z.
    """
    if choose(implementation, corners.device, (REFERENCE, TRITON)) == REFERENCE:
        from trellis_kernels.lattice_crossings import reference

        return reference.crossings(corners, faces, axis, shape, unit)
    from trellis_kernels.lattice_crossings import triton

    return triton.crossings(corners, faces, axis, shape, unit)
