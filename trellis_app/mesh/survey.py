"""The promises of the surface modes, counted over many surfaces: real objects, golden meshes, random voxel sets."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from trellis_app.mesh.exposure import exposure
from trellis_app.mesh.health import report
from trellis_app.mesh.lattice import crossings, lattice_around
from trellis_app.mesh.modes import prepare_surface
from trellis_app.mesh.orient import HIDDEN
from trellis_app.mesh.sides import open_sides
from trellis_app.mesh.simplify import simplify
from trellis_app.mesh.surface import Surface, components, edge_table
from trellis_app.ovoxel.from_mesh import mesh_to_dual_grid
from trellis_app.ovoxel.to_mesh import dual_grid_to_mesh
from trellis_app.types import DualGrid, Mesh

KINDS = ("noise", "sheets", "tubes", "shells", "single voxels")
BUDGETS = (1000, 50_000)  # faces
_USED = 0.95  # of a budget is spent at least
_SHELL = 100  # lattice crossings: smaller parts that nobody sees are crumbs in cracks, no shells
_SHOWN = 0.005  # of what a part in the open would show: less is not seen
_DOUBLED = 0.25  # voxels between two walls that face the same way: one wall too many


@dataclass(frozen=True)
class Case:
    """A surface to prepare."""

    name: str
    surface: Surface
    voxel: float  # world units


Recipe = Callable[[], Case]  # makes a case where it is examined: a mesh travels to another process, its voxels do not


def decoded_case(name: str, grid: DualGrid) -> Case:
    """The surface of a dual grid."""
    mesh = dual_grid_to_mesh(grid)
    return Case(name, Surface(mesh.vertices.numpy(), mesh.faces.numpy()), 1.0 / grid.resolution)


def object_case(name: str, vertices: np.ndarray, faces: np.ndarray, resolution: int) -> Case:
    """A mesh within the unit box, turned into O-Voxel and decoded."""
    mesh = Mesh(torch.from_numpy(np.ascontiguousarray(vertices, np.float32)), torch.from_numpy(faces.astype(np.int32)))
    return decoded_case(name, mesh_to_dual_grid(mesh, resolution))


def random_cases(count: int, *, seed: int = 0, largest: int = 40) -> Iterator[Case]:
    """Random voxel sets of every kind in turn, on grids of 8 to `largest` voxels a side."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        kind = KINDS[i % len(KINDS)]
        yield decoded_case(f"{kind} {i}", _random_grid(kind, int(rng.integers(8, largest)), rng))


def _random_grid(kind: str, side: int, rng: np.random.Generator) -> DualGrid:
    """Voxels of a random set with random dual vertices; flags where the set's own field changes sign, or at random."""
    axis = np.arange(side + 1) - side / 2
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    bend = rng.normal(size=3)
    if kind == "noise":
        coords = np.argwhere(rng.random((side,) * 3) < rng.uniform(0.05, 0.9))
        return _grid(coords, rng.random((len(coords), 3)) < rng.uniform(0.2, 1.0), side, rng)
    if kind == "single voxels":
        corner = rng.integers(1, side - 2, size=(int(rng.integers(1, 6)), 3))
        coords = np.unique((corner[:, None] + np.argwhere(np.ones((2, 2, 2)))).reshape(-1, 3), axis=0)
        return _grid(coords, rng.random((len(coords), 3)) < rng.uniform(0.3, 1.0), side, rng)
    if kind == "sheets":
        field = np.sin(0.3 * x + bend[0]) * 2 + np.sin(0.2 * y + bend[1]) * 2 + z - bend[2]
        field = np.where(np.hypot(x, y) < side * rng.uniform(0.2, 0.5), field, 1e3 * np.sign(field) + field)
        return level_set(field, side, rng, cut=np.hypot(x, y) > 0.4 * side)
    if kind == "tubes":
        radius = rng.uniform(0.6, side / 5)
        field = np.hypot(x - 3 * np.sin(0.2 * z + bend[0]), y - 3 * np.cos(0.25 * z + bend[1])) - radius
        return level_set(field, side, rng, cut=np.abs(z) > 0.4 * side)
    radii = np.sort(rng.uniform(1.5, 0.45 * side, size=int(rng.integers(2, 4))))
    distance = np.sqrt(x * x + y * y + z * z)
    field = np.min([np.abs(distance - r) - 0.3 for r in radii], axis=0) if rng.random() < 0.5 else np.prod(
        [distance - r for r in radii], axis=0
    )  # fmt: skip
    return level_set(field, side, rng)


def level_set(
    field: np.ndarray, side: int, rng: np.random.Generator | None = None, cut: np.ndarray | None = None
) -> DualGrid:
    """The dual grid of a field's sign changes, field [side + 1, side + 1, side + 1] at the lattice points.

    Without voxels that touch the points in `cut`; with `rng` some voxels are lost and vertices lie anywhere in theirs.
    """
    inside = field < 0
    corners = [inside[i : side + i, j : side + j, k : side + k] for i in range(2) for j in range(2) for k in range(2)]
    mixed = np.any(corners, axis=0) & ~np.all(corners, axis=0)
    if cut is not None:
        mixed &= ~cut[:-1, :-1, :-1]
    if rng is not None:
        mixed &= rng.random(mixed.shape) >= rng.choice([0.0, 0.0, 0.02])
    coords = np.argwhere(mixed)
    flags = np.zeros((len(coords), 3), bool)
    for axis in range(3):
        far = coords + 1
        near = far.copy()
        near[:, axis] -= 1
        flags[:, axis] = inside[tuple(near.T)] != inside[tuple(far.T)]
    return _grid(coords, flags, side, rng)


def _grid(coords: np.ndarray, flags: np.ndarray, side: int, rng: np.random.Generator | None) -> DualGrid:
    dual = np.full((len(coords), 3), 0.5)
    if rng is not None:
        dual = rng.uniform(*((-0.5, 1.5) if rng.random() < 0.3 else (0.1, 0.9)), size=(len(coords), 3))
    return DualGrid(
        torch.from_numpy(coords.astype(np.int32).reshape(-1, 3)), torch.from_numpy(dual.astype(np.float32)),
        torch.from_numpy(flags), None, side,
    )  # fmt: skip


def violations(surface: Surface, mode: str, voxel: float) -> dict[str, int]:
    """Broken promises of a prepared surface by name; only those that are broken."""
    found = {"empty": int(not len(surface.faces))}
    if found["empty"]:
        return found
    health, welded = (report(surface.vertices, surface.faces, weld=weld) for weld in (False, True))
    found["degenerate faces"] = int((np.diff(np.sort(surface.faces, axis=1), axis=1) == 0).any(axis=1).sum())
    found["bad vertices"] = int((~np.isfinite(surface.vertices)).any(axis=1).sum())
    if mode == "decoded":
        return {name: count for name, count in found.items() if count}
    found["non-manifold edges"] = max(health.non_manifold_edges, welded.non_manifold_edges)
    found["non-manifold vertices"] = health.non_manifold_vertices
    found["inconsistent edges"] = health.inconsistent_edges
    found["inverted closed parts"] = _inverted(surface)
    if mode == "watertight":
        found["open"] = int(not (health.watertight and welded.watertight))
        found["touching vertices"] = welded.non_manifold_vertices
    else:
        found |= _single_violations(surface, voxel)
    return {name: count for name, count in found.items() if count}


def _inverted(surface: Surface) -> int:
    """Closed parts with negative volume."""
    part = components(surface, edge_table(surface))
    corners = surface.vertices.astype(np.float64)[surface.faces]
    corners -= corners.reshape(-1, 3).mean(axis=0)
    volume = np.bincount(part, np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])))
    return int((~_open(surface, part) & (volume < -1e-12)).sum())


def _open(surface: Surface, part: np.ndarray) -> np.ndarray:
    """Parts with a border, bool [P]."""
    edges = edge_table(surface)
    border = edges.halves[edges.start[:-1][edges.counts == 1]] // 3
    return np.bincount(part[border], minlength=int(part.max()) + 1) > 0


def _single_violations(surface: Surface, voxel: float) -> dict[str, int]:
    """Flipped parts, inner shells and doubled walls.

    What the air that flows around the surface finds amiss is looked at in pictures too, as walls with gaps let air in:
    no part that they show is an inner shell, none that they do not show mostly from its back is flipped.
    """
    part = components(surface, edge_table(surface))
    sides = open_sides(surface, voxel=voxel)
    inward, outward, crossed, reached = (
        np.bincount(part, weights=values) for values in (sides.inward, sides.outward, sides.crossed, sides.reached)
    )
    flipped = _open(surface, part) & (inward > 1.2 * outward + 0.01 * crossed + 3)
    inner = (reached < HIDDEN * crossed) & (crossed >= _SHELL)
    if flipped.any() or inner.any():
        seen = exposure(surface, part, pixel=voxel)
        flipped &= seen.back > 2 * seen.front
        inner &= seen.share() < _SHOWN
    doubled = np.zeros(len(surface.faces), np.int64)
    for one in crossings(surface, lattice_around(surface.vertices, voxel)):
        height = one.lower + one.depth.astype(np.float64)
        close = (one.below[1:] > 0) & (np.diff(height) < _DOUBLED) & (one.rising[1:] == one.rising[:-1])
        for face in (one.face[1:][close], one.face[:-1][close]):
            doubled += np.bincount(face, minlength=len(doubled))
    return {
        "flipped parts": int(flipped.sum()),
        "inner shells": int(inner.sum()),
        "doubled walls": int((np.bincount(part, weights=doubled) > 0.5 * crossed + 3).sum()),
    }


def budget_violations(surface: Surface, mode: str, target: int) -> dict[str, int]:
    """Broken promises of a prepared surface once it is simplified to `target` faces; only those that are broken."""
    small = simplify(surface, target)
    health, welded = (report(small.vertices, small.faces, weld=weld) for weld in (False, True))
    found = {
        "too many": max(len(small.faces) - target, 0),
        "too few": max(int(_USED * min(target, len(surface.faces))) - len(small.faces), 0),
        "non-manifold edges": max(health.non_manifold_edges, welded.non_manifold_edges),
        "inconsistent edges": health.inconsistent_edges,
        "open": int(mode == "watertight" and not (health.watertight and welded.watertight)),
    }
    return {f"{name} at {target:,} faces": count for name, count in found.items() if count}


@dataclass(frozen=True)
class Finding:
    """What became of one case."""

    name: str
    faces: int  # of the decoded surface; 0: nothing was decoded, nothing was prepared
    seconds: dict[str, float]  # by mode
    violations: dict[str, dict[str, int]]  # by mode: broken promises, counted

    def line(self) -> str:
        """One line for people."""
        modes = (f"{mode} {took:.1f} s {self.violations[mode] or ''}".rstrip() for mode, took in self.seconds.items())
        return f"{self.name}: {self.faces:,} faces; {'; '.join(modes)}"


def examined(recipe: Recipe, modes: tuple[str, ...] = ("single", "watertight")) -> Finding:
    """Make a case, prepare it in every mode, simplify it to every budget and look for broken promises."""
    case = recipe()
    seconds: dict[str, float] = {}
    broken: dict[str, dict[str, int]] = {}
    for mode in modes if len(case.surface.faces) else ():
        start = time.perf_counter()
        surface = prepare_surface(case.surface, mode, voxel=case.voxel)
        seconds[mode] = time.perf_counter() - start
        broken[mode] = violations(surface, mode, case.voxel)
        for target in BUDGETS if len(surface.faces) else ():
            broken[mode] |= budget_violations(surface, mode, target)
    return Finding(case.name, len(case.surface.faces), seconds, broken)


def summary(findings: list[Finding]) -> dict[str, object]:
    """Cases, seconds and violations by mode, and the cases that fail."""
    result: dict[str, object] = {}
    for mode in dict.fromkeys(mode for finding in findings for mode in finding.seconds):
        rows = [finding for finding in findings if mode in finding.seconds]
        broken: Counter[str] = Counter()
        for row in rows:
            broken.update(row.violations[mode])
        result[mode] = {
            "cases": len(rows),
            "failing": sum(bool(row.violations[mode]) for row in rows),
            "seconds": round(sum(row.seconds[mode] for row in rows), 1),
            "violations": dict(broken),
        }
    result["failing"] = [finding.line() for finding in findings if any(finding.violations.values())]
    return result
