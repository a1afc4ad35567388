"""Fit flat charts into the atlas: cut those that leave holes, and give up margin, until enough of it is used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trellis_app.mesh.flat_charts import FlatCharts, connected, divided, upright
from trellis_app.mesh.packing import MANY, Packing, least_side, outline_masks, pack, pack_closely
from trellis_app.mesh.surface import Surface
from trellis_app.mesh.unroll import unrolled
from trellis_app.progress import Check, go_on

EXPECTED_USE = 0.70  # of the atlas
_GOOD_USE = 0.68  # charts that pack worse are cut, and then given less margin
_ENOUGH_USE = 0.655  # below this charts keep only as much margin as has room
_LIKELY = 1.05  # side that many charts need, over the least side that could do
_BULKY, _HOLLOW, _LONG = 0.015, 0.55, 0.45  # of the atlas, of a chart's box, of the atlas' side
_FILLING, _PIECE = (0.12, 0.25), 0.06  # parts of the whole area that may fall into small pieces; of the atlas' side
_FINE, _FINEST = 683.0, 1024.0  # blocks along the side where the margin is a whole number of blocks
_HALVES = 2048.0  # the same at most of very many charts: half a texel each where the texture is small
_STRIPS = 1000  # charts; so many are small beside their margins, and worth the time of closer packing
_UNROLLED = 500.0  # charts with at most so many texels unroll onto others
_LEAST_MARGIN = 0.25  # of the one wanted
_LARGEST = 1.15  # side in blocks over the expected one, at most


@dataclass(frozen=True)
class Room:
    """What charts are fitted into."""

    area: float  # of the surface, world units
    texels: int  # along the side of the atlas
    margin: float  # texels wanted between charts
    fine: float  # texels a world unit at which overlap is looked for


@dataclass(frozen=True)
class Fitted:
    """A packing and what it comes to."""

    packing: Packing
    scale: float  # blocks a world unit
    margin: float  # texels
    use: float  # share of the atlas that faces cover


def fit(
    flat: FlatCharts, room: Room, surface: Surface, partner: np.ndarray, areas: np.ndarray, *, check: Check = go_on
) -> tuple[FlatCharts, Fitted]:
    """Pack the charts with the margin wanted where that leaves enough of the atlas to them, else change them.

    Hollow and long ones are cut; many small ones unroll onto each other; all keep less margin. Then
    a vertex may have two places in a chart. partner int [3 F] (surface.partners_across); areas float64 [F] of the
    faces. Returns the charts as they were packed.
    """
    found, whole = _packed(flat, room, check), flat
    for share in _FILLING if len(whole.filled) < MANY else (0.0,):
        cell = _cells(whole, found, share)
        if found.use >= _GOOD_USE or not np.isfinite(cell).any():
            break
        finer = divided(whole, cell, partner, areas)
        tried = _packed(finer, room, check)
        if tried.use > found.use:
            flat, found = finer, tried
    if found.use >= _ENOUGH_USE:
        return flat, found
    many = len(flat.filled) >= _STRIPS
    finer = _fewer(flat, room, surface, partner, areas) if many else flat
    cell = _cells(finer, found, _FILLING[0])
    if np.isfinite(cell).any():
        finer = divided(finer, cell, partner, areas)
    blocks = min(max(20.0 * float(np.sqrt(len(finer.filled))), _FINE), _FINEST, float(room.texels))
    halves = min(2.0 * room.texels / _LARGEST, _HALVES)
    for side, gap in ((blocks, 2), (max(blocks, halves), 2) if many else (blocks, 1)):
        if found.use >= _ENOUGH_USE:
            break
        tried = _packed_finely(finer, room, side, gap, many=many, check=check)
        if tried.use > found.use:
            flat, found = finer, tried
    return flat, found


def _fewer(flat: FlatCharts, room: Room, surface: Surface, partner: np.ndarray, areas: np.ndarray) -> FlatCharts:
    """The charts after small ones were unrolled onto larger ones beside them."""
    texels = room.texels * float(np.sqrt(EXPECTED_USE / room.area))  # a world unit
    mesh = surface.vertices, surface.faces, areas, partner
    made = unrolled(mesh, flat.corners, flat.chart, scale=room.fine, largest=_UNROLLED / texels**2)
    return upright(made[0], connected(*made, partner), partner, areas)


def _packed(flat: FlatCharts, room: Room, check: Check) -> Fitted:
    """Pack with the margin, or with a part of it where that much would leave too little of the atlas to many charts."""
    count = len(flat.filled)
    expected = int(min(max(16.0 * np.sqrt(count), 320.0), 1024.0, 0.75 * room.texels))
    scale = expected * float(np.sqrt(EXPECTED_USE / room.area))
    masks, margin = outline_masks(flat, scale), room.margin
    covered = float(flat.filled.sum()) * scale**2
    if count >= MANY:
        for _ in range(2):
            if covered < _GOOD_USE * (_LIKELY * least_side(masks, texels=room.texels, margin=margin)) ** 2:
                margin *= 0.5
    packing = pack(masks, texels=room.texels, margin=margin, check=check)
    return Fitted(packing, scale, margin, covered / packing.side**2)


def _packed_finely(flat: FlatCharts, room: Room, blocks: float, gap: int, *, many: bool, check: Check) -> Fitted:
    """Pack small blocks, `gap` of them between charts: outlines are tighter, and no part of a margin is rounded up."""
    margin = min(max(gap * room.texels / (_LARGEST * blocks), _LEAST_MARGIN * room.margin), room.margin)
    scale = blocks * float(np.sqrt(EXPECTED_USE / room.area))
    covered = float(flat.filled.sum()) * scale**2
    way = pack_closely if many else pack
    packing = way(outline_masks(flat, scale), texels=room.texels, margin=margin, check=check)
    return Fitted(packing, scale, margin, covered / packing.side**2)


def _cells(flat: FlatCharts, found: Fitted, filling: float) -> np.ndarray:
    """Side of the cells (world units, float64 [C]) along which charts are cut that left too many holes.

    Hollow charts fall into quarters, long ones into parts short enough; the smallest charts, up to the part `filling`
    of the whole area, into small pieces.
    """
    extent, filled = flat.extent * found.scale, flat.filled * found.scale**2
    box, side = extent.prod(axis=1), float(np.sqrt(filled.sum() / EXPECTED_USE))
    bulky = (box > _BULKY * side**2) & (filled < _HOLLOW * box)
    cell = np.where(bulky, 0.5 * extent.max(axis=1) + 1e-9, np.inf)
    long = extent.max(axis=1) > _LONG * side
    cell[long] = np.minimum(cell, np.minimum(0.5 * extent.max(axis=1) + 1e-9, _LONG * side))[long]
    order = np.argsort(filled, kind="stable")
    before = np.cumsum(filled[order]) - filled[order]
    small = order[before < filling * filled.sum()]
    cell[small] = np.minimum(cell[small], _PIECE * side)
    return cell / found.scale
