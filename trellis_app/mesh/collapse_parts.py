"""A large mesh shrinks in compact parts, side by side in threads: each part fits into a core's cache.

Vertices between parts are locked. All parts collapse up to one common cost, which rises until the goal is reached, so
that they end up as if they had shared one queue. Nothing depends on the number of threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numba import njit

from trellis_app.mesh.collapse import BUCKETS, STEPS, Queue, Work, corner_lists, empty_queue, seed, shrink
from trellis_app.mesh.surface import Surface, edge_table
from trellis_app.progress import Check

THREADS = max(1, min(os.cpu_count() or 1, 16))
_CELL_BITS = 6  # cells along each axis of the box, as a power of two
_SLICE = 4096  # steps between two looks at the stop sign: a few hundredths of a second
_FIRST_SHARE = 0.25  # share of the edges that are below the first common cost
_NEAR_ENOUGH = 1.02


@dataclass(frozen=True)
class Shrinking:
    """A mesh with the quadrics it has gathered; unused vertices stay."""

    points: np.ndarray  # float64 [V, 3]
    quadrics: np.ndarray  # float64 [V, 10]
    border: np.ndarray  # bool [V]
    faces: np.ndarray  # int32 [F, 3]
    ahead: np.ndarray  # float32 [F, 3] unit normals that the faces had at the start


@dataclass(frozen=True)
class _Part:
    work: Work
    queue: Queue
    vertices: np.ndarray  # int32 [v] global number of each vertex
    costs: np.ndarray  # int64 [BUCKETS] edges by cost at the start

    @property
    def alive(self) -> int:
        return int(self.work.state[0])


class _Crew:
    """Threads that do a list of jobs while `check` is called; a stop reaches them within one slice."""

    def __init__(self, pool: ThreadPoolExecutor, check: Check) -> None:
        self._pool, self._check = pool, check
        self._stopped = threading.Event()

    def cut(self, mesh: Shrinking, order: np.ndarray, locked: np.ndarray, bounds: Sequence[int]) -> list[_Part]:
        spans = list(pairwise(bounds))
        return self._all([self._pool.submit(_cut, mesh, order[first:last], locked) for first, last in spans])

    def shrink(self, parts: list[_Part], floors: list[int], limit: int, tunnels: bool) -> None:
        def work(part: _Part, floor: int) -> None:
            while not self._stopped.is_set():
                if shrink(part.work, part.queue, floor, limit, _SLICE, tunnels) < _SLICE:
                    return

        self._all([self._pool.submit(work, part, floor) for part, floor in zip(parts, floors, strict=True)])

    def join(self, parts: list[_Part], mesh: Shrinking) -> list[tuple[np.ndarray, np.ndarray]]:
        return self._all([self._pool.submit(_give_back, part, mesh) for part in parts])

    def _all(self, futures: list[Future]) -> list:
        pending = set(futures)
        try:
            while pending:
                self._check()
                _, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
            return [future.result() for future in futures]
        finally:
            if pending:
                self._stopped.set()
            for future in pending:
                future.cancel()


@njit(cache=True, nogil=True)
def _cell_order(points: np.ndarray, faces: np.ndarray, low: np.ndarray, scale: float, bits: int) -> np.ndarray:
    """Faces int32 [F] ordered by the Morton number of their first corner's cell; within a cell as before."""
    cells = np.empty(len(faces), np.int32)
    start = np.zeros((1 << (3 * bits)) + 1, np.int64)
    top = (1 << bits) - 1
    for f in range(len(faces)):
        code = 0
        for k in range(3):
            at = min(max(int((points[faces[f, 0], k] - low[k]) * scale), 0), top)
            for bit in range(bits):
                code |= ((at >> bit) & 1) << (3 * bit + k)
        cells[f] = code
        start[code + 1] += 1
    for c in range(len(start) - 1):
        start[c + 1] += start[c]
    order = np.empty(len(faces), np.int32)
    for f in range(len(faces)):
        order[start[cells[f]]] = f
        start[cells[f]] += 1
    return order


@njit(cache=True, nogil=True)
def _shared_vertices(faces: np.ndarray, order: np.ndarray, bounds: np.ndarray, vertex_count: int) -> np.ndarray:
    """Whether faces of several parts meet in a vertex, bool [V]."""
    owner, shared = np.full(vertex_count, -1, np.int32), np.zeros(vertex_count, np.bool_)
    for part in range(len(bounds) - 1):
        for i in range(bounds[part], bounds[part + 1]):
            for c in range(3):
                v = faces[order[i], c]
                if owner[v] < 0:
                    owner[v] = part
                elif owner[v] != part:
                    shared[v] = True
    return shared


@njit(cache=True, nogil=True)
def _number_locally(faces: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Chosen faces with vertices numbered by first use, int32 [f, 3], and the vertices' old numbers int32 [v]."""
    size = 16
    while size < 4 * len(chosen):
        size *= 2
    keys, values = np.full(size, -1, np.int32), np.empty(size, np.int32)
    local, vertices = np.empty((len(chosen), 3), np.int32), np.empty(3 * len(chosen), np.int32)
    count = 0
    for i in range(len(chosen)):
        for c in range(3):
            v = faces[chosen[i], c]
            slot = (np.int64(v) * 0x9E3779B1 >> 7) & (size - 1)
            while keys[slot] >= 0 and keys[slot] != v:
                slot = (slot + 1) & (size - 1)
            if keys[slot] < 0:
                keys[slot], values[slot] = v, count
                vertices[count] = v
                count += 1
            local[i, c] = values[slot]
    return local, vertices[:count].copy()


def _cut(mesh: Shrinking, chosen: np.ndarray, locked: np.ndarray) -> _Part:
    """The part of a mesh with the chosen faces, ready to shrink."""
    faces, vertices = _number_locally(mesh.faces, chosen)
    points = mesh.points[vertices]
    count = len(vertices)
    work = Work(
        points, mesh.quadrics[vertices], faces, mesh.ahead[chosen], np.zeros(len(faces), np.bool_),
        *corner_lists(faces, count), -locked[vertices].astype(np.int32), np.zeros(count, np.int64),
        mesh.border[vertices], np.array([len(faces), 1], np.int64),
    )  # fmt: skip
    pairs = edge_table(Surface(points, faces)).pairs
    queue, costs = empty_queue(3 * len(pairs) + 1024), np.zeros(BUCKETS, np.int64)
    seed(work, queue, pairs, costs)
    return _Part(work, queue, vertices, costs)


@njit(cache=True, nogil=True)
def _collect(
    work: Work, vertices: np.ndarray, points: np.ndarray, quadrics: np.ndarray, border: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Copy what is not locked back into the whole mesh; living faces int32 [f, 3] with global numbers, and their
    first normals float32 [f, 3]."""
    for v in range(len(vertices)):
        if work.stamp[v] > 0:
            points[vertices[v]], quadrics[vertices[v]] = work.points[v], work.quadrics[v]
            border[vertices[v]] = work.border[v]
    faces, count = np.empty((work.state[0], 3), np.int32), 0
    ahead = np.empty((work.state[0], 3), np.float32)
    for f in range(len(work.faces)):
        if not work.dead[f]:
            for c in range(3):
                faces[count, c], ahead[count, c] = vertices[work.faces[f, c]], work.ahead[f, c]
            count += 1
    return faces, ahead


def _give_back(part: _Part, mesh: Shrinking) -> tuple[np.ndarray, np.ndarray]:
    return _collect(part.work, part.vertices, mesh.points, mesh.quadrics, mesh.border)


def shrink_in_parts(
    mesh: Shrinking, goal: int, *, parts: int, shift: float = 0.0, tunnels: bool = False, check: Check
) -> Shrinking:
    """Collapse edges inside `parts` compact parts until `goal` faces are left in all, or no edge may collapse.

    One part meets the goal to the face, several nearly. shift: moves the places where parts meet; 0 to 1.
    """
    used = mesh.points[mesh.faces[:, 0]]
    low, extent = used.min(axis=0), float(np.ptp(used, axis=0).max())
    scale = (1 << _CELL_BITS) / (max(extent, 1e-30) * (1.0 + shift))
    order = _cell_order(mesh.points, mesh.faces, low - shift * extent * np.array([0.9, 0.6, 0.4]), scale, _CELL_BITS)
    bounds = np.linspace(0, len(order), parts + 1).astype(np.int64)
    locked = _shared_vertices(mesh.faces, order, bounds, len(mesh.points))
    with ThreadPoolExecutor(THREADS) as pool:
        crew = _Crew(pool, check)
        cut = crew.cut(mesh, order, locked, [int(bound) for bound in bounds])
        if parts == 1:
            crew.shrink(cut, [goal], BUCKETS - 1, tunnels)
        else:
            _shrink_evenly(cut, goal, crew.shrink)
        faces, ahead = (np.concatenate(pieces) for pieces in zip(*crew.join(cut, mesh), strict=True))
        return Shrinking(mesh.points, mesh.quadrics, mesh.border, faces, ahead)


def _shrink_evenly(parts: list[_Part], goal: int, run: Callable[[list[_Part], list[int], int, bool], None]) -> None:
    """Raise the common cost until `goal` faces are left; no part gives more than its share of what is missing."""
    costs = np.cumsum(sum(part.costs for part in parts))
    limit = int(np.searchsorted(costs, _FIRST_SHARE * costs[-1]))
    total = sum(part.alive for part in parts)
    while total > _NEAR_ENOUGH * goal and limit < BUCKETS + STEPS:
        floors = [part.alive - int((total - goal) * part.alive / total) for part in parts]
        run(parts, floors, min(limit, BUCKETS - 1), False)
        if all(part.alive > floor for part, floor in zip(parts, floors, strict=True)):
            limit += STEPS
        total = sum(part.alive for part in parts)
