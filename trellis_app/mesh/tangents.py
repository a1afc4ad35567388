"""The tangent frame of normal maps, shared by the bake and by the files.

glTF: bitangent = cross(normal, tangent) * w. Tangents point along u, bitangents up the picture (against glTF's v).
"""

from __future__ import annotations

import numpy as np
from numba import njit

TINY = 1e-20  # directions shorter than this are none


@njit(cache=True, nogil=True)
def _sum_frames(vertices: np.ndarray, faces: np.ndarray, uvs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the faces around each vertex of dP/du, as unit vectors times area, and of the signed UV area."""
    along = np.zeros((len(vertices), 3), np.float64)
    turn = np.zeros(len(vertices), np.float64)
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        u1, v1 = np.float64(uvs[b, 0]) - uvs[a, 0], np.float64(uvs[a, 1]) - uvs[b, 1]
        u2, v2 = np.float64(uvs[c, 0]) - uvs[a, 0], np.float64(uvs[a, 1]) - uvs[c, 1]
        area = u1 * v2 - u2 * v1
        sign = 1.0 if area >= 0 else -1.0
        e = vertices[b].astype(np.float64) - vertices[a]
        g = vertices[c].astype(np.float64) - vertices[a]
        x, y, z = sign * (v2 * e[0] - v1 * g[0]), sign * (v2 * e[1] - v1 * g[1]), sign * (v2 * e[2] - v1 * g[2])
        length = np.sqrt(x * x + y * y + z * z)
        size = np.sqrt(
            (e[1] * g[2] - e[2] * g[1]) ** 2 + (e[2] * g[0] - e[0] * g[2]) ** 2 + (e[0] * g[1] - e[1] * g[0]) ** 2
        )
        if length < TINY:
            continue
        weight = size / length
        for k in range(3):
            i = faces[f, k]
            along[i, 0] += weight * x
            along[i, 1] += weight * y
            along[i, 2] += weight * z
            turn[i] += sign * size
    return along, turn


@njit(cache=True, nogil=True)
def _orthogonal(along: np.ndarray, turn: np.ndarray, normals: np.ndarray) -> np.ndarray:
    out = np.empty((len(along), 4), np.float32)
    for i in range(len(along)):
        nx, ny, nz = np.float64(normals[i, 0]), np.float64(normals[i, 1]), np.float64(normals[i, 2])
        x, y, z = along[i, 0], along[i, 1], along[i, 2]
        scale = np.sqrt(x * x + y * y + z * z)
        dot = nx * x + ny * y + nz * z
        x, y, z = x - dot * nx, y - dot * ny, z - dot * nz
        length = np.sqrt(x * x + y * y + z * z)
        if length <= 1e-4 * scale or scale < TINY:  # no direction is left: any one across the normal
            x, y, z = (0.0, nz, -ny) if abs(nx) < 0.6 else (nz, 0.0, -nx)
            length = np.sqrt(x * x + y * y + z * z)
        out[i, 0], out[i, 1], out[i, 2] = x / length, y / length, z / length
        out[i, 3] = 1.0 if turn[i] >= 0 else -1.0
    return out


def vertex_tangents(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray, uvs: np.ndarray) -> np.ndarray:
    """Unit tangents and handedness, float32 [V, 4], of vertices that are split at UV seams and creases.

    vertices, unit normals [V, 3]; faces [F, 3]; uvs [V, 2] with v down. The tangent of a vertex is the sum of its
    faces' directions of rising u, weighted by area, made orthogonal to the normal; w is -1 where the UVs are mirrored.
    """
    along, turn = _sum_frames(vertices, faces, uvs)
    return _orthogonal(along, turn, normals)
