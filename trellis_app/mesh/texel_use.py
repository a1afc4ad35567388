"""How the faces of a mesh share out a texture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

_UNIT = 4096  # snapping steps in a texel, as many as rasterisers here use


@dataclass(frozen=True)
class TexelUse:
    """Counts of texel centres."""

    covered: int  # within a face
    shared: int  # within several faces
    texels: int  # all there are


@njit(cache=True, nogil=True)
def _cover(corners: np.ndarray, times: np.ndarray) -> None:
    """Count the faces over each texel centre, at most 2; corners int64 [F, 3, 2] in 1/4096 texel, wrapped around."""
    height, width = times.shape
    for f in range(len(corners)):
        x0, y0, x1, y1 = corners[f, 0, 0], corners[f, 0, 1], corners[f, 1, 0], corners[f, 1, 1]
        x2, y2 = corners[f, 2, 0], corners[f, 2, 1]
        area = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
        if area == 0:
            continue
        if area < 0:
            x1, y1, x2, y2 = x2, y2, x1, y1
        owns0, owns1, owns2 = y2 < y1 or (y2 == y1 and x2 > x1), y0 < y2 or (y0 == y2 and x0 > x2), y1 < y0 or (
            y1 == y0 and x1 > x0
        )  # fmt: skip
        for row in range(-(-(min(y0, y1, y2) - _UNIT // 2) // _UNIT), (max(y0, y1, y2) - _UNIT // 2) // _UNIT + 1):
            py = row * _UNIT + _UNIT // 2
            for column in range(
                -(-(min(x0, x1, x2) - _UNIT // 2) // _UNIT), (max(x0, x1, x2) - _UNIT // 2) // _UNIT + 1
            ):
                px = column * _UNIT + _UNIT // 2
                e0 = (x2 - x1) * (py - y1) - (y2 - y1) * (px - x1)
                e1 = (x0 - x2) * (py - y2) - (y0 - y2) * (px - x2)
                e2 = (x1 - x0) * (py - y0) - (y1 - y0) * (px - x0)
                if (
                    (e0 > 0 or (e0 == 0 and owns0))
                    and (e1 > 0 or (e1 == 0 and owns1))
                    and (e2 > 0 or (e2 == 0 and owns2))
                ):
                    times[row % height, column % width] = min(times[row % height, column % width] + 1, 2)


def texel_use(uvs: np.ndarray, faces: np.ndarray, size: int) -> TexelUse:
    """Cover a texture of `size` texels a side with faces int [F, 3] of UVs [V, 2]; outside [0, 1] it repeats.

    A centre on a shared edge belongs to one face. UVs farther out than eight repetitions are moved back.
    """
    corners = np.nan_to_num(np.asarray(uvs, dtype=np.float64)[faces], posinf=0.0, neginf=0.0)
    corners -= np.floor(corners.mean(axis=1, keepdims=True))
    times = np.zeros((size, size), np.uint8)
    _cover(np.rint(np.clip(corners, -8.0, 8.0) * (size * _UNIT)).astype(np.int64), times)
    return TexelUse(int((times > 0).sum()), int((times > 1).sum()), size * size)
