"""From whatever the decoder gives to an oriented surface in which every edge has one or two faces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from trellis_app.mesh.air import open_air
from trellis_app.mesh.hidden import hidden_faces
from trellis_app.mesh.orient import outward, turned
from trellis_app.mesh.settling import settled
from trellis_app.mesh.sides import Sides, sides_of
from trellis_app.mesh.surface import (
    Edges,
    Surface,
    components,
    edge_table,
    face_areas,
    face_cross,
    split_corners,
    weld_vertices,
)
from trellis_app.progress import Check, go_on

# Sizes in voxels: area of parts and fins that are dropped, perimeter of holes that are closed, how far copies of a
# vertex move apart where touching sheets are cut.
CRUMB, FIN, FLAKE, HOLE, APART = 12.0, 5.0, 2.0, 24.0, 0.02
# Holes of up to WIDE voxels are closed too if their squared length is less than TORN of their part's area.
WIDE, TORN = 56.0, 0.5
LITTER = 0.05  # of the whole area: small parts, or fins, that make up more are the object itself, like grain
SETTLING = 4  # times that parts are looked at again while many of them turn out to be hidden


def clean(surface: Surface) -> Surface:
    """Join coincident vertices; drop faces with non-finite or repeated corners or the corners of an earlier face."""
    welded = weld_vertices(surface)
    vertices, faces = welded.vertices, welded.faces
    finite = np.isfinite(vertices).all(axis=1)
    good = finite[faces].all(axis=1)
    good &= (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    return remove_duplicate_faces(Surface(vertices, np.ascontiguousarray(faces[good]))).compacted()


def remove_duplicate_faces(surface: Surface) -> Surface:
    """Keep the first of all faces with the same three vertices, whatever their winding (spec 5.6)."""
    low_to_high = np.sort(surface.faces, axis=1).astype(np.int64)
    order = np.lexsort(low_to_high.T)
    repeated = np.zeros(len(order), dtype=bool)
    repeated[order[1:]] = ~np.any(np.diff(low_to_high[order], axis=0), axis=1)
    return surface.keep_faces(~repeated) if repeated.any() else surface


def small_parts(surface: Surface, edges: Edges, minimum_area: float) -> np.ndarray:
    """Faces bool [F] of connected parts with less area than `minimum_area` (world units squared), but the largest."""
    part = components(surface, edges, across_non_manifold=True)
    area = np.bincount(part, weights=face_areas(surface))
    small = area < minimum_area
    small[np.argmax(area)] = False
    return small[part]


def remove_small_components(surface: Surface, minimum_area: float) -> Surface:
    """Drop connected parts with less area than `minimum_area` (world units squared); the largest part always stays."""
    if not len(surface.faces):
        return surface
    small = small_parts(surface, edge_table(surface), minimum_area)
    return surface.keep_faces(~small).compacted() if small.any() else surface


@njit(cache=True, nogil=True)
def _pair_around_edge(vertices: np.ndarray, faces: np.ndarray, halves: np.ndarray, partner: np.ndarray) -> None:
    """Pair the faces around one crowded edge so that each pair bounds a common solid; writes `partner` of half-edges.

    Around the edge a -> b (a < b) faces are ordered by angle. A face that runs a -> b has its inside before it, one
    that runs b -> a after it; so a face of the second kind followed by one of the first encloses solid matter.
    """
    count = len(halves)
    u, v = faces[halves[0] // 3, halves[0] % 3], faces[halves[0] // 3, (halves[0] + 1) % 3]
    a, b = min(u, v), max(u, v)
    ax, ay, az = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
    if abs(ax) <= min(abs(ay), abs(az)):  # e0 = axis x the coordinate axis least along it, e1 = axis x e0
        e0x, e0y, e0z = 0.0, az, -ay
    elif abs(ay) <= abs(az):
        e0x, e0y, e0z = -az, 0.0, ax
    else:
        e0x, e0y, e0z = ay, -ax, 0.0
    e1x, e1y, e1z = ay * e0z - az * e0y, az * e0x - ax * e0z, ax * e0y - ay * e0x
    stretch = max(np.sqrt(ax * ax + ay * ay + az * az), 1e-30)
    angle, forward, order = np.empty(count), np.empty(count, np.bool_), np.arange(count)
    for i in range(count):
        f, c = halves[i] // 3, halves[i] % 3
        apex = faces[f, (c + 2) % 3]
        x, y, z = (
            vertices[apex, 0] - vertices[a, 0],
            vertices[apex, 1] - vertices[a, 1],
            vertices[apex, 2] - vertices[a, 2],
        )
        angle[i] = np.arctan2((x * e1x + y * e1y + z * e1z) / stretch, x * e0x + y * e0y + z * e0z)
        forward[i] = faces[f, c] == a
        j = i
        while j > 0 and angle[order[j - 1]] > angle[i]:
            order[j] = order[j - 1]
            j -= 1
        order[j] = i
    free = np.ones(count, np.bool_)
    for reach in range(1, count):  # first neighbours in angle, then over the gaps of those already paired
        for i in range(count):
            first, second = order[i], order[(i + reach) % count]
            if free[first] and free[second] and not forward[first] and forward[second]:
                partner[halves[first]], partner[halves[second]] = halves[second], halves[first]
                free[first] = free[second] = False


@njit(cache=True, nogil=True)
def partners_by_solid(vertices: np.ndarray, faces: np.ndarray, start: np.ndarray, halves: np.ndarray) -> np.ndarray:
    """The half-edge across each half-edge, or -1; only oppositely directed half-edges are partners."""
    partner = np.full(3 * len(faces), -1, np.int32)
    for e in range(len(start) - 1):
        count = start[e + 1] - start[e]
        if count == 2:
            h0, h1 = halves[start[e]], halves[start[e] + 1]
            if faces[h0 // 3, h0 % 3] != faces[h1 // 3, h1 % 3]:
                partner[h0], partner[h1] = h1, h0
        elif count > 2:
            _pair_around_edge(vertices, faces, halves[start[e] : start[e + 1]], partner)
    return partner


def divide_crowded_edges(surface: Surface, edges: Edges, partner: np.ndarray) -> Surface:
    """Give each pair of faces at a crowded edge a middle vertex of its own: a -> m -> b, coincident but apart.

    A face takes part in one division a round; the caller repeats until no crowded edge is left.
    """
    faces = surface.faces.copy()
    middles: list[np.ndarray] = []
    added: list[tuple[int, int, int]] = []
    busy: set[int] = set()
    for edge in np.flatnonzero(edges.counts > 2):
        around = edges.halves[edges.start[edge] : edges.start[edge + 1]].tolist()
        if any(half // 3 in busy for half in around):
            continue
        busy.update(half // 3 for half in around)
        middle_of: dict[int, int] = {}
        for half in around:
            f, c = divmod(half, 3)
            a, b, apex = (int(surface.faces[f, (c + k) % 3]) for k in range(3))
            if int(partner[half]) not in middle_of:
                middle_of[half] = len(surface.vertices) + len(middles)
                middles.append((surface.vertices[a] + surface.vertices[b]) / 2)
            middle = middle_of.get(half, middle_of.get(int(partner[half]), -1))
            faces[f] = (a, middle, apex)
            added.append((middle, b, apex))
    return Surface(
        np.concatenate([surface.vertices, np.stack(middles)]), np.concatenate([faces, np.array(added, np.int32)])
    )


def separate(surface: Surface, *, apart: float = 0.0) -> Surface:
    """Cut an oriented surface until every edge has at most two faces, oppositely directed, and every vertex one fan.

    Sheets that touch come apart; solids stay closed. Copies of a vertex move `apart` (world units) towards the inside
    of their own sheet, so that they stay apart when positions are merged. Faces only grow in number where two sheets
    share an edge whose ends cannot be cut.
    """
    cut = np.zeros(len(surface.vertices), dtype=bool)
    for _ in range(8):
        edges = edge_table(surface)
        partner = partners_by_solid(surface.vertices, surface.faces, edges.start, edges.halves)
        faces, source = split_corners(surface.faces, partner)
        cut = cut[source] | (np.bincount(source, minlength=len(surface.vertices)) > 1)[source]
        surface = Surface(surface.vertices[source], faces)
        edges = edge_table(surface)
        if (edges.counts <= 2).all():
            break
        surface = divide_crowded_edges(surface, edges, partner)
        cut = np.concatenate([cut, np.ones(len(surface.vertices) - len(cut), dtype=bool)])
    return _moved_inwards(surface, cut, apart) if apart > 0 and cut.any() else surface


def _moved_inwards(surface: Surface, which: np.ndarray, distance: float) -> Surface:
    """Move the marked vertices against their mean normal, and a little less towards their neighbours' mean."""
    near = surface.keep_faces(which[surface.faces].any(axis=1))
    corners = near.faces.reshape(-1)
    marked, index = np.flatnonzero(which), np.cumsum(which) - 1
    mine = which[corners]
    centres = near.vertices[near.faces].mean(axis=1, dtype=np.float64)
    inward = np.repeat(centres, 3, axis=0)[mine] - near.vertices[corners[mine]]

    def unit_mean(values: np.ndarray) -> np.ndarray:
        total = np.stack([np.bincount(index[corners[mine]], values[:, k], len(marked)) for k in range(3)], axis=1)
        return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)

    towards = 0.7 * unit_mean(inward) - unit_mean(np.repeat(face_cross(near), 3, axis=0)[mine])
    towards /= np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-12)
    moved = surface.vertices.copy()
    moved[marked] += (distance * towards).astype(np.float32)
    return Surface(moved, surface.faces)


@dataclass(frozen=True)
class Border:
    """Half-edges with a face on one side only."""

    begin: np.ndarray  # int [N] vertex
    end: np.ndarray  # int [N] vertex
    begin_fan: np.ndarray  # int [N] the fan of faces at `begin` that the half-edge belongs to, any numbering
    end_fan: np.ndarray  # int [N]
    blocked: np.ndarray  # bool [N] no loop may go through `begin`


def hole_fans(border: Border, points: np.ndarray, max_perimeter: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(triangles int32 [K, 3], new vertices float32 [J, 3] numbered from len(points)) that close small border loops.

    points: float64 [V, 3]. Each loop shorter than `max_perimeter` (one for all, or [N]) gets a fan around the mean
    of its edge midpoints.
    """
    begin, end = border.begin, border.end
    loop = _hole_loops(_following(begin, end, border.begin_fan, border.end_fan, points), border.blocked)
    length = np.linalg.norm(points[begin] - points[end], axis=1)
    perimeter = np.bincount(loop[loop >= 0], weights=length[loop >= 0], minlength=1)
    limit = np.zeros(len(perimeter))
    limit[loop[loop >= 0]] = np.broadcast_to(max_perimeter, loop.shape)[loop >= 0]
    small = (perimeter > 0) & (perimeter < limit)
    chosen = (loop >= 0) & small[loop]
    rank = (np.cumsum(small) - 1)[loop[chosen]]
    middles = 0.5 * (points[begin[chosen]] + points[end[chosen]])
    sizes = np.maximum(np.bincount(rank), 1)
    centres = np.stack([np.bincount(rank, weights=middles[:, k]) for k in range(3)], axis=1) / sizes[:, None]
    fans = np.stack([end[chosen], begin[chosen], len(points) + rank], axis=1).astype(np.int32)
    return fans, centres.astype(np.float32)


def fill_holes(surface: Surface, max_perimeter: float, *, bow_ties: bool = False, wide: float = 0.0) -> Surface:
    """Close border loops shorter than `max_perimeter` (world units) with a fan around the mean of their edge midpoints.

    A loop follows the border through vertices with exactly two border edges and no non-manifold edge (spec 5.4); with
    `bow_ties` also through vertices where holes touch, each hole by itself. The surface is wound consistently; so are
    the fans. Loops up to `wide` are closed too where they are small against their part: a torn wall, not a small sheet.
    """
    edges = edge_table(surface)
    half = edges.halves[edges.start[:-1][edges.counts == 1]]
    if not len(half):
        return surface
    after = half - half % 3 + (half + 1) % 3
    corners = surface.faces.reshape(-1)
    begin, end = corners[half], corners[after]
    partner = partners_by_solid(surface.vertices, surface.faces, edges.start, edges.halves)
    fan = split_corners(surface.faces, partner)[0].reshape(-1)
    blocked = np.zeros(len(surface.vertices), dtype=bool)
    if not bow_ties:
        blocked = np.bincount(np.concatenate([begin, end]), minlength=len(blocked)) != 2
        blocked[edges.pairs[edges.counts > 2].reshape(-1)] = True
    border = Border(begin, end, fan[half], fan[after], blocked[begin])
    limit: float | np.ndarray = max_perimeter
    if wide > max_perimeter:
        part = components(surface, edges, across_non_manifold=True)
        area = np.bincount(part, weights=face_areas(surface))
        limit = np.clip(np.sqrt(TORN * area), max_perimeter, wide)[part[half // 3]]
    fans, centres = hole_fans(border, surface.vertices.astype(np.float64), limit)
    if not len(fans):
        return surface
    return Surface(np.concatenate([surface.vertices, centres]), np.concatenate([surface.faces, fans]))


@njit(cache=True, nogil=True)
def _following(
    begin: np.ndarray, end: np.ndarray, begin_fan: np.ndarray, end_fan: np.ndarray, points: np.ndarray
) -> np.ndarray:
    """The next border half-edge around the hole beside each, or -1.

    Holes run against the half-edges: after half-edge h comes one that ends where h begins. Where several do, two holes
    touch; the one across the gap belongs to another fan of faces, and of those the sharpest corner is taken.
    """
    count = len(begin)
    offset = np.zeros(len(points) + 1, np.int64)
    for h in range(count):
        offset[end[h] + 1] += 1
    for v in range(len(points)):
        offset[v + 1] += offset[v]
    ending, fill = np.empty(count, np.int64), offset[:-1].copy()
    for h in range(count):
        ending[fill[end[h]]] = h
        fill[end[h]] += 1
    following, used = np.full(count, -1, np.int64), np.zeros(count, np.bool_)
    for h in range(count):
        v, best, best_score = begin[h], -1, -np.inf
        for i in range(offset[v], offset[v + 1]):
            k = ending[i]
            if used[k]:
                continue
            score = 0.0 if end_fan[k] == begin_fan[h] else 10.0
            dot = along = across = 0.0
            for c in range(3):
                x, y = points[end[h], c] - points[v, c], points[begin[k], c] - points[v, c]
                dot, along, across = dot + x * y, along + x * x, across + y * y
            score += dot / max(np.sqrt(along * across), 1e-30)
            if score > best_score:
                best, best_score = k, score
        if best >= 0:
            following[h], used[best] = best, True
    return following


@njit(cache=True, nogil=True)
def _hole_loops(following: np.ndarray, blocked: np.ndarray) -> np.ndarray:
    """Loop of each border half-edge, -1 where its chain ends or meets a blocked start."""
    loop = np.full(len(following), -2, np.int64)
    loops = 0
    for first in range(len(following)):
        if loop[first] != -2:
            continue
        h, closed = first, True
        while h >= 0 and loop[h] == -2:
            loop[h] = -3
            closed = closed and not blocked[h]
            h = following[h]
        label = loops if closed and h == first else -1
        loops += label >= 0
        h = first
        while h >= 0 and loop[h] == -3:
            loop[h] = label
            h = following[h]
    return loop


def fins(surface: Surface, edges: Edges, patch: np.ndarray, maximum_area: float) -> np.ndarray:
    """Mask bool [F] of small patches that hang on an edge where other faces already meet.

    A patch is connected across manifold edges; it is a fin if it is smaller than `maximum_area`, also together with the
    other small patches that it hangs together with, and touches an edge with more than two faces. Stray quads of a
    decoder are of this kind.
    """
    areas = face_areas(surface)
    small = np.flatnonzero((np.bincount(patch, weights=areas) < maximum_area)[patch])
    fin = np.zeros(len(patch), dtype=bool)
    if not len(small):
        return fin
    alone = surface.keep_faces(small)
    cluster = components(alone, edge_table(alone), across_non_manifold=True)
    hangs = np.zeros(int(cluster.max()) + 1, dtype=bool)
    hangs[cluster[(edges.counts[edges.of_half] > 2).reshape(-1, 3).any(axis=1)[small]]] = True
    fin[small] = (hangs & (np.bincount(cluster, weights=areas[small]) < maximum_area))[cluster]
    return fin


def repair(surface: Surface, *, voxel: float, check: Check = go_on) -> Surface:
    """The finisher's clean-up of a decoded surface; `voxel` is the side of a voxel in world units.

    Result: no degenerate or duplicate face, consistent outward winding, edges with one or two faces, no crumbs smaller
    than a few voxel faces, no fins, no inner shells, holes of a few voxels closed.
    """
    surface = clean(surface)
    if not len(surface.faces):
        return surface
    check()
    area = float(face_areas(surface).sum())
    crumb, fin, flake = (min(size * voxel**2, 0.01 * area) for size in (CRUMB, FIN, FLAKE))
    edges = edge_table(surface)
    dust = _litter(small_parts(surface, edges, crumb), surface)
    if dust.any():
        surface = surface.keep_faces(~dust).compacted()
        edges = edge_table(surface)
    check()
    air = open_air(surface, voxel=voxel, check=check)
    sides = sides_of(air, len(surface.faces), check=check)
    hidden, sides = hidden_faces(components(surface, edges), edges, sides, air, check=check)
    surface, edges, sides = _without(hidden, surface, edges, sides)
    check()
    loose = _litter(fins(surface, edges, components(surface, edges), fin), surface)
    surface, edges, sides = _without(loose, surface, edges, sides)
    if hidden.any() or loose.any():
        dust = _litter(small_parts(surface, edges, crumb), surface)
        surface, edges, sides = _without(dust, surface, edges, sides)
    check()
    turn = outward(surface, edges, sides)
    wound = turned(surface, turn)
    surface = fill_holes(wound, HOLE * voxel, bow_ties=True, wide=WIDE * voxel)
    check()
    surface = fill_holes(separate(surface, apart=APART * voxel), HOLE * voxel)
    check()
    for _ in range(SETTLING if len(surface.vertices) > len(wound.compacted().vertices) else 0):
        before = len(surface.faces)
        surface = settled(surface, voxel=voxel, flake=flake, crumb=crumb, check=check)
        check()
        if before == len(surface.faces):
            break
    return surface.compacted()


def _litter(small: np.ndarray, surface: Surface) -> np.ndarray:
    """The marked faces, bool [F], unless they make up too much of the area; then none."""
    if not small.any():
        return small
    areas = face_areas(surface)
    return small & bool(areas[small].sum() <= LITTER * areas.sum())


def _without(drop: np.ndarray, surface: Surface, edges: Edges, sides: Sides) -> tuple[Surface, Edges, Sides]:
    """The surface without the marked faces, its edges and sides."""
    if not drop.any():
        return surface, edges, sides
    surface = surface.keep_faces(~drop)
    return surface, edge_table(surface), sides.picked(~drop)
