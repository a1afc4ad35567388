"""Simplifying decoded surfaces, compared with pyfqmr at the same number of faces: seconds, distance, predicates.

PYTHONPATH=.:kernels python kernels/benchmarks/simplify.py [--device cpu|cuda] [--objects N] [--jobs N]
    [--tools cpu,gpu,pyfqmr] [--json FILE]

Surfaces: golden meshes and objects of the library, voxelised at --side^3 and simplified to --faces, and a synthetic
one of 1.3 M faces to 500,000; surfaces with no more faces than that are left out. Distances are in voxels, both ways.
Where pyfqmr is not installed its figures are read from the JSON of a run where it was. With several jobs the surfaces
are shared among processes, and seconds are those of busy cores.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from benchmarks.workload import ROOT, machine, settle
from safetensors.numpy import load_file

from trellis_app.bench_assets import synthetic_asset
from trellis_app.mesh.bvh import Tree, build_tree, closest_points
from trellis_app.mesh.gpu.simplify import simplify as simplify_mesh
from trellis_app.mesh.repair import repair
from trellis_app.mesh.simplify import simplify
from trellis_app.mesh.surface import Surface, edge_table, face_cross
from trellis_app.ovoxel.from_mesh import mesh_to_dual_grid
from trellis_app.ovoxel.to_mesh import dual_grid_to_mesh
from trellis_app.parallel import in_processes
from trellis_app.training.library import read_library
from trellis_app.types import DualGrid, Mesh

SHARED = ROOT.parent / "shared"
GOLDEN = ("torus", "hemisphere", "icosphere", "tee")
LARGE_SIDE, LARGE_FACES = 512, 500_000
NEAR = 0.25  # voxels between a face and the wall that it stands for
SLACK = 1e-4  # voxels: a smaller difference of distances is rounding
TESTS = ("tests/mesh/test_simplify.py", "tests/mesh/test_gpu_simplify.py")


@dataclass(frozen=True)
class Subject:
    """A surface to simplify, not made yet."""

    name: str
    make: Callable[[], Surface]  # the repaired surface
    side: int  # voxels
    target: int  # faces


def subjects(options: argparse.Namespace) -> Iterator[Subject]:
    """Golden meshes and objects only where they are at hand."""
    side, target = options.side, options.faces
    golden = SHARED / "golden/geometry/mesh_to_dual_grid.safetensors"
    if golden.is_file() and options.synthetic:
        values = load_file(golden)
        for name in GOLDEN:
            make = partial(voxelised, values[f"{name}.vertices"], values[f"{name}.faces"], side)
            yield Subject(name, make, side, target)
    if options.library.is_file():
        library = read_library(options.library)
        chosen = np.linspace(0, len(library) - 1, min(options.objects, len(library))).astype(int)
        for index in chosen[options.start :: options.every]:
            thing = library[int(index)]
            points = thing.vertices - (thing.vertices.min(0) + thing.vertices.max(0)) / 2
            points = points[:, [0, 2, 1]] * np.float32([1, -1, 1]) * (0.999 / np.ptp(points, axis=0).max())
            yield Subject(thing.name, partial(voxelised, points, thing.faces, side), side, target)
    if options.synthetic:
        yield Subject("synthetic", synthetic, LARGE_SIDE, LARGE_FACES)


def synthetic() -> Surface:
    """A closed bumpy ball of one wall."""
    return repaired(synthetic_asset(LARGE_SIDE).grid)


def voxelised(vertices: np.ndarray, faces: np.ndarray, side: int) -> Surface:
    """A mesh through the voxel grid and the clean-up, as the finisher sees it."""
    mesh = Mesh(torch.from_numpy(np.ascontiguousarray(vertices)).float(), torch.from_numpy(faces).int())
    return repaired(mesh_to_dual_grid(mesh, side))


def repaired(grid: DualGrid) -> Surface:
    mesh = dual_grid_to_mesh(grid)
    return repair(Surface(mesh.vertices.numpy(), mesh.faces.numpy()), voxel=1 / grid.resolution)


def by_pyfqmr(surface: Surface, target: int) -> Surface:
    import pyfqmr

    simplifier = pyfqmr.Simplify()
    simplifier.setMesh(surface.vertices.astype(np.float64), surface.faces)
    simplifier.simplify_mesh(target_count=target, aggressiveness=7, preserve_border=True, verbose=False)
    vertices, faces, _ = simplifier.getMesh()
    return Surface(np.asarray(vertices, np.float32), np.asarray(faces, np.int32))


def sampled(surface: Surface, count: int) -> np.ndarray:
    """Points float32 [count, 3] spread evenly over the area; the same in every run."""
    random = np.random.default_rng(0)
    area = np.cumsum(np.linalg.norm(face_cross(surface), axis=1))
    face = np.searchsorted(area, (np.arange(count) + random.random(count)) / count * area[-1]).clip(0, len(area) - 1)
    weight = random.random((count, 2))
    weight = np.where(weight.sum(1, keepdims=True) > 1, 1 - weight, weight)
    corner = surface.vertices[surface.faces[face]].astype(np.float64)
    sides = corner[:, 1:] - corner[:, :1]
    return (corner[:, 0] + (weight[:, :, None] * sides).sum(1)).astype(np.float32)


def distances(small: Surface, full: Surface, tree: Tree, count: int) -> np.ndarray:
    """Distances of `count` sampled points of each surface to the other, world units."""
    here, there = sampled(small, count), sampled(full, count)
    gaps = (closest_points(tree, here)[0] - here, closest_points(build_tree(small), there)[0] - there)
    return np.linalg.norm(np.concatenate(gaps).astype(np.float64), axis=1)


def flipped(small: Surface, full: Surface, tree: Tree, voxel: float) -> int:
    """Faces that look away from every face of the whole surface that is as near to their centre as the nearest one,
    give or take a quarter of a voxel: where walls touch, the nearest one may belong to the other wall."""
    cross, centre = face_cross(small), small.vertices[small.faces].mean(axis=1)
    step = NEAR * voxel * cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-30)
    nearest, _ = closest_points(tree, centre)
    limit = np.linalg.norm(nearest - centre, axis=1) + NEAR * voxel
    agrees = np.zeros(len(cross), dtype=bool)
    for offset in (0.0, step, -step):
        near = closest_points(tree, (centre + offset).astype(np.float32))[1]
        agrees |= (cross * face_cross(full)[near]).sum(axis=1) > 0
    full = full.keep_faces(np.argsort(full.vertices[full.faces, 0].min(axis=1)))
    corners, ahead = full.vertices[full.faces], face_cross(full)
    low, high = corners.min(axis=1), corners.max(axis=1)
    widest = (high - low)[:, 0].max()
    for face in np.flatnonzero(~agrees):
        reach = centre[face] - limit[face], centre[face] + limit[face]
        part = slice(*np.searchsorted(low[:, 0], (reach[0][0] - widest, reach[1][0])))
        close = ((low[part] <= reach[1]) & (high[part] >= reach[0])).all(axis=1) & (ahead[part] @ cross[face] > 0)
        if close.any():
            wall = build_tree(full.keep_faces(part.start + np.flatnonzero(close)))
            gap = closest_points(wall, centre[face : face + 1])[0] - centre[face]
            agrees[face] = np.linalg.norm(gap) <= limit[face]
    return int((~agrees).sum())


def measured(
    run: Callable[[], Surface], full: Surface, tree: Tree, voxel: float, options: argparse.Namespace
) -> dict[str, object]:
    """The best of some runs and what came out; distances in voxels."""
    seconds = []
    for _ in range(options.repeats):
        begin = time.perf_counter()
        small = run()
        seconds.append(time.perf_counter() - begin)
    gap = distances(small, full, tree, options.samples) / voxel
    edges = edge_table(small)
    return {
        "faces": len(small.faces), "seconds": round(min(seconds), 3), "mean": round(float(gap.mean()), 5),
        "p95": round(float(np.quantile(gap, 0.95)), 5), "non_manifold": int((edges.counts > 2).sum()),
        "border": int((edges.counts == 1).sum()), "flipped": flipped(small, full, tree, voxel),
    }  # fmt: skip


def on_device(surface: Surface, target: int, device: torch.device) -> Callable[[], Surface]:
    """A call that simplifies on a GPU; the mesh is there already, the result is left there until it is measured."""
    mesh = Mesh(torch.from_numpy(surface.vertices).to(device), torch.from_numpy(surface.faces).to(device))
    simplify_mesh(mesh, target)

    def run() -> Surface:
        small = simplify_mesh(mesh, target)
        settle(device)
        return Surface(small.vertices.cpu().numpy(), small.faces.cpu().numpy())

    return run


def compared(subject: Subject, options: argparse.Namespace) -> list[dict[str, object]]:
    """A row for each tool; none where the surface has no more faces than wanted."""
    device, target, voxel = torch.device(options.device), subject.target, 1 / subject.side
    full = subject.make()
    if len(full.faces) <= target:
        return []
    tools: dict[str, Callable[[], Surface]] = {"cpu": partial(simplify, full, target)}
    if device.type == "cuda":
        tools["gpu"] = on_device(full, target, device)
    if importlib.util.find_spec("pyfqmr"):
        tools["pyfqmr"] = partial(by_pyfqmr, full, target)
    tools = {tool: run for tool, run in tools.items() if tool in options.tools.split(",")}
    tree = build_tree(full)
    about = {"name": subject.name, "from": len(full.faces), "target": target}
    return [{**about, "tool": tool, **measured(run, full, tree, voxel, options)} for tool, run in tools.items()]


def compare(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """The rows of every subject; pyfqmr's of an earlier run where it is not installed."""
    known: dict[str, dict[str, object]] = {}
    if options.json and options.json.is_file() and not importlib.util.find_spec("pyfqmr"):
        known = {row["name"]: row for row in json.loads(options.json.read_text())["rows"] if row["tool"] == "pyfqmr"}
    simplify(repaired(synthetic_asset(64).grid), 1000)
    for rows in in_processes(partial(compared, options=options), subjects(options), options.jobs):
        yield from rows
        if rows and rows[0]["name"] in known:
            yield known[str(rows[0]["name"])]


def totals(rows: list[dict[str, object]]) -> dict[str, object]:
    """Means and sums by tool, and the surfaces on which ours breaks a promise or is worse than pyfqmr."""
    by_tool: dict[str, dict[str, dict]] = {}
    for row in rows:
        by_tool.setdefault(str(row["tool"]), {})[str(row["name"])] = row
    table: dict[str, object] = {}
    for tool, found in by_tool.items():
        table[tool] = {
            "surfaces": len(found),
            **{key: round(float(np.mean([row[key] for row in found.values()])), 5) for key in ("mean", "p95")},
            **{key: sum(row[key] for row in found.values()) for key in ("flipped", "non_manifold")},
        }
        theirs = by_tool.get("pyfqmr", {})
        table[f"{tool} fails"] = [
            name for name, row in found.items()
            if row["flipped"] or row["non_manifold"] or row["faces"] > row["target"]
            or any(row[key] > theirs[name][key] + SLACK for key in ("mean", "p95") if name in theirs)
        ]  # fmt: skip
    table.pop("pyfqmr fails", None)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--objects", type=int, default=6, help="how many objects of the library")
    parser.add_argument("--every", type=int, default=1, help="take every n-th of them only")
    parser.add_argument("--start", type=int, default=0, help="the first of them taken")
    parser.add_argument("--tools", default="cpu,gpu,pyfqmr", help="which to run, where they are there")
    parser.add_argument("--side", type=int, default=256, help="voxels along a side")
    parser.add_argument("--faces", type=int, default=50_000)
    parser.add_argument("--samples", type=int, default=200_000, help="points on each surface")
    parser.add_argument("--library", type=Path, default=SHARED / "data/dev.npz", help="mesh collection")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the surfaces")
    parser.add_argument("--library-only", dest="synthetic", action="store_false", help="objects of the library only")
    parser.add_argument("--json", type=Path, help="JSON of a run with pyfqmr, for its figures")
    parser.add_argument("--untested", action="store_true", help="do not run the tests first")
    options = parser.parse_args()
    command = [sys.executable, "-m", "pytest", "-q", *TESTS]
    if not options.untested and subprocess.run(command, cwd=ROOT, check=False).returncode:
        return 1
    rows = []
    for row in compare(options):
        rows.append(row)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    for name, value in totals(rows).items():
        print(f"{name}: {value}")
    about = {"machine": machine(torch.device(options.device)), "samples": options.samples, "jobs": options.jobs}
    print(json.dumps({**about, "totals": totals(rows), "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
