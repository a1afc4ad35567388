"""Door of the op: check the arrays, put the voxels in order, run the CPU path."""

from __future__ import annotations

import numpy as np


def flat_attributes(
    vertices: np.ndarray,
    faces: np.ndarray,
    corner_rgba: np.ndarray,
    metal_rough: np.ndarray,
    coords: np.ndarray,
    resolution: int,
) -> np.ndarray:
    """Attributes uint8 [M, 6] (base colour, metallic, roughness, alpha; x 255) of the voxels a coloured mesh passes.

    vertices: float [V, 3] in the box [-0.5, 0.5]^3; faces: int [F, 3]; corner_rgba: uint8 [F, 3, 4], colour and alpha
    at each face corner; metal_rough: uint8 [F, 2]; coords: int [M, 3] unique, in any order, which the rows keep.
    Voxels the mesh does not pass are mid-grey and opaque. Raises ValueError where shapes do not fit.
    """
    from trellis_kernels.mesh_attributes import cpu

    count = len(faces)
    if corner_rgba.shape != (count, 3, 4) or metal_rough.shape != (count, 2):
        raise ValueError(f"{count} faces, but colours {corner_rgba.shape} and materials {metal_rough.shape}")
    if len(coords) and not 0 <= coords.min() <= coords.max() < resolution:
        raise ValueError(f"coordinates {coords.min()}..{coords.max()} do not fit a grid of {resolution}")
    points = (np.asarray(vertices, np.float64) + 0.5) * resolution
    cells = np.full(3, resolution, np.int64)
    triangles, colours = np.ascontiguousarray(faces, np.int32), np.ascontiguousarray(corner_rgba, np.uint8)
    materials = np.ascontiguousarray(metal_rough, np.uint8)
    key = (coords[:, 0].astype(np.int64) * resolution + coords[:, 1]) * resolution + coords[:, 2]
    if (key[1:] > key[:-1]).all():
        voxels = np.ascontiguousarray(coords, np.int32)
        return cpu.flat_attributes(points.astype(np.float32), triangles, colours, materials, voxels, cells)
    order = np.argsort(key)
    voxels = np.ascontiguousarray(coords[order], np.int32)
    values = np.empty((len(coords), 6), np.uint8)
    values[order] = cpu.flat_attributes(points.astype(np.float32), triangles, colours, materials, voxels, cells)
    return values
