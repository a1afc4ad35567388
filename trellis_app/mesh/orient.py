"""One consistent, outward winding, and no surface that the open air does not reach.

A decoded dual grid winds its quads by axis, not by inside and outside. Faces are joined into patches across manifold
edges with a parity for every face. Then the lattice tells, for each face that crosses one of its edges, which of its
sides the open air reaches (lattice.py): faces reached on one side vote for it, faces reached on both sides vote for the
one from which the lattice line leaves without meeting another face. Patches reached on neither side are inner shells
and partition walls: they are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from trellis_app.mesh.air import open_air
from trellis_app.mesh.lattice import Crossings
from trellis_app.mesh.surface import Edges, Surface, edge_table, face_cross
from trellis_app.progress import Check, go_on

SKY, PARITY = 0.5, 0.02  # weight of a free line, and of an even number of faces on it, where air is on both sides
HIDDEN = 0.05  # a patch is dropped if the open air reaches less of it


@njit(cache=True, nogil=True)
def _parity_find(parent: np.ndarray, parity: np.ndarray, node: int) -> tuple[int, int]:
    """Root of a node and the node's parity relative to it; halves the path on the way."""
    flip = 0
    while parent[node] != node:
        up = parent[node]
        parity[node] ^= parity[up]
        parent[node] = parent[up]
        flip ^= parity[node]
        node = parent[node]
    return node, flip


@njit(cache=True, nogil=True)
def _join_patches(
    faces: np.ndarray, order: np.ndarray, start: np.ndarray, halves: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Patch and parity of each face; manifold edges are honoured in the given order, contradicting ones are skipped."""
    count = len(faces)
    parent, parity = np.arange(count), np.zeros(count, np.int8)
    for e in order:
        if start[e + 1] - start[e] != 2:
            continue
        h0, h1 = halves[start[e]], halves[start[e] + 1]
        same = faces[h0 // 3, h0 % 3] == faces[h1 // 3, h1 % 3]  # both run the same way: one has to turn
        a, flip_a = _parity_find(parent, parity, h0 // 3)
        b, flip_b = _parity_find(parent, parity, h1 // 3)
        if a != b:
            parent[max(a, b)] = min(a, b)
            parity[max(a, b)] = flip_a ^ flip_b ^ (1 if same else 0)
    patch, flip = np.empty(count, np.int32), np.empty(count, np.int8)
    patches = 0
    for f in range(count):
        root, flip[f] = _parity_find(parent, parity, f)
        if root == f:
            patch[f] = patches
            patches += 1
        else:
            patch[f] = patch[root]
    return patch, flip


def patches_by_winding(surface: Surface, edges: Edges) -> tuple[np.ndarray, np.ndarray]:
    """(patch int32 [F], turn bool [F]): turning the marked faces gives each patch one consistent winding.

    Where a patch cannot be oriented (a Moebius band), the sharpest edges are the ones that stay inconsistent.
    """
    cross = face_cross(surface)
    unit = cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-300)
    first, second = edges.halves[edges.start[:-1]] // 3, edges.halves[edges.start[1:] - 1] // 3
    flatness = np.abs(np.einsum("ij,ij->i", unit[first], unit[second]))
    order = np.argsort(-np.rint(flatness * 1024).astype(np.int16), kind="stable")  # a radix sort
    patch, flip = _join_patches(surface.faces, order, edges.start, edges.halves)
    return patch, flip.astype(bool)


def turned(surface: Surface, turn: np.ndarray) -> Surface:
    """The surface with the marked faces wound the other way."""
    faces = surface.faces.copy()
    faces[turn, 1], faces[turn, 2] = surface.faces[turn, 2], surface.faces[turn, 1]
    return Surface(surface.vertices, faces)


@dataclass(frozen=True)
class Sides:
    """What the open air reaches of each face."""

    vote: np.ndarray  # float64 [F] positive: its front, negative: its back
    crossed: np.ndarray  # int32 [F] lattice edges that cross the face
    reached: np.ndarray  # int32 [F] how many of these have open air at one end at least
    outward: np.ndarray  # int32 [F] how many have it at the front only
    inward: np.ndarray  # int32 [F] how many have it at the back only


def open_sides(surface: Surface, *, voxel: float, check: Check = go_on) -> Sides:
    """Which sides of the faces the open air reaches, on a lattice of `voxel` (world units)."""
    air = open_air(surface, voxel=voxel, check=check)
    count = len(surface.faces)
    vote = np.zeros(count)
    crossed, reached, outward, inward = (np.zeros(count, np.int64) for _ in range(4))
    for one in air.along:
        low = one.first & air.open(one.point)
        high = one.last & air.open(one.point + air.lattice.strides[one.axis])
        vote += np.bincount(one.face, weights=_votes(one, low, high), minlength=count)
        crossed += np.bincount(one.face, minlength=count)
        reached += np.bincount(one.face[low | high], minlength=count)
        outward += np.bincount(one.face[(low ^ high) & (high == one.rising)], minlength=count)
        inward += np.bincount(one.face[(low ^ high) & (low == one.rising)], minlength=count)
        check()
    return Sides(vote, crossed, reached, outward, inward)


def _votes(one: Crossings, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Vote of each crossing for the front of its face; low, high: whether the open air is at its ends."""
    up = high.astype(np.float64) - low
    both = low & high
    sky = (one.above == 0).astype(np.float64) - (one.below == 0)
    parity = (one.above % 2 == 0).astype(np.float64) - (one.below % 2 == 0)
    up[both] = SKY * sky[both] + PARITY * parity[both]
    return np.where(one.rising, up, -up)


def visible_faces(surface: Surface, *, voxel: float, check: Check = go_on) -> tuple[Surface, np.ndarray]:
    """(the surface without hidden patches, vote float64 [F] of each face that is left).

    A vote is positive where the open air is at a face's front, negative where at its back. Patches that the open air
    hardly reaches are dropped; if everything is hidden, nothing is.
    """
    if not len(surface.faces):
        return surface, np.zeros(0)
    sides = open_sides(surface, voxel=voxel, check=check)
    patch, _ = patches_by_winding(surface, edge_table(surface))
    crossed, reached = np.bincount(patch, weights=sides.crossed), np.bincount(patch, weights=sides.reached)
    hidden = reached < HIDDEN * crossed
    seen = ~hidden[patch]
    return (surface.keep_faces(seen), sides.vote[seen]) if seen.any() else (surface, sides.vote)


def wind_by_votes(surface: Surface, vote: np.ndarray) -> Surface:
    """One winding for each patch of the surface, the one that the votes of its faces prefer.

    Open sheets, seen from both sides alike, keep one consistent winding.
    """
    if not len(surface.faces):
        return surface
    patch, turn = patches_by_winding(surface, edge_table(surface))
    total = np.bincount(patch, weights=np.where(turn, -vote, vote))
    return turned(surface, turn ^ (total < 0)[patch])


def orient_outward(surface: Surface, *, voxel: float, check: Check = go_on) -> Surface:
    """Drop hidden patches and wind the rest consistently and outward."""
    return wind_by_votes(*visible_faces(surface, voxel=voxel, check=check))
