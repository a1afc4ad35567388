"""Shading normals that stay sharp at creases."""

from __future__ import annotations

import numpy as np

from trellis_app.mesh.surface import Surface, edge_table, face_cross, partners_across, split_corners

CREASE_DEGREES = 42.0


def _corner_angles(surface: Surface) -> np.ndarray:
    corners = surface.vertices.astype(np.float64)[surface.faces]
    angles = np.empty(surface.faces.shape)
    for c in range(3):
        a, b = corners[:, (c + 1) % 3] - corners[:, c], corners[:, (c + 2) % 3] - corners[:, c]
        angles[:, c] = np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), np.einsum("ij,ij->i", a, b))
    return angles


def crease_normals(surface: Surface, *, crease_degrees: float = CREASE_DEGREES) -> tuple[np.ndarray, np.ndarray]:
    """(corner groups int32 [F, 3], unit normal float32 [G, 3] of each group).

    Corners of a vertex are one group while they are connected across edges bent by less than `crease_degrees`; the
    normal is the angle-weighted mean of the group's face normals (Thuermer and Wuethrich, 1998).
    """
    cross = face_cross(surface)
    unit = cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-300)
    partner = partners_across(surface, edge_table(surface))
    half = np.flatnonzero(partner >= 0)
    bend = np.einsum("ij,ij->i", unit[half // 3], unit[partner[half] // 3])
    partner[half[bend < np.cos(np.radians(crease_degrees))]] = -1
    groups, _ = split_corners(surface.faces, partner)
    weighted = (_corner_angles(surface)[:, :, None] * unit[:, None, :]).reshape(-1, 3)
    count = int(groups.max()) + 1 if len(groups) else 0
    total = np.stack([np.bincount(groups.reshape(-1), weights=weighted[:, k], minlength=count) for k in range(3)], 1)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    normals = np.where(length > 1e-12, total / np.maximum(length, 1e-12), (0.0, 0.0, 1.0))
    return groups, normals.astype(np.float32)
