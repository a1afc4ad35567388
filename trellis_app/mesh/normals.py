"""Shading normals that stay sharp at creases, and the vertices that textures and creases need; on all cores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from trellis_app.mesh.surface import Surface, edge_table, face_cross, partners_across

CREASE_DEGREES = 42.0


@dataclass(frozen=True)
class SplitSurface:
    """A surface with one vertex for each distinct position, normal and UV."""

    vertices: np.ndarray  # float32 [V, 3]
    faces: np.ndarray  # int32 [F, 3], in the order of the surface's faces
    normals: np.ndarray  # float32 [V, 3] unit
    uvs: np.ndarray  # float32 [V, 2]


def _unit_normals(surface: Surface) -> np.ndarray:
    """Unit normal of each face, float64 [F, 3]; 0 where it has no area."""
    cross = face_cross(surface)
    x, y, z = cross.T
    length = np.sqrt(x * x + y * y + z * z)
    return np.asarray(cross / np.where(length > 0.0, length, 1.0)[:, None])


@njit(cache=True, nogil=True)
def _corner_angle(vertices: np.ndarray, face: np.ndarray, c: int) -> float:
    p, q, r = vertices[face[c]], vertices[face[(c + 1) % 3]], vertices[face[(c + 2) % 3]]
    ax, ay, az = np.float64(q[0]) - p[0], np.float64(q[1]) - p[1], np.float64(q[2]) - p[2]
    bx, by, bz = np.float64(r[0]) - p[0], np.float64(r[1]) - p[1], np.float64(r[2]) - p[2]
    x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    return np.arctan2(np.sqrt(x * x + y * y + z * z), ax * bx + ay * by + az * bz)


@njit(cache=True, nogil=True)
def _next_around(partner: np.ndarray, smooth: np.ndarray, corner: int) -> int:
    """The corner of the same vertex in the face across the half-edge that leaves it; -1 beyond a crease or border."""
    if not smooth[corner]:
        return -1
    other = np.int64(partner[corner])
    return other - other % 3 + (other % 3 + 1) % 3


@njit(cache=True, nogil=True)
def _standing_corner(partner: np.ndarray, smooth: np.ndarray, corner: int) -> int:
    least, here = corner, corner
    while True:
        after = _next_around(partner, smooth, here)
        if after < 0:
            return here
        if after == corner:
            return least
        here = after
        least = min(least, here)


@njit(cache=True, nogil=True, parallel=True)
def _last_around(partner: np.ndarray, smooth: np.ndarray) -> np.ndarray:
    """The corner that stands for each corner's smooth group: the last of a fan, the lowest of a full ring."""
    out = np.empty(len(partner), np.int32)
    for corner in prange(len(partner)):
        out[corner] = _standing_corner(partner, smooth, np.int64(corner))
    return out


@njit(cache=True, nogil=True, parallel=True)
def _smooth_edges(unit: np.ndarray, partner: np.ndarray, cosine: float) -> np.ndarray:
    smooth = np.zeros(len(partner), np.bool_)
    for h in prange(len(partner)):
        if partner[h] >= 0:
            a, b = unit[h // 3], unit[partner[h] // 3]
            smooth[h] = a[0] * b[0] + a[1] * b[1] + a[2] * b[2] >= cosine
    return smooth


@njit(cache=True, nogil=True)
def _numbered(last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Groups numbered 0.. in the order of their corners: (group int32 [3 F], standing corner of each int32 [G])."""
    number, standing, count = np.full(len(last), -1, np.int32), np.empty(len(last), np.int32), 0
    for corner in range(len(last)):
        if number[last[corner]] < 0:
            number[last[corner]] = count
            standing[count] = last[corner]
            count += 1
    group = np.empty(len(last), np.int32)
    for corner in range(len(last)):
        group[corner] = number[last[corner]]
    return group, standing[:count].copy()


@njit(cache=True, nogil=True, parallel=True)
def _group_normals(
    vertices: np.ndarray, faces: np.ndarray, unit: np.ndarray, partner: np.ndarray, smooth: np.ndarray,
    standing: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Angle-weighted mean normal of each group, walking back from its standing corner."""
    out = np.empty((len(standing), 3), np.float32)
    for g in prange(len(standing)):
        here = np.int64(standing[g])
        x, y, z = 0.0, 0.0, 0.0
        while True:
            f = here // 3
            angle = _corner_angle(vertices, faces[f], here % 3)
            x, y, z = x + angle * unit[f, 0], y + angle * unit[f, 1], z + angle * unit[f, 2]
            before = partner[here - here % 3 + (here % 3 + 2) % 3]
            if before < 0 or not smooth[before] or before == standing[g]:
                break
            here = np.int64(before)
        length = np.sqrt(x * x + y * y + z * z)
        if length > 1e-12:
            out[g, 0], out[g, 1], out[g, 2] = x / length, y / length, z / length
        else:
            out[g, 0], out[g, 1], out[g, 2] = 0.0, 0.0, 1.0
    return out


def crease_normals(
    surface: Surface, *, crease_degrees: float = CREASE_DEGREES, partner: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(corner groups int32 [F, 3], unit normal float32 [G, 3] of each group).

    Corners of a vertex are one group while they are connected across edges bent by less than `crease_degrees`; the
    normal is the angle-weighted mean of the group's face normals (Thuermer and Wuethrich, 1998).
    partner: the half-edge across each half-edge, int [3 F], where the caller has it.
    """
    if partner is None:
        partner = partners_across(surface, edge_table(surface))
    partner = np.ascontiguousarray(partner, dtype=np.int32)
    unit = _unit_normals(surface)
    smooth = _smooth_edges(unit, partner, float(np.cos(np.radians(crease_degrees))))
    group, standing = _numbered(_last_around(partner, smooth))
    normals = _group_normals(surface.vertices, surface.faces, unit, partner, smooth, standing)
    return group.reshape(-1, 3), normals


@njit(cache=True, nogil=True)
def _split(group: np.ndarray, uvs: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(vertex int32 [F, 3], one corner int32 [V] of each): a vertex for each pair of group and UV [F, 3, 2]."""
    first = np.full(count, -1, np.int32)  # the first vertex of each group, the others follow in a list
    after = np.full(group.size, -1, np.int32)
    vertex, corner = np.empty(group.shape, np.int32), np.empty(group.size, np.int32)
    fresh = 0
    for f in range(len(group)):
        for c in range(3):
            v, last = first[group[f, c]], -1
            while v >= 0:
                g, d = corner[v] // 3, corner[v] % 3
                if uvs[g, d, 0] == uvs[f, c, 0] and uvs[g, d, 1] == uvs[f, c, 1]:
                    break
                v, last = after[v], v
            if v < 0:
                v = fresh
                corner[v] = 3 * f + c
                if last < 0:
                    first[group[f, c]] = v
                else:
                    after[last] = v
                fresh += 1
            vertex[f, c] = v
    return vertex, corner[:fresh].copy()


def split_surface(surface: Surface, uvs: np.ndarray, *, partner: np.ndarray | None = None) -> SplitSurface:
    """The surface with one vertex for each distinct crease group and UV, float32 [F, 3, 2]."""
    groups, normals = crease_normals(surface, partner=partner)
    faces, corner = _split(groups, np.ascontiguousarray(uvs, dtype=np.float32), len(normals))
    return SplitSurface(
        surface.vertices[surface.faces.reshape(-1)[corner]],
        faces,
        normals[groups.reshape(-1)[corner]],
        np.ascontiguousarray(uvs.reshape(-1, 2)[corner]),
    )
