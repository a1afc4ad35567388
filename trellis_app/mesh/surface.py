"""The mesh that the finishing steps hand to each other, and its edge table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from trellis_kernels.leaf import leaf


@dataclass(frozen=True)
class Surface:
    """A triangle surface in world units on the CPU."""

    vertices: np.ndarray  # float32 [V, 3]
    faces: np.ndarray  # int32 [F, 3]

    def keep_faces(self, keep: np.ndarray) -> Surface:
        """The faces selected by a mask or an index array; unused vertices stay."""
        return Surface(self.vertices, np.ascontiguousarray(self.faces[keep]))

    def compacted(self) -> Surface:
        """The same faces without unused vertices; vertices keep their order."""
        used = np.zeros(len(self.vertices), dtype=bool)
        used[self.faces.reshape(-1)] = True
        if used.all():
            return self
        index = (np.cumsum(used) - 1).astype(np.int32)
        return Surface(np.ascontiguousarray(self.vertices[used]), index[self.faces])


@dataclass(frozen=True)
class Edges:
    """Undirected edges by vertex pair. Half-edge h = 3 f + c runs from corner c to corner c + 1 of face f."""

    pairs: np.ndarray  # int32 [E, 2] rising, in lexicographic order
    start: np.ndarray  # int32 [E + 1] into `halves`
    halves: np.ndarray  # int32 [3 F] half-edges grouped by edge, rising within an edge
    of_half: np.ndarray  # int32 [3 F] edge of each half-edge

    @property
    def counts(self) -> np.ndarray:
        """Faces at each edge, int32 [E]: 1 border, 2 manifold, more non-manifold."""
        return np.diff(self.start)


@njit(cache=True, nogil=True)
def _group_half_edges(
    faces: np.ndarray, vertex_count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Bucket half-edges by their lower vertex, order each bucket by (higher vertex, half-edge), number the edges."""
    n = 3 * faces.shape[0]
    offset = np.zeros(vertex_count + 1, np.int64)
    for h in range(n):
        a, b = faces[h // 3, h % 3], faces[h // 3, (h + 1) % 3]
        offset[min(a, b) + 1] += 1
    for v in range(vertex_count):
        offset[v + 1] += offset[v]
    fill = offset[:-1].copy()
    key = np.empty(n, np.int64)
    for h in range(n):
        a, b = faces[h // 3, h % 3], faces[h // 3, (h + 1) % 3]
        low = min(a, b)
        key[fill[low]] = (np.int64(max(a, b)) << 32) | h
        fill[low] += 1
    for v in range(vertex_count):
        first, last = offset[v], offset[v + 1]
        gap = 1
        while gap < (last - first) // 3:
            gap = 3 * gap + 1
        while gap > 0:  # shell sort: buckets are short, fans may be long
            for i in range(first + gap, last):
                item, j = key[i], i
                while j >= first + gap and key[j - gap] > item:
                    key[j] = key[j - gap]
                    j -= gap
                key[j] = item
            gap //= 3
    pairs, start = np.empty((n, 2), np.int32), np.empty(n + 1, np.int32)
    halves, of_half = np.empty(n, np.int32), np.empty(n, np.int32)
    count = 0
    for v in range(vertex_count):
        previous = np.int64(-1)
        for i in range(offset[v], offset[v + 1]):
            other, h = key[i] >> 32, key[i] & 0xFFFFFFFF
            if other != previous:
                pairs[count, 0], pairs[count, 1], start[count] = v, other, i
                count += 1
                previous = other
            halves[i] = h
            of_half[h] = count - 1
    start[count] = n
    return pairs[:count].copy(), start[: count + 1].copy(), halves, of_half


def edge_table(surface: Surface) -> Edges:
    """All undirected edges of the surface in time linear in its faces."""
    return Edges(*_group_half_edges(surface.faces, len(surface.vertices)))


@njit(cache=True, nogil=True, parallel=True)
def _face_cross(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    out = np.empty((len(faces), 3))
    for f in prange(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, az = np.float64(vertices[a, 0]), np.float64(vertices[a, 1]), np.float64(vertices[a, 2])
        ux, uy, uz = vertices[b, 0] - ax, vertices[b, 1] - ay, vertices[b, 2] - az
        vx, vy, vz = vertices[c, 0] - ax, vertices[c, 1] - ay, vertices[c, 2] - az
        out[f, 0], out[f, 1], out[f, 2] = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    return out


def face_cross(surface: Surface) -> np.ndarray:
    """Cross products of the face sides, float64 [F, 3]: direction of the normal, length twice the area."""
    return _face_cross(surface.vertices, surface.faces)


def area_vectors(surface: Surface) -> np.ndarray:
    """Area times unit normal of each face, float64 [F, 3]."""
    return 0.5 * face_cross(surface)


def face_areas(surface: Surface) -> np.ndarray:
    """Areas of the faces, float64 [F]."""
    x, y, z = face_cross(surface).T
    return np.asarray(0.5 * np.sqrt(x * x + y * y + z * z))


@leaf
def find_root(parent: np.ndarray, node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@njit(cache=True, nogil=True)
def number_roots(parent: np.ndarray) -> np.ndarray:
    """The set of each node, int32, numbered by first member; a root is the first member of its set."""
    number, count = np.empty(len(parent), np.int32), 0
    for node in range(len(parent)):
        root = find_root(parent, node)
        if root == node:
            number[node] = count
            count += 1
        else:
            number[node] = number[root]
    return number


@njit(cache=True, nogil=True)
def _link_faces(face_count: int, start: np.ndarray, halves: np.ndarray, any_count: bool) -> np.ndarray:
    parent = np.arange(face_count)
    for e in range(len(start) - 1):
        if not any_count and start[e + 1] - start[e] != 2:
            continue
        a = find_root(parent, halves[start[e]] // 3)
        for i in range(start[e] + 1, start[e + 1]):
            b = find_root(parent, halves[i] // 3)
            parent[max(a, b)] = min(a, b)
            a = min(a, b)
    return number_roots(parent)


def components(surface: Surface, edges: Edges, *, across_non_manifold: bool = False) -> np.ndarray:
    """Connected component of each face, int32 [F], numbered by their first face.

    Faces are connected across edges with exactly two faces, or across every shared edge if `across_non_manifold`.
    """
    return _link_faces(len(surface.faces), edges.start, edges.halves, across_non_manifold)


@njit(cache=True, nogil=True)
def split_corners(faces: np.ndarray, partner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join face corners across partnered half-edges; (new faces, source vertex of each new vertex)."""
    count = 3 * len(faces)
    parent = np.arange(count)
    for h in range(count):
        other = np.int64(partner[h])
        if other < h:
            continue
        after, other_after = h - h % 3 + (h + 1) % 3, other - other % 3 + (other + 1) % 3
        for x, y in ((h, other_after), (after, other)):
            a, b = find_root(parent, x), find_root(parent, y)
            parent[max(a, b)] = min(a, b)
    new_faces, source = np.empty(faces.shape, np.int32), np.empty(count, np.int32)
    index = np.full(count, -1, np.int32)
    fresh = 0
    for corner in range(count):
        root = find_root(parent, corner)
        if index[root] < 0:
            index[root] = fresh
            source[fresh] = faces[corner // 3, corner % 3]
            fresh += 1
        new_faces[corner // 3, corner % 3] = index[root]
    return new_faces, source[:fresh].copy()


def partners_across(surface: Surface, edges: Edges) -> np.ndarray:
    """The half-edge across each half-edge, int32 [3 F], or -1 unless the edge has two oppositely directed faces."""
    partner = np.full(3 * len(surface.faces), -1, dtype=np.int32)
    two = edges.start[:-1][edges.counts == 2]
    first, second = edges.halves[two], edges.halves[two + 1]
    start = surface.faces.reshape(-1)
    opposed = start[first] != start[second]
    partner[first[opposed]], partner[second[opposed]] = second[opposed], first[opposed]
    return partner


def weld_vertices(surface: Surface) -> Surface:
    """Let all faces use the first of several vertices at exactly the same position; vertices are kept."""
    vertices = surface.vertices + np.float32(0.0)  # -0.0 becomes 0.0
    if not len(vertices):
        return surface
    keys = np.ascontiguousarray(vertices).view(np.int32).reshape(-1, 3)
    order = np.lexsort(keys.T)
    fresh = np.concatenate([[True], np.any(np.diff(keys[order], axis=0) != 0, axis=1)])
    first = order[np.flatnonzero(fresh)]
    joined = np.empty(len(vertices), dtype=np.int32)
    joined[order] = first[np.cumsum(fresh) - 1]
    return Surface(vertices, joined[surface.faces])
