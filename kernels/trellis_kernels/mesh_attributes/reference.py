"""Attributes of voxels from a mesh, written to be read: every voxel asks every triangle. For tests on small meshes."""

from __future__ import annotations

import numpy as np

from trellis_kernels.mesh_to_dual_grid.reference import overlapped, plane


def flat_attributes(
    vertices: np.ndarray,
    faces: np.ndarray,
    corner_rgba: np.ndarray,
    metal_rough: np.ndarray,
    coords: np.ndarray,
    cells: np.ndarray,
) -> np.ndarray:
    """As cpu.flat_attributes: the mean over the triangles a voxel meets, weighted by 1 - distance to its centre."""
    row = {tuple(int(c) for c in cell): k for k, cell in enumerate(coords)}
    sums, weights = np.zeros((len(coords), 6)), np.zeros((len(coords), 1))
    for t, face in enumerate(faces):
        triangle = vertices[face].astype(np.float64)
        for cell in overlapped(triangle, plane(triangle)[0], np.ones(3), cells):
            if cell in row:
                share, distance = closest(triangle, np.array(cell) + 0.5)
                weight = max(1.0 - distance, 1e-3)
                rgba = share @ corner_rgba[t].astype(np.float64)
                sums[row[cell]] += weight * np.array([*rgba[:3], *metal_rough[t], rgba[3]])
                weights[row[cell]] += weight
    grey = np.array([128, 128, 128, 128, 128, 255])
    return np.where(weights > 0, sums / np.maximum(weights, 1e-9) + 0.5, grey).astype(np.uint8)


def closest(triangle: np.ndarray, point: np.ndarray) -> tuple[np.ndarray, float]:
    """Barycentric coordinates of the closest point of a triangle: the best of its inside, its edges and its corners."""
    candidates = list(np.eye(3))
    a, u, w = triangle[0], triangle[1] - triangle[0], triangle[2] - triangle[0]
    b, c = np.linalg.lstsq(np.stack([u, w], 1), point - a, rcond=None)[0]
    candidates.append(np.array([1.0 - b - c, b, c]))
    for i, j in ((0, 1), (1, 2), (2, 0)):
        edge = triangle[j] - triangle[i]
        share = (point - triangle[i]) @ edge / max(edge @ edge, 1e-30)
        candidates.append((1.0 - share) * np.eye(3)[i] + share * np.eye(3)[j])
    inside = [s for s in candidates if (s >= -1e-12).all()]
    distances = [float(np.linalg.norm(s @ triangle - point)) for s in inside]
    best = int(np.argmin(distances))
    return inside[best], distances[best]
