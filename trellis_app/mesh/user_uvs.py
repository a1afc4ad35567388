"""Whether a mesh's own UVs can carry a texture, and where its faces lie in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trellis_app.mesh.surface import Surface, face_cross
from trellis_app.mesh.texel_use import texel_use

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
    use = texel_use(placed.reshape(-1, 2), np.arange(3 * len(placed)).reshape(-1, 3), _RASTER)
    covered, twice = use.covered, use.shared
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
