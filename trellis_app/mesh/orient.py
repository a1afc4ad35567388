"""One consistent, outward winding.

A decoded dual grid winds its quads by axis, not by inside and outside. Faces are joined into patches across manifold
edges with a parity for every face. Then the lattice tells, for each face that crosses one of its edges, which of its
sides the open air reaches (lattice.py): faces reached on one side vote for it, faces reached on both sides vote for the
one from which the lattice line leaves without meeting another face. Of patches reached on neither side, rays tell
inner shells and partition walls, which go, from what is seen (hidden.py).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from trellis_kernels.leaf import leaf

from trellis_app.mesh.sides import Sides
from trellis_app.mesh.surface import Edges, Surface, face_cross, find_root

HIDDEN = 0.05  # a patch that the open air reaches less of is doubtful: rays from it decide
REGION = 100  # lattice crossings that a region of a patch needs to be turned by itself
SURE = 20  # weight of a crossing with air on one side over one with air on both
ROUNDS = 12  # of spreading wishes to neighbours


@leaf
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


@njit(cache=True, nogil=True)
def _sharpness(cross: np.ndarray, start: np.ndarray, halves: np.ndarray) -> np.ndarray:
    """How far the planes of each edge's first and last face differ, int16 [E] from 0 (one plane) to 1024."""
    out = np.empty(len(start) - 1, np.int16)
    for e in range(len(start) - 1):
        f, g = halves[start[e]] // 3, halves[start[e + 1] - 1] // 3
        dot = cross[f, 0] * cross[g, 0] + cross[f, 1] * cross[g, 1] + cross[f, 2] * cross[g, 2]
        a = cross[f, 0] * cross[f, 0] + cross[f, 1] * cross[f, 1] + cross[f, 2] * cross[f, 2]
        b = cross[g, 0] * cross[g, 0] + cross[g, 1] * cross[g, 1] + cross[g, 2] * cross[g, 2]
        out[e] = 1024 - np.int16(np.rint(min(1024 * abs(dot) / max(np.sqrt(a) * np.sqrt(b), 1e-300), 1024.0)))
    return out


def patches_by_winding(surface: Surface, edges: Edges) -> tuple[np.ndarray, np.ndarray]:
    """(patch int32 [F], turn bool [F]): turning the marked faces gives each patch one consistent winding.

    Where a patch cannot be oriented (a Moebius band), the sharpest edges are the ones that stay inconsistent.
    """
    sharpness = _sharpness(face_cross(surface), edges.start, edges.halves)
    order = np.argsort(sharpness, kind="stable")  # a radix sort
    patch, flip = _join_patches(surface.faces, order, edges.start, edges.halves)
    return patch, flip.astype(bool)


def turned(surface: Surface, turn: np.ndarray) -> Surface:
    """The surface with the marked faces wound the other way."""
    faces = surface.faces.copy()
    faces[turn, 1], faces[turn, 2] = surface.faces[turn, 2], surface.faces[turn, 1]
    return Surface(surface.vertices, faces)


def unreached(label: np.ndarray, sides: Sides) -> np.ndarray:
    """Faces bool [F] of the patches or parts (label int [F]) that the open air hardly reaches."""
    crossed, reached = np.bincount(label, weights=sides.crossed), np.bincount(label, weights=sides.reached)
    return (reached < HIDDEN * crossed)[label]


def total_votes(label: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """Sums of votes (float64 [F], multiples of 0.01) by label (int [F]), times 100: exact, also in a tie."""
    return np.rint(100 * np.bincount(label, weights=votes)).astype(np.int64)


def outward(surface: Surface, edges: Edges, sides: Sides) -> np.ndarray:
    """Faces to turn, bool [F], so that they face the open air: one winding a patch, the one its faces vote for.

    Open sheets, seen from both sides alike, keep one consistent winding. A decoder sometimes joins the outside of one
    wall to the inside of another; where a large region of a patch then faces away from the air, it is turned by itself.
    """
    patch, turn = patches_by_winding(surface, edges)
    vote = SURE * (sides.outward - sides.inward) + sides.vote
    turn = turn ^ (total_votes(patch, np.where(turn, -vote, vote)) < 0)[patch]
    wish = np.where(turn, sides.inward - sides.outward, sides.outward - sides.inward)
    if -wish[wish < 0].sum() < REGION:
        return turn
    two = edges.start[:-1][edges.counts == 2]
    first, second = edges.halves[two] // 3, edges.halves[two + 1] // 3
    return turn ^ (opposed_regions(first, second, wish.astype(np.int32)) >= 0)


@njit(cache=True, nogil=True)
def opposed_regions(first: np.ndarray, second: np.ndarray, wish: np.ndarray) -> np.ndarray:
    """Connected regions whose faces mostly have negative wishes, of -REGION in all at least: each face's region by its
    first face, int64 [F], -1 for faces in none.

    first, second: the two faces of every manifold edge. Wishes are spread to neighbours first, in ROUNDS rounds.
    """
    count = len(wish)
    mark = np.sign(wish).astype(np.int32)
    for _ in range(ROUNDS):
        score = 2 * wish
        for i in range(len(first)):
            score[first[i]] += mark[second[i]]
            score[second[i]] += mark[first[i]]
        for f in range(count):
            if score[f] != 0:
                mark[f] = 1 if score[f] > 0 else -1
    parent = np.arange(count)
    for i in range(len(first)):
        if mark[first[i]] < 0 and mark[second[i]] < 0:
            a, b = find_root(parent, first[i]), find_root(parent, second[i])
            parent[max(a, b)] = min(a, b)
    total = np.zeros(count, np.int64)
    for f in range(count):
        total[find_root(parent, f)] -= wish[f]
    region = np.full(count, -1)
    for f in range(count):
        root = find_root(parent, f)
        if mark[f] < 0 and total[root] >= REGION:
            region[f] = root
    return region
