"""The last look at a surface that was cut where sheets touch: each part by itself, hidden or seen, turned outward."""

from __future__ import annotations

import numpy as np
from numba import njit

from trellis_app.mesh.air import Air, open_air
from trellis_app.mesh.hidden import hidden_faces, hidden_parts, looked_at
from trellis_app.mesh.orient import SURE, outward, patches_by_winding, total_votes, turned, unreached
from trellis_app.mesh.sides import sides_of
from trellis_app.mesh.surface import Surface, components, edge_table, face_areas, face_cross
from trellis_app.progress import Check, go_on

DOUBLED = 0.25  # voxels between two walls that face the same way: one wall too many
SHREDS = 0.02  # of the area: where parts smaller than a crumb make up more they are the object itself


@njit(cache=True, nogil=True)
def _six_volumes(vertices: np.ndarray, faces: np.ndarray, cross: np.ndarray, middle: np.ndarray) -> np.ndarray:
    out = np.empty(len(faces))
    for f in range(len(faces)):
        a = faces[f, 0]
        out[f] = 0.0
        for k in range(3):
            out[f] += (vertices[a, k] - middle[k]) * cross[f, k]
    return out


def _volumes(surface: Surface, part: np.ndarray) -> np.ndarray:
    """Signed volume of each part, float64 [P] (times six); meaningful where it is closed."""
    middle = surface.vertices.mean(axis=0, dtype=np.float64)
    return np.bincount(part, weights=_six_volumes(surface.vertices, surface.faces, face_cross(surface), middle))


def settled(surface: Surface, *, voxel: float, flake: float, crumb: float, check: Check = go_on) -> Surface:
    """The parts of a cut, consistently wound surface that are seen, each as a whole: closed ones with positive volume,
    open ones as they are seen best, with an area of at least `crumb` (world units squared). Where smaller parts make up
    too much of the area they are the object itself: then those that the air reaches stay from `flake` on."""
    if not len(surface.faces):
        return surface
    edges = edge_table(surface)
    part = components(surface, edges)
    air = open_air(surface, voxel=voxel, check=check)
    sides = sides_of(air, len(surface.faces), check=check)
    unlit = unreached(part, sides)
    hidden, sides = hidden_faces(part, edges, sides, air, check=check)
    hidden = hidden_parts(hidden, part)[part]
    hidden &= not hidden.all()  # something has to stay
    closed = np.ones(int(part.max()) + 1, dtype=bool)
    closed[part[edges.halves[edges.start[:-1][edges.counts == 1]] // 3]] = False
    check()
    away = total_votes(part, SURE * (sides.outward - sides.inward) + sides.vote) < 0
    inverted = np.where(closed, _volumes(surface, part) < 0, away)
    area = np.bincount(part, weights=np.where(hidden, 0.0, face_areas(surface)))
    shreds = area[area < crumb].sum() > SHREDS * area.sum()
    least = np.where(unlit | ~shreds, crumb, flake)
    doubled = doubled_parts(air, np.where(inverted[part], ~part, part), area)
    drop = hidden | doubled[part] | (area[part] < np.minimum(least, area.max()))
    surface = turned(surface, inverted[part])
    return surface.keep_faces(~drop) if drop.any() else surface


def doubled_parts(air: Air, label: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Parts whose crossings mostly lie close to those of a larger part that faces the same way, bool [P].

    label: part of each face, int [F], ~part where the face is wound the other way; area: [P].
    """
    part = np.maximum(label, ~label)
    count, doubled = np.zeros(len(area), np.int64), np.zeros(len(area), np.int64)
    for one in air.along:
        count += np.bincount(part[one.face], minlength=len(area))
        height, rising = one.lower + one.depth.astype(np.float64), one.rising ^ (label[one.face] < 0)
        close = (one.below[1:] > 0) & (np.diff(height) < DOUBLED) & (rising[1:] == rising[:-1])
        a, b = part[one.face[:-1][close]], part[one.face[1:][close]]
        second = (area[a] < area[b]) | ((area[a] == area[b]) & (a > b))
        doubled += np.bincount(np.where(second, a, b)[a != b], minlength=len(area))
    return 2 * doubled > count


def orient_outward(surface: Surface, *, voxel: float, check: Check = go_on) -> Surface:
    """Drop hidden patches and wind the rest consistently and outward."""
    if not len(surface.faces):
        return surface
    edges = edge_table(surface)
    hidden, sides = looked_at(surface, edges, patches_by_winding(surface, edges)[0], voxel=voxel, check=check)
    surface, sides = surface.keep_faces(~hidden), sides.picked(~hidden)
    return turned(surface, outward(surface, edge_table(surface), sides))
