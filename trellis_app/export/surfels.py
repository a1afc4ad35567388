"""The surface voxels of an asset as small discs: what splats and radiance fields are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from trellis_app.errors import EmptyAssetError
from trellis_app.ovoxel.to_mesh import dual_grid_to_mesh
from trellis_app.types import OVoxel

_SQUARINGS = 6  # of the normal's matrix: separates eigenvalues a factor 1.1 apart by 1.1^64


@dataclass(frozen=True)
class Surfels:
    """One disc for each voxel that the surface passes through; Z up, in the box [-0.5, 0.5]^3."""

    coords: np.ndarray  # int32 [N, 3] of the voxel
    points: np.ndarray  # float32 [N, 3] on the surface
    normals: np.ndarray  # float32 [N, 3] unit; which of the two sides is left open
    attributes: np.ndarray  # float32 [N, 6] base colour (sRGB), metallic, roughness, alpha in [0, 1]
    resolution: int  # voxels along the box


@njit(cache=True, nogil=True)
def _sheet_normals(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(unit normals float32 [V, 3], whether a face uses the vertex) from the sum of area times n n^T around a vertex.

    The principal direction does not care how the faces are wound.
    """
    sums = np.zeros((len(vertices), 6), np.float64)
    used = np.zeros(len(vertices), np.bool_)
    for f in range(len(faces)):
        a, b, c = vertices[faces[f, 0]], vertices[faces[f, 1]], vertices[faces[f, 2]]
        px, py, pz = np.float64(b[0]) - a[0], np.float64(b[1]) - a[1], np.float64(b[2]) - a[2]
        qx, qy, qz = np.float64(c[0]) - a[0], np.float64(c[1]) - a[1], np.float64(c[2]) - a[2]
        x, y, z = py * qz - pz * qy, pz * qx - px * qz, px * qy - py * qx
        length = np.sqrt(x * x + y * y + z * z)
        for k in range(3):
            i = faces[f, k]
            used[i] = True
            if length > 0:
                sums[i, 0] += x * x / length
                sums[i, 1] += y * y / length
                sums[i, 2] += z * z / length
                sums[i, 3] += x * y / length
                sums[i, 4] += x * z / length
                sums[i, 5] += y * z / length
    normals = np.zeros((len(vertices), 3), np.float32)
    for i in range(len(vertices)):
        if used[i]:
            x, y, z = _principal(sums[i])
            normals[i, 0], normals[i, 1], normals[i, 2] = x, y, z
    return normals, used


@njit(cache=True, nogil=True)
def _principal(s: np.ndarray) -> tuple[float, float, float]:
    """Eigenvector of the largest eigenvalue of the symmetric matrix (xx, yy, zz, xy, xz, yz), by repeated squaring."""
    trace = s[0] + s[1] + s[2]
    if not trace > 0:
        return 0.0, 0.0, 1.0
    a, b, c, d, e, f = s[0] / trace, s[1] / trace, s[2] / trace, s[3] / trace, s[4] / trace, s[5] / trace
    for _ in range(_SQUARINGS):
        aa, bb, cc = a * a + d * d + e * e, b * b + d * d + f * f, c * c + e * e + f * f
        dd, ee, ff = a * d + d * b + e * f, a * e + d * f + e * c, d * e + b * f + f * c
        scale = 1.0 / (aa + bb + cc)
        a, b, c, d, e, f = aa * scale, bb * scale, cc * scale, dd * scale, ee * scale, ff * scale
    x, y, z = (a, d, e) if a >= b and a >= c else (d, b, f) if b >= c else (e, f, c)
    length = np.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


def surfels(voxels: OVoxel) -> Surfels:
    """Discs of all voxels that a face of the decoded surface uses. Raises EmptyAssetError where there is none."""
    mesh = dual_grid_to_mesh(voxels.grid)
    vertices = mesh.vertices.cpu().numpy()
    normals, used = _sheet_normals(vertices, mesh.faces.cpu().numpy())
    if not used.any():
        raise EmptyAssetError("The shape has no surface.", "Try another seed or another picture.")
    return Surfels(
        voxels.grid.coords.cpu().numpy()[used],
        vertices[used],
        normals[used],
        voxels.attributes.detach().float().clamp(0.0, 1.0).cpu().numpy()[used],
        voxels.grid.resolution,
    )
