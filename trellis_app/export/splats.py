"""Gaussian splats: one flattened Gaussian a surface voxel, in the PLY of Kerbl et al. (3D Gaussian Splatting, 2023).

Binary little-endian: x y z, nx ny nz, f_dc_0..2 (constant term of the spherical harmonics), opacity (logit),
scale_0..2 (natural logarithm of the standard deviations), rot_0..3 (quaternion w x y z). There is no view dependence.
Axes are those of photographs, as in every captured splat and as its viewers expect (gr.Model3D, SuperSplat,
antimatter15): X right, Y down, Z away from the viewer, who sees the side of the picture.
"""

from __future__ import annotations

import numpy as np

from trellis_app.export.surfels import Surfels

CONSTANT_TERM = 0.28209479177387814  # Y_0^0 = 1 / (2 sqrt(pi))
ALONG, ACROSS = 0.65, 0.12  # standard deviations in voxels: in the surface, and along its normal
_OVERLAP = 2 * np.pi * ALONG**2  # Gaussians (by weight) over a point of a sheet with one on each square voxel
_ALPHAS = (0.01, 0.9999)
_FIELDS = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)


def splat_rows(discs: Surfels) -> np.ndarray:
    """The properties of every Gaussian, float32 [N, 17], in the order of the file."""
    normals = y_down(discs.normals)
    rows = np.empty((len(normals), len(_FIELDS)), np.float32)
    rows[:, 0:3], rows[:, 3:6] = y_down(discs.points), normals
    rows[:, 6:9] = (discs.attributes[:, :3] - 0.5) / CONSTANT_TERM
    through = 1.0 - discs.attributes[:, 5].astype(np.float64).clip(*_ALPHAS)
    crossed = np.abs(discs.normals.astype(np.float64)).sum(axis=1)  # voxels that a sheet passes per square voxel
    opacity = 1.0 - through ** (1.0 / (_OVERLAP * crossed))  # so that overlapping ones together have the voxel's alpha
    rows[:, 9] = np.log(opacity / (1.0 - opacity))
    rows[:, 10:13] = np.log(np.array([ALONG, ALONG, ACROSS]) / discs.resolution)
    rows[:, 13:17] = turns_from_z(normals)
    return rows


def y_down(vectors: np.ndarray) -> np.ndarray:
    """Turn Z-up positions or directions [N, 3] into the frame of photographs: (x, y, z) -> (x, -z, y)."""
    return np.stack([vectors[:, 0], -vectors[:, 2], vectors[:, 1]], axis=1)


def turns_from_z(normals: np.ndarray) -> np.ndarray:
    """Unit quaternions (w, x, y, z), float32 [N, 4], of the shortest turns that take +Z to unit `normals` [N, 3]."""
    x, y, z = normals.astype(np.float64).T
    turns = np.stack([1.0 + z, -y, x, np.zeros_like(x)], axis=1)  # (1 + z.n, z cross n), to be normalised
    turns[z < -0.999999] = (0.0, 1.0, 0.0, 0.0)  # half a turn about X
    return (turns / np.linalg.norm(turns, axis=1, keepdims=True)).astype(np.float32)


def splat_chunks(discs: Surfels) -> list[bytes]:
    """The file in pieces; the same discs give the same bytes."""
    rows = np.ascontiguousarray(splat_rows(discs), "<f4")
    properties = "".join(f"property float {name}\n" for name in _FIELDS)
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(rows)}\n{properties}end_header\n"
    return [header.encode("ascii"), rows.tobytes()]
