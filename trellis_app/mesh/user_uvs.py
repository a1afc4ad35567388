"""Whether a mesh's own UVs can carry a texture, and where its faces lie in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from trellis_app.mesh.surface import Surface, face_cross

_BORDER = 1e-4  # how far UVs may reach over the texture's border
_STRADDLING = 0.001  # largest share of the surface that may lie across a border
_OVERLAP = 0.02  # largest share of covered texels that may belong to several faces
_SQUEEZED = 0.05  # largest share of the surface that may have nearly no texels
_THIN = 0.01  # of the mean texels of an area: nearly none
_LEAST_USE = 0.02  # smallest share of the texture that must be covered
_RASTER = 1024  # texels a side at which overlap is counted


@dataclass(frozen=True)
class UvVerdict:
    """Where the faces lie in the texture, and whether that will do."""

    usable: bool
    reason: str  # a clause: "the UVs ..."
    corners: np.ndarray | None  # float32 [F, 3, 2] in [0, 1], v down; None without UVs
    wrapped: bool = False  # UVs lie outside [0, 1], so the texture must repeat


def judge_uvs(surface: Surface, uvs: np.ndarray | None) -> UvVerdict:
    """Look at UVs float32 [V, 2] (v down) of the surface's vertices, on which the surface lies as it will be baked."""
    if uvs is None:
        return UvVerdict(False, "the mesh has no UVs", None)
    corners = uvs[surface.faces].astype(np.float64)
    tile = np.where(_inside(corners), 0.0, np.floor(corners.mean(axis=1, keepdims=True)))
    moved = corners - tile
    area = np.linalg.norm(face_cross(surface), axis=1)
    whole = max(float(area.sum()), 1e-300)
    straddling = float(area[~_inside(moved)[:, 0, 0]].sum()) / whole
    placed = np.clip(moved, 0.0, 1.0)
    covered, twice = _coverage(placed, _RASTER)
    flat = np.abs(_doubled_area(placed))
    density = float(flat.sum()) / whole  # of the texture's area to the surface's
    squeezed = float(area[flat < _THIN * density * area].sum()) / whole
    reason = "the UVs are usable"
    if straddling > _STRADDLING:
        reason = f"{100 * straddling:.1f} % of the surface lies across the border of the texture"
    elif covered < _LEAST_USE * _RASTER**2:
        reason = f"the UVs use {100 * covered / _RASTER**2:.1f} % of the texture"
    elif twice > _OVERLAP * covered:
        reason = f"{100 * twice / covered:.1f} % of the covered texels belong to several faces"
    elif squeezed > _SQUEEZED:
        reason = f"{100 * squeezed:.1f} % of the surface has nearly no texels"
    usable = reason == "the UVs are usable"
    return UvVerdict(usable, reason, placed.astype(np.float32), bool(tile.any()))


def _inside(corners: np.ndarray) -> np.ndarray:
    """bool [F, 1, 1]: all corners [F, 3, 2] lie in the texture."""
    return np.asarray(((corners >= -_BORDER) & (corners <= 1.0 + _BORDER)).all(axis=(1, 2), keepdims=True))


def _doubled_area(corners: np.ndarray) -> np.ndarray:
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return np.asarray(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])


@njit(cache=True, nogil=True)
def _coverage(corners: np.ndarray, size: int) -> tuple[int, int]:
    """(texels whose centre lies in a face, texels whose centre lies in several).

    corners: float64 [F, 3, 2] in [0, 1]; they snap to 1/256 texel, and a centre on a shared edge belongs to one face.
    """
    times = np.zeros((size, size), np.uint8)
    x, y = np.empty(3, np.int64), np.empty(3, np.int64)
    for f in range(len(corners)):
        for i in range(3):
            x[i], y[i] = round(corners[f, i, 0] * size * 256.0), round(corners[f, i, 1] * size * 256.0)
        area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
        if area == 0:
            continue
        if area < 0:
            x[1], x[2], y[1], y[2] = x[2], x[1], y[2], y[1]
        for row in range(max((min(y) + 127) >> 8, 0), min((max(y) - 128) >> 8, size - 1) + 1):
            for column in range(max((min(x) + 127) >> 8, 0), min((max(x) - 128) >> 8, size - 1) + 1):
                px, py, inside = column * 256 + 128, row * 256 + 128, True
                for i in range(3):
                    dx, dy = x[(i + 1) % 3] - x[i], y[(i + 1) % 3] - y[i]
                    side = dx * (py - y[i]) - dy * (px - x[i])
                    if side < 0 or (side == 0 and not (dy < 0 or (dy == 0 and dx > 0))):
                        inside = False
                        break
                if inside and times[row, column] < 2:
                    times[row, column] += 1
    covered, twice = 0, 0
    for row in range(size):
        for column in range(size):
            covered += times[row, column] > 0
            twice += times[row, column] > 1
    return covered, twice
