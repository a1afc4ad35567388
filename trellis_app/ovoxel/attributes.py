"""Mesh colours and materials -> the attribute half of an O-Voxel asset."""

from __future__ import annotations

import numpy as np
from trellis_kernels.mesh_attributes import op
from trellis_kernels.mesh_attributes.op import Sampling
from trellis_kernels.mesh_attributes.surface import PaintedMesh, TexturedMesh
from trellis_kernels.mesh_to_dual_grid.op import GridBox

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
    mesh = PaintedMesh(vertices, faces, corner_rgba, metal_rough)
    return op.flat_attributes(mesh, grid.coords.numpy(), grid.resolution)


def textured_mesh_to_attributes(
    mesh: TexturedMesh, grid: DualGrid, *, original: bool = False, mip_offset: float = 0.0, workers: int = 1
) -> np.ndarray:
    """Attributes uint8 [M, 6] of the grid's voxels from textures, rows in the grid's order.

    mesh: in the grid's frame, see `scene.textured_mesh`. original: sampling rules and rounding of the tool that made
    the released models' training data. Channels: base colour (sRGB), metallic, roughness, alpha.
    """
    box, coords = GridBox.cube(grid.resolution), grid.coords.numpy()
    values = op.textured_attributes(mesh, coords, box, Sampling(original, mip_offset, workers))
    return as_bytes(values, rounded=not original)


def textured_mesh_to_details(
    mesh: TexturedMesh, grid: DualGrid, *, original: bool = False, mip_offset: float = 0.0, workers: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Emissive colour (sRGB) and shading normal (n / 2 + 1/2), each uint8 [M, 3], as `textured_mesh_to_attributes`.

    mesh: read by `scene.textured_mesh` with details.
    """
    box, coords = GridBox.cube(grid.resolution), grid.coords.numpy()
    sampling = Sampling(original, mip_offset, workers)
    emissive = op.emissive_colours(mesh, coords, box, sampling)
    normal = op.shading_normals(mesh, coords, box, sampling) * 0.5 + 0.5
    return as_bytes(emissive, rounded=not original), as_bytes(normal, rounded=not original)


def as_bytes(values: np.ndarray, *, rounded: bool) -> np.ndarray:
    return (values * 255 + 0.5 * rounded).clip(0, 255).astype(np.uint8)
