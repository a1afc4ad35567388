"""Mesh colours and materials -> the attribute half of an O-Voxel asset."""

from __future__ import annotations

import numpy as np
from trellis_kernels.mesh_attributes import op

from trellis_app.types import DualGrid


def flat_attributes(
    vertices: np.ndarray,
    faces: np.ndarray,
    corner_rgba: np.ndarray,
    metal_rough: np.ndarray,
    grid: DualGrid,
) -> np.ndarray:
    """Attributes uint8 [M, 6] of the grid's voxels from corner colours and face materials, rows in the grid's order.

    vertices: float32 [V, 3] in the grid's frame; faces: int32 [F, 3]; corner_rgba: uint8 [F, 3, 4] sRGB and alpha;
    metal_rough: uint8 [F, 2]. Channels: base colour, metallic, roughness, alpha.
    """
    return op.flat_attributes(vertices, faces, corner_rgba, metal_rough, grid.coords.numpy(), grid.resolution)
