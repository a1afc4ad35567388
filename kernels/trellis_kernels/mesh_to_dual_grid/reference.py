"""Mesh to dual grid, written to be read: one voxel, one edge, one triangle at a time. For tests on small grids."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import product

import numpy as np

Cell = tuple[int, int, int]


def mesh_to_dual_grid(
    vertices: np.ndarray,
    faces: np.ndarray,
    step: np.ndarray,
    cells: np.ndarray,
    weights: tuple[float, float, float],
    *,
    weld: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates int32 [M, 3], local dual vertices float32 [M, 3] and crossings bool [M, 3] in lexicographic order.

    Arguments as in cpu.mesh_to_dual_grid.
    """
    A, b, crossed = quadrics(vertices, faces, step, cells, weights, weld=weld)
    order, h = sorted(A), step.astype(np.float64)
    dual = [box_minimum(A[cell], b[cell], h) / h for cell in order]
    return (
        np.array(order, np.int32).reshape(-1, 3),
        np.array(dual, np.float32).reshape(-1, 3),
        np.array([crossed[cell] for cell in order], np.bool_).reshape(-1, 3),
    )


def quadrics(
    vertices: np.ndarray,
    faces: np.ndarray,
    step: np.ndarray,
    cells: np.ndarray,
    weights: tuple[float, float, float],
    *,
    weld: bool,
) -> tuple[dict[Cell, np.ndarray], dict[Cell, np.ndarray], dict[Cell, list[bool]]]:
    """(A, b, crossings) of every voxel: its error is x^T A x - 2 b^T x with x relative to its corner."""
    A: dict[Cell, np.ndarray] = defaultdict(lambda: np.zeros((3, 3)))
    b: dict[Cell, np.ndarray] = defaultdict(lambda: np.zeros(3))
    crossed: dict[Cell, list[bool]] = defaultdict(lambda: [False, False, False])
    h = step.astype(np.float64)
    for face in faces:
        normal, offset = plane(vertices[face])
        for axis, cell, point in crossings(vertices[face], step, cells):
            for around in voxels_around(axis, cell):
                corner = h * around
                A[around] += np.outer(normal, normal) + weights[2] * np.eye(3)
                b[around] += normal * (offset - normal @ corner) + weights[2] * (point - corner)
                crossed[around][axis] |= around == cell
    for face in faces if weights[0] > 0 else ():
        normal, offset = plane(vertices[face])
        for cell in overlapped(vertices[face].astype(np.float64), normal, h, cells):
            if cell in A:
                A[cell] += weights[0] * np.outer(normal, normal)
                b[cell] += weights[0] * normal * (offset - normal @ (h * cell))
    for start, end in boundary_edges(vertices, faces, weld) if weights[1] > 0 else ():
        direction = (end - start) / np.linalg.norm(end - start)
        across = np.eye(3) - np.outer(direction, direction)
        for cell in cells_along(start, end, h):
            if cell in A:
                A[cell] += weights[1] * across
                b[cell] += weights[1] * across @ (start - h * cell)
    return A, b, crossed


def plane(triangle: np.ndarray) -> tuple[np.ndarray, float]:
    """Unit normal (zero where degenerate) and offset of a triangle [3, 3]."""
    p = triangle.astype(np.float64)
    normal = np.cross(p[1] - p[0], p[2] - p[1])
    length = np.linalg.norm(normal)
    normal = normal / length if length > 0 else np.zeros(3)
    return normal, float(normal @ p[0])


def crossings(triangle: np.ndarray, step: np.ndarray, cells: np.ndarray) -> Iterator[tuple[int, Cell, np.ndarray]]:
    """Where a triangle crosses the grid lines: (axis of the line, voxel whose far edge it is, point)."""
    for axis in range(3):
        a0, a1 = (axis + 1) % 3, (axis + 2) % 3

        def index(value: float, a: int) -> int:
            return min(max(int(value / float(step[a])), 0), int(cells[a]) - 1)

        low, middle, high = by_coordinate(triangle.astype(np.float64), a1)
        halves = [(low, middle, low, high), (middle, high, high, low)]
        for first, last, apex, other in halves:
            for row in range(index(first[a1], a1), index(last[a1], a1)):
                y = float(np.float32(row + 1) * step[a1])
                left, right = by_coordinate(np.stack([between(apex, p, a1, y) for p in (middle, other)]), a0)
                for column in range(index(left[a0], a0), index(right[a0], a0)):
                    x = float(np.float32(column + 1) * step[a0])
                    point = between(left, right, a0, x)
                    point[a0], point[a1] = x, y
                    depth = int(point[axis] / float(step[axis]))
                    if 0 <= depth < cells[axis]:
                        cell = [0, 0, 0]
                        cell[a0], cell[a1], cell[axis] = column, row, depth
                        yield axis, (cell[0], cell[1], cell[2]), point


def by_coordinate(points: np.ndarray, axis: int) -> np.ndarray:
    """Points [K, 3] in rising order of one coordinate."""
    return points[np.argsort(points[:, axis], kind="stable")]


def between(start: np.ndarray, end: np.ndarray, axis: int, value: float) -> np.ndarray:
    """Point of the segment whose coordinate along `axis` is `value`."""
    share = (value - start[axis]) / (end[axis] - start[axis]) if start[axis] != end[axis] else 0.0
    return (1.0 - share) * start + share * end


def voxels_around(axis: int, cell: Cell) -> Iterator[Cell]:
    """The four voxels around the far edge of `cell` along `axis`, itself first."""
    for u, w in product((0, 1), (0, 1)):
        offset = np.roll((0, u, w), axis)
        yield cell[0] + int(offset[0]), cell[1] + int(offset[1]), cell[2] + int(offset[2])


def overlapped(triangle: np.ndarray, normal: np.ndarray, h: np.ndarray, cells: np.ndarray) -> Iterator[Cell]:
    """Voxels whose box a triangle meets (Schwarz and Seidel 2010: box, plane and three projections), ties included."""
    first = np.maximum((triangle.min(0) / h).astype(int), 0)
    last = np.minimum((triangle.max(0) / h + 1).astype(int), cells) - 1
    if not normal.any():
        return
    far = np.where(normal > 0, h, 0.0)
    xs, ys, zs = (range(first[a], last[a] + 1) for a in range(3))
    for cell in product(xs, ys, zs):
        p = h * cell
        if normal @ (p + far - triangle[0]) < -1e-12 or normal @ (p + h - far - triangle[0]) > 1e-12:
            continue
        if all(meets_projection(triangle, normal, h, p, u) for u in range(3)):
            yield cell


def meets_projection(triangle: np.ndarray, normal: np.ndarray, h: np.ndarray, p: np.ndarray, u: int) -> bool:
    """Whether the box at p meets the triangle in the projection on the axes u and u + 1."""
    w = (u + 1) % 3
    sign = -1.0 if normal[(u + 2) % 3] < 0 else 1.0
    for start, end in zip(triangle, np.roll(triangle, -1, axis=0), strict=True):
        inward = sign * np.array([start[w] - end[w], end[u] - start[u]])
        reach = inward @ (p[[u, w]] - start[[u, w]]) + np.maximum(inward, 0.0) @ h[[u, w]]
        if reach < -1e-12 * np.abs(inward).sum():
            return False
    return True


def boundary_edges(vertices: np.ndarray, faces: np.ndarray, weld: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Segments of the edges that exactly one face uses, from the vertex of smaller index."""
    label = {}
    if weld:
        for v in reversed(range(len(vertices))):
            label[tuple(vertices[v] + 0.0)] = v
    name = [label[tuple(p + 0.0)] if weld else v for v, p in enumerate(vertices)]
    uses = Counter(tuple(sorted((name[f[e]], name[f[(e + 1) % 3]]))) for f in faces for e in range(3))
    for (a, b), count in sorted(uses.items()):
        start, end = vertices[a].astype(np.float64), vertices[b].astype(np.float64)
        if count == 1 and np.linalg.norm(end - start) >= 1e-6:
            yield start, end


def cells_along(start: np.ndarray, end: np.ndarray, h: np.ndarray) -> Iterator[Cell]:
    """Cells a segment passes, one axis crossing at a time."""
    length = np.linalg.norm(end - start)
    direction = (end - start) / length
    cell = np.floor(start / h).astype(int)
    moving = direction != 0
    safe = np.where(moving, direction, 1.0)
    crossing = np.where(moving, ((cell + (direction > 0)) * h - start) / safe, np.inf)
    stride = np.where(moving, h / np.abs(safe), np.inf)
    while True:
        yield int(cell[0]), int(cell[1]), int(cell[2])
        x, y, z = crossing
        axis = (0 if x < z else 2) if x < y else (1 if y < z else 2)
        if crossing[axis] > length:
            return
        cell[axis] += 1 if direction[axis] > 0 else -1
        crossing[axis] += stride[axis]


def box_minimum(A: np.ndarray, b: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Minimum of x^T A x - 2 b^T x over the box [0, h], by trying the inside, the faces, the edges and the corners."""
    best, best_error = np.zeros(3), np.inf
    for sides in sorted(product((None, 0.0, 1.0), repeat=3), key=lambda s: 3 - s.count(None)):
        free = [a for a in range(3) if sides[a] is None]
        x = np.array([0.0 if side is None else side * length for side, length in zip(sides, h, strict=True)])
        if free:
            x[free] = np.linalg.lstsq(A[np.ix_(free, free)], (b - A @ x)[free], rcond=1e-12)[0]
        inside = all(0.0 <= x[a] <= h[a] for a in free)
        error = x @ A @ x - 2.0 * b @ x
        if inside and len(free) == 3:
            return x
        if inside and error < best_error:
            best, best_error = x, error
    return best
