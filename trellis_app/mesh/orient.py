"""One consistent, outward winding, and no surface that nobody can see.

A decoded dual grid winds its quads by axis, not by inside and outside. Faces are joined into patches across manifold
edges with a parity for every face; rays then vote for the side of each patch from which the open air is seen (after
Takayama et al., "A Simple Method for Correcting Facet Orientations in Polygon Meshes Based on Ray Casting", 2014).
Patches seen from neither side are inner shells and partition walls: they are dropped.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trellis_app.mesh.bvh import build_tree, escapes
from trellis_app.mesh.surface import Edges, Surface, edge_table, face_cross

_SAMPLES = 192  # faces of a patch that vote
_SECOND_LOOK = 60_000  # rays from each side, shared by the patches that seem hidden


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
    order = np.argsort(-np.rint(flatness * 1024).astype(np.int32), kind="stable")
    patch, flip = _join_patches(surface.faces, order, edges.start, edges.halves)
    return patch, flip.astype(bool)


def turned(surface: Surface, turn: np.ndarray) -> Surface:
    """The surface with the marked faces wound the other way."""
    faces = surface.faces.copy()
    faces[turn, 1], faces[turn, 2] = surface.faces[turn, 2], surface.faces[turn, 1]
    return Surface(surface.vertices, faces)


def _sample_faces(patch: np.ndarray, patches: int, per_patch: int) -> np.ndarray:
    """Up to `per_patch` faces of every patch, evenly spread over the face order."""
    order = np.argsort(patch, kind="stable")
    sizes = np.bincount(patch, minlength=patches)
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    take = np.minimum(sizes, per_patch)
    owner = np.repeat(np.arange(patches), take)
    rank = np.arange(len(owner)) - np.repeat(np.cumsum(take) - take, take)
    return order[first[owner] + rank * sizes[owner] // take[owner]]


def _hemisphere(normals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One cosine-weighted direction around each unit normal, float64 [Q, 3]."""
    points = rng.normal(size=normals.shape)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    directions = normals * 1.001 + points
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def visibility(surface: Surface, patch: np.ndarray, *, rays: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Share of rays that escape from the front and from the back of each patch, float64 [P] each, in [0, 1].

    Every patch sends `rays` rays from each side of up to 192 of its faces; a patch of which none escapes is asked again
    with many more. Deterministic.
    """
    patches = int(patch.max()) + 1
    tree = build_tree(surface)
    cross = face_cross(surface)
    unit = cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-300)
    centres = surface.vertices[surface.faces].mean(axis=1, dtype=np.float64)
    rng = np.random.default_rng(0)

    def shoot(picked: np.ndarray, side: float) -> np.ndarray:
        normals = side * unit[picked]
        free = escapes(tree, centres[picked] + 1e-5 * normals, _hemisphere(normals, rng))
        hits = np.bincount(patch[picked], weights=free, minlength=patches)
        return hits / np.maximum(np.bincount(patch[picked], minlength=patches), 1)

    picked = np.repeat(_sample_faces(patch, patches, _SAMPLES), rays)
    front, back = shoot(picked, 1.0), shoot(picked, -1.0)
    unseen = np.flatnonzero((front == 0) & (back == 0))
    if len(unseen):
        more = int(np.clip(_SECOND_LOOK // len(unseen), 16, 1024))
        rows = np.flatnonzero(np.isin(patch, unseen))
        chosen = rows[_sample_faces(np.searchsorted(unseen, patch[rows]), len(unseen), more)]
        again = np.repeat(chosen, -(-more // np.bincount(patch[chosen], minlength=patches)[patch[chosen]]))
        front[unseen], back[unseen] = shoot(again, 1.0)[unseen], shoot(again, -1.0)[unseen]
    return front, back


def visible_faces(surface: Surface) -> tuple[Surface, np.ndarray]:
    """(the surface without hidden patches, vote float64 [F] of each face that is left).

    A vote is positive where the open air is seen from a face's front, negative where from its back. Patches that no ray
    leaves are dropped; if everything is hidden, nothing is.
    """
    if not len(surface.faces):
        return surface, np.zeros(0)
    patch, turn = patches_by_winding(surface, edge_table(surface))
    front, back = visibility(turned(surface, turn), patch)
    vote = np.where(turn, -1.0, 1.0) * (front - back)[patch]
    seen = (front + back > 0)[patch]
    return (surface.keep_faces(seen), vote[seen]) if seen.any() else (surface, vote)


def wind_by_votes(surface: Surface, vote: np.ndarray) -> Surface:
    """One winding for each patch of the surface, the one that the area-weighted votes of its faces prefer.

    Open sheets, seen from both sides alike, keep one consistent winding.
    """
    if not len(surface.faces):
        return surface
    patch, turn = patches_by_winding(surface, edge_table(surface))
    area = 0.5 * np.linalg.norm(face_cross(surface), axis=1)
    total = np.bincount(patch, weights=np.where(turn, -1.0, 1.0) * vote * area)
    return turned(surface, turn ^ (total < 0)[patch])


def orient_outward(surface: Surface) -> Surface:
    """Drop hidden patches and wind the rest consistently and outward."""
    return wind_by_votes(*visible_faces(surface))
