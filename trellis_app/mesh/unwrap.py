"""A UV atlas in time linear in the faces: cut into nearly flat charts, lay flat, pack.

Surface or Mesh ─charts▶ chart of each face ─flatten▶ flat charts ─fitting▶ Atlas
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numba import njit

from trellis_app.mesh.charts import ChartLimits, cut_charts
from trellis_app.mesh.fitting import EXPECTED_USE, Room, fit
from trellis_app.mesh.flatten import lay_flat
from trellis_app.mesh.gpu import charts as parallel
from trellis_app.mesh.gpu.overlap import later_faces
from trellis_app.mesh.surface import Surface, edge_table, face_areas, partners_across
from trellis_app.mesh.xatlas_unwrap import xatlas_uvs
from trellis_app.progress import Check, go_on
from trellis_app.types import Mesh

_XATLAS_SECONDS = 60.0
_CRUMB_TEXELS = 150.0  # charts with less area than this many texels are merged away more eagerly
_THIN = 0.04  # area over extent squared below which a surface counts as larger than it is: needles are no atlas
_FINEST = 6144.0  # texels along the surface at which overlap is looked for
_SNAP = 4096  # steps a texel of the rasteriser
_EXACT = 2**24  # steps along [0, 1] that float32 holds exactly


@dataclass(frozen=True)
class Atlas:
    """UVs of a surface by face corner."""

    chart: np.ndarray  # int32 [F] chart of each face; a vertex may have two places in one, on either side of a seam
    uvs: np.ndarray  # float32 [F, 3, 2] in [0, 1], row 0 of the texture at v = 0
    margin: float = 0.0  # texels kept between any two charts larger than 24 texels
    partner: np.ndarray | None = None  # int64 [3 F] the half-edge across each (surface.partners_across), where known


@njit(cache=True, nogil=True)
def _covered_twice(uvs: np.ndarray, size: int) -> np.ndarray:
    """Faces that hold the centre of a texel which an earlier face holds; the rules of trellis_kernels.rasterise."""
    taken = np.zeros((size, size), np.bool_)
    again = np.zeros(len(uvs), np.bool_)
    x, y = np.empty(3, np.int64), np.empty(3, np.int64)
    half = _SNAP // 2
    for f in range(len(uvs)):
        for i in range(3):
            u, v = np.float32(2.0) * uvs[f, i, 0] - np.float32(1.0), np.float32(2.0) * uvs[f, i, 1] - np.float32(1.0)
            x[i] = np.int64(np.rint((np.float64(u) * 0.5 + 0.5) * size * _SNAP))
            y[i] = np.int64(np.rint((np.float64(v) * 0.5 + 0.5) * size * _SNAP))
        area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
        if area == 0:
            continue
        if area < 0:
            x[1], x[2], y[1], y[2] = x[2], x[1], y[2], y[1]
        for row in range(max((min(y) + half - 1) // _SNAP, 0), min((max(y) - half) // _SNAP, size - 1) + 1):
            for column in range(max((min(x) + half - 1) // _SNAP, 0), min((max(x) - half) // _SNAP, size - 1) + 1):
                px, py, inside = column * _SNAP + half, row * _SNAP + half, True
                for i in range(3):
                    dx, dy = x[(i + 1) % 3] - x[i], y[(i + 1) % 3] - y[i]
                    side = dx * (py - y[i]) - dy * (px - x[i])
                    if side < 0 or (side == 0 and not (dy < 0 or (dy == 0 and dx > 0))):
                        inside = False
                        break
                if inside:
                    again[f] |= taken[row, column]
                    taken[row, column] = True
    return again


@njit(cache=True, nogil=True)
def _snapped(uvs: np.ndarray, steps: int) -> np.ndarray:
    """UVs float32 [F, 3, 2] at whole numbers of `steps` along [0, 1]."""
    out = np.empty(uvs.shape, np.float32)
    for f in range(len(uvs)):
        for c in range(3):
            for k in range(2):
                out[f, c, k] = np.rint(np.float64(uvs[f, c, k]) * steps) / steps
    return out


@njit(cache=True, nogil=True)
def _placed(
    corners: np.ndarray, chart: np.ndarray, extent: np.ndarray, offset: np.ndarray, turns: np.ndarray, scale: float,
    side: int,
) -> np.ndarray:  # fmt: skip
    """UVs float32 [F, 3, 2]: local corners turned by quarters, moved to their place, v downwards."""
    uvs = np.empty(corners.shape, np.float32)
    for f in range(len(chart)):
        k = chart[f]
        width, height = np.floor(extent[k, 0] * scale) + 1.0, np.floor(extent[k, 1] * scale) + 1.0
        for i in range(3):
            x, y = corners[f, i, 0] * scale, corners[f, i, 1] * scale
            if turns[k] == 1:
                x, y = height - y, x
            elif turns[k] == 2:
                x, y = width - x, height - y
            elif turns[k] == 3:
                x, y = y, width - x
            uvs[f, i, 0] = (x + offset[k, 0]) / side
            uvs[f, i, 1] = 1.0 - (y + offset[k, 1]) / side
    return uvs


def unwrap(
    surface: Surface | Mesh, *, texture_size: int, margin: float = 4.0, method: str = "fast", check: Check = go_on
) -> Atlas:
    """Cut the surface into charts, lay them flat and pack them with `margin` texels between any two; none overlap.

    Every chart has the same texels a world unit, and none is mirrored. Small charts keep less margin; where thousands
    of charts meet a small texture all do. Deterministic. A Mesh on a GPU is cut into charts there.
    method: fast, or xatlas (slow, fewer charts; fast takes its place after a minute, and where it is not installed).
    """
    mesh, device = None, torch.device("cpu")
    if isinstance(surface, Mesh):
        mesh, device = surface, surface.faces.device
        vertices, faces = surface.vertices.cpu().numpy(), surface.faces.int().cpu().numpy()
        surface = Surface(vertices, np.ascontiguousarray(faces))
    if not len(surface.faces):
        return Atlas(np.zeros(0, np.int32), np.zeros((0, 3, 2), np.float32))
    if method == "xatlas":
        made = xatlas_uvs(surface, texture_size=texture_size, margin=margin, seconds=_XATLAS_SECONDS, check=check)
        if made is not None:
            return without_overlap(Atlas(*made, margin), texture_size, device)
    areas = face_areas(surface)
    used = np.zeros(len(surface.vertices), dtype=bool)
    used[surface.faces.reshape(-1)] = True
    longest = max(float(np.ptp(surface.vertices[used], axis=0).max()), 1e-15)
    area = max(float(areas.sum()), _THIN * longest**2)
    texels = texture_size * np.sqrt(EXPECTED_USE / area)  # a world unit
    limits = ChartLimits(crumb=_CRUMB_TEXELS / (texels**2 * area))
    if mesh is not None and device.type == "cuda":
        across = parallel.half_edge_partners(mesh.faces)
        label = parallel.cut_charts(mesh.vertices, mesh.faces, across, limits, check=check).cpu().numpy()
        partner = across.cpu().numpy()
    else:
        partner = partners_across(surface, edge_table(surface)).astype(np.int64)
        label = cut_charts(surface, partner, limits, check=check)
    check()
    fine = min(2.0 * texels, _FINEST / longest)
    flat = lay_flat(surface, label, partner, texels=fine, check=check)
    flat, found = fit(flat, Room(area, texture_size, margin, fine), surface, partner, areas, check=check)
    packing, scale = found.packing, found.scale
    uvs = _placed(flat.corners, flat.chart, flat.extent, packing.offset, packing.turns, scale, packing.side)
    return without_overlap(Atlas(flat.chart, uvs, found.margin, partner), texture_size, device)


def without_overlap(atlas: Atlas, size: int, device: torch.device) -> Atlas:
    """The few faces that still share a texel centre at the final size shrink to a point and become charts.

    First UVs are snapped to a grid, which float32 holds exactly where the size is a power of two: else a corner beside
    a texel centre by a rounding error would be on one side of it here and on the other where a texture is drawn.
    """
    uvs, chart = _snapped(atlas.uvs, min(_SNAP * size, _EXACT)), atlas.chart
    while True:
        if device.type == "cuda":
            again = later_faces(torch.from_numpy(uvs).to(device), size).cpu().numpy()
        else:
            again = np.flatnonzero(_covered_twice(uvs, size))
        if not len(again):
            return replace(atlas, chart=chart, uvs=uvs)
        uvs, chart = uvs.copy(), chart.copy()
        uvs[again] = uvs[again].mean(axis=1, keepdims=True)
        chart[again] = int(chart.max()) + 1 + np.arange(len(again), dtype=np.int32)
