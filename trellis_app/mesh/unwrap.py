"""A UV atlas in time linear in the faces: cut into nearly flat charts, project, pack."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numba import njit

from trellis_app.errors import MeshError
from trellis_app.mesh.charts import ChartLimits, chart_axes, connected_charts, cut_charts, recut, separate_faces
from trellis_app.mesh.packing import Packing, chart_extent, pack
from trellis_app.mesh.surface import Surface, face_cross

_ANGLES = 24  # in-plane rotations tried for the tightest box
_CRUMB_TEXELS = 12.0  # charts with less area than this many texels squared are merged away more eagerly
_BLOCKS = 512  # finest raster of the packer
_TRIES = 6  # scales tried for the tightest packing
_HALVINGS, _GOOD_USE = 4, 0.68  # charts that pack badly are cut while less of the atlas than this is used


@dataclass(frozen=True)
class Atlas:
    """UVs of a surface by face corner."""

    chart: np.ndarray  # int32 [F] chart of each face
    uvs: np.ndarray  # float32 [F, 3, 2] in [0, 1], row 0 of the texture at v = 0


@njit(cache=True, nogil=True)
def _box_angles(flat: np.ndarray, chart: np.ndarray, count: int) -> np.ndarray:
    """The angle out of a quarter turn under which each chart's bounding box has the least area."""
    best, angle = np.full(count, np.inf), np.zeros(count)
    low, high = np.empty((count, 2)), np.empty((count, 2))
    for k in range(_ANGLES):
        turn = 0.5 * np.pi * k / _ANGLES
        c, s = np.cos(turn), np.sin(turn)
        low[:], high[:] = np.inf, -np.inf
        for f in range(len(chart)):
            for i in range(3):
                x, y = c * flat[f, i, 0] - s * flat[f, i, 1], s * flat[f, i, 0] + c * flat[f, i, 1]
                j = chart[f]
                low[j, 0], low[j, 1] = min(low[j, 0], x), min(low[j, 1], y)
                high[j, 0], high[j, 1] = max(high[j, 0], x), max(high[j, 1], y)
        for j in range(count):
            area = (high[j, 0] - low[j, 0]) * (high[j, 1] - low[j, 1])
            if area < best[j] * (1.0 - 1e-6):
                best[j], angle[j] = area, turn
    return angle


def _rotated(flat: np.ndarray, angle: np.ndarray) -> np.ndarray:
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    return np.stack([c * flat[:, :, 0] - s * flat[:, :, 1], s * flat[:, :, 0] + c * flat[:, :, 1]], axis=2)


def project(surface: Surface, chart: np.ndarray) -> np.ndarray:
    """Chart-local positions float64 [F, 3, 2] in world units: projection along the chart's mean normal.

    Each chart is turned to its tightest box, scaled to keep its surface area, and moved to least x and y 0.
    """
    count = int(chart.max()) + 1
    axis = chart_axes(surface, chart)
    helper = np.eye(3)[np.argmin(np.abs(axis), axis=1)]
    e0 = np.cross(axis, helper)
    e0 /= np.linalg.norm(e0, axis=1, keepdims=True)
    frame = np.stack([e0, np.cross(axis, e0)], axis=1)  # [C, 2, 3]
    flat = np.einsum("fik,fjk->fij", surface.vertices.astype(np.float64)[surface.faces], frame[chart])
    flat = _rotated(flat, _box_angles(flat, chart, count)[chart])
    cross = face_cross(surface)
    true_area = np.bincount(chart, weights=np.linalg.norm(cross, axis=1))
    flat_area = np.maximum(np.bincount(chart, weights=np.einsum("ij,ij->i", cross, axis[chart])), 1e-30)
    flat *= np.sqrt(np.clip(true_area / flat_area, 1.0, 2.0))[chart][:, None, None]
    low = np.full((count, 2), np.inf)
    np.minimum.at(low, chart, flat.min(axis=1))
    return flat - low[chart][:, None, :]


@njit(cache=True, nogil=True)
def _covered_twice(corners: np.ndarray, chart: np.ndarray, scale: float, size: np.ndarray) -> np.ndarray:
    """Faces that hold the centre of a texel which an earlier face of their chart already holds.

    Corners snap to 1/256 texel; a centre on a shared edge belongs to one face (top-left rule).
    """
    start = np.zeros(len(size) + 1, np.int64)
    for c in range(len(size)):
        start[c + 1] = start[c] + size[c, 0] * size[c, 1]
    taken = np.zeros(start[-1], np.bool_)
    again = np.zeros(len(chart), np.bool_)
    x, y = np.empty(3, np.int64), np.empty(3, np.int64)
    for f in range(len(chart)):
        for i in range(3):
            x[i], y[i] = int(corners[f, i, 0] * scale * 256.0), int(corners[f, i, 1] * scale * 256.0)
        area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
        if area == 0:
            continue
        if area < 0:
            x[1], x[2], y[1], y[2] = x[2], x[1], y[2], y[1]
        width = size[chart[f], 0]
        for row in range((min(y) - 128 + 255) >> 8, ((max(y) - 128) >> 8) + 1):
            for column in range((min(x) - 128 + 255) >> 8, ((max(x) - 128) >> 8) + 1):
                px, py, inside = column * 256 + 128, row * 256 + 128, True
                for i in range(3):
                    dx, dy = x[(i + 1) % 3] - x[i], y[(i + 1) % 3] - y[i]
                    side = dx * (py - y[i]) - dy * (px - x[i])
                    owns = dy < 0 or (dy == 0 and dx > 0)
                    if side < 0 or (side == 0 and not owns):
                        inside = False
                if inside:
                    cell = start[chart[f]] + row * width + column
                    if taken[cell]:
                        again[f] = True
                    taken[cell] = True
    return again


def _without_overlap(
    surface: Surface, chart: np.ndarray, scale: float, limits: ChartLimits
) -> tuple[np.ndarray, np.ndarray]:
    """(chart, local corners) after cutting charts that fold over themselves at `scale` texels a world unit.

    A chart of which a large part is covered twice is cut anew with stricter limits, else only the faces on top leave.
    """
    strict = limits
    area = np.linalg.norm(face_cross(surface), axis=1)
    for attempt in range(12):
        corners = project(surface, chart)
        size = (chart_extent(corners, chart) * scale).astype(np.int64) + 2
        again = _covered_twice(corners, chart, scale, size)
        if not again.any():
            break
        double = np.bincount(chart, weights=area * again) > 0.1 * np.bincount(chart, weights=area)
        if attempt < 3 and double.any():
            strict = replace(strict, flatness=1 - (1 - strict.flatness) / 2, steepest=0.5 * (1 + strict.steepest))
            chart = recut(surface, chart, np.flatnonzero(double), strict)
        else:
            chart = separate_faces(surface, chart, again, limits)
    return chart, corners


def _fit(corners: np.ndarray, chart: np.ndarray, area: float, side: int, gap: int) -> tuple[Packing, float] | None:
    """The largest scale (blocks a world unit) of a few tries whose packing is at most as high as wide."""
    scale = 0.84 * side / np.sqrt(area)
    best: tuple[Packing, float] | None = None
    too_big = np.inf
    for attempt in range(4 * _TRIES):
        if attempt >= _TRIES and best is not None:
            break
        found = pack(corners, chart, scale=scale, side=side, gap=gap)
        if found is not None and found.height <= side:
            best = (found, scale)
            wish = scale * max(np.sqrt(side / found.height), 1.01)
        else:
            too_big = scale
            wish = scale * (np.sqrt(side / found.height) if found is not None else 0.75)
        low = best[1] if best is not None else 0.0
        scale = min(wish, 0.5 * (low + too_big)) if best is not None and too_big < np.inf else wish
        if too_big < low * 1.015:
            break
    return best


def _halved(surface: Surface, chart: np.ndarray, corners: np.ndarray, scale: float, side: int) -> np.ndarray | None:
    """Cut the charts that pack badly (large and hollow, or longer than a third of the atlas) across the longer side."""
    extent = chart_extent(corners, chart) * scale
    filled = np.bincount(chart, weights=_flat_area(corners)) * scale**2
    box = extent.prod(axis=1)
    bulky = (box > 0.02 * side**2) & ((filled < 0.5 * box) | (extent.max(axis=1) > 0.33 * side))
    if not bulky.any():
        return None
    centre = corners.mean(axis=1)
    longer = np.argmax(extent, axis=1)[chart]
    beyond = centre[np.arange(len(chart)), longer] * scale > 0.5 * extent.max(axis=1)[chart]
    label = np.where(bulky[chart] & beyond, chart + len(extent), chart)
    return connected_charts(surface, label)


def _flat_area(corners: np.ndarray) -> np.ndarray:
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return 0.5 * np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])


def unwrap(surface: Surface, *, texture_size: int, margin: int = 4) -> Atlas:
    """Cut the surface into charts, project and pack them with `margin` texels between any two; none overlap.

    Every chart has the same texels a world unit. Where thousands of charts meet a small texture the margin shrinks to
    one texel. Deterministic. Raises MeshError if the charts do not fit even then.
    """
    area = 0.5 * float(np.linalg.norm(face_cross(surface), axis=1).sum())
    texels = 0.8 * texture_size / np.sqrt(area)  # a guess, a little above what packing reaches
    limits = ChartLimits(crumb=_CRUMB_TEXELS / texels**2)
    chart, corners = _without_overlap(surface, cut_charts(surface, limits), texels, limits)
    for gap_texels in (margin, 1):
        block = max(1, texture_size // _BLOCKS) if gap_texels > 1 else 1
        side, gap = texture_size // block, -(-gap_texels // block)
        best = _fit(corners, chart, area, side, gap)
        if best is not None:
            break
    else:
        raise MeshError(
            f"The surface is in {int(chart.max()) + 1} pieces, too many for a texture of {texture_size} pixels.",
            "Choose a larger texture or fewer faces.",
        )
    for _ in range(_HALVINGS):
        if best[1] ** 2 * _flat_area(corners).sum() >= _GOOD_USE * side**2:
            break
        finer = _halved(surface, chart, corners, best[1], side)
        if finer is None:
            break
        finer, finer_corners = _without_overlap(surface, finer, texels, limits)
        found = _fit(finer_corners, finer, area, side, gap)
        if found is not None and found[1] > best[1]:
            best, chart, corners = found, finer, finer_corners
    return _placed(corners, chart, *best, side)


def _placed(corners: np.ndarray, chart: np.ndarray, packing: Packing, scale: float, side: int) -> Atlas:
    local = corners * scale
    width, height = (np.floor(chart_extent(local, chart)) + 1).T[:, chart, None]
    turn = packing.turns[chart][:, None]
    x, y = local[:, :, 0], local[:, :, 1]
    turned_x = np.select([turn == 0, turn == 1, turn == 2], [x, height - y, width - x], y)
    turned_y = np.select([turn == 0, turn == 1, turn == 2], [y, x, height - y], width - x)
    placed = np.stack([turned_x, turned_y], axis=2) + packing.offset[chart][:, None, :]
    return Atlas(chart, (placed / side).astype(np.float32))
