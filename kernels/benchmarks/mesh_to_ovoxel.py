"""Mesh -> O-Voxel on one core, beside the original's seconds (spec/geometry.md section 9).

PYTHONPATH=kernels python kernels/benchmarks/mesh_to_ovoxel.py [--runs 5] [--resolutions 256,512,1024]

Passes the tests of both ops, then times every row of the table on one core, best of the runs; the last line is JSON.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from benchmarks.mesh_to_dual_grid import sphere
from benchmarks.workload import ROOT, report
from trellis_kernels.mesh_attributes.op import textured_attributes
from trellis_kernels.mesh_attributes.surface import Material, Texture, TexturedMesh
from trellis_kernels.mesh_to_dual_grid.op import GridBox, mesh_to_dual_grid

# Least seconds of the original, by step, faces and resolution.
ORIGINAL = {
    "geometry": {81_920: {256: 0.4, 512: 1.7, 1024: 8.3}, 1_310_720: {256: 1.5, 512: 2.7, 1024: 8.7}},
    "attributes": {81_920: {256: 0.5, 512: 1.5, 1024: 6.5}, 1_310_720: {256: 0.9, 512: 2.2, 1024: 10.2}},
    "both": {81_920: {256: 0.9, 512: 3.3, 1024: 14.3}, 1_310_720: {256: 1.8, 512: 4.8, 1024: 20.8}},
}


def icosphere(levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A sphere of radius 0.49 of 20 * 4^levels triangles."""
    golden = (1 + 5**0.5) / 2
    short, long = np.meshgrid([-1, 1], [-golden, golden], indexing="ij")
    ring = np.stack([np.zeros(4), short.ravel(), long.ravel()], axis=1)
    points = np.concatenate([np.roll(ring, turn, axis=1) for turn in range(3)])
    apart = np.linalg.norm(points[:, None] - points, axis=2)
    near = (apart > 0) & (apart < 2.1)
    faces = np.array([(a, b, c) for a in range(12) for b in range(a) for c in range(b)])
    faces = faces[[near[a, b] and near[b, c] and near[a, c] for a, b, c in faces]]
    for _ in range(levels):
        sides = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
        pairs, index = np.unique(sides, axis=0, return_inverse=True)
        ab, bc, ca = index.reshape(3, -1) + len(points)
        points = np.concatenate([points, points[pairs].mean(axis=1)])
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        a, b, c = faces.T
        faces = np.concatenate([np.stack(t, 1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    return torch.from_numpy((0.49 * points).astype(np.float32)), torch.from_numpy(faces.astype(np.int32))


def best(run: Callable[[], object], runs: int) -> np.ndarray:
    """Least seconds [2] of a call after one to warm up: by the clock, and of the processor, which nobody shares."""
    run()
    times = []
    for _ in range(runs):
        begin = time.perf_counter(), time.process_time()
        run()
        times.append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
    return np.min(times, axis=0)


def measure(faces: int, levels: int, resolution: int, runs: int) -> list[dict[str, object]]:
    """The three rows of one mesh size at one resolution."""
    box, bare = GridBox.cube(resolution), icosphere(levels)
    vertices, index, uv = sphere(faces)
    random = np.random.default_rng(0)
    base, rest = (Texture(random.integers(0, 256, (1024, 1024, 4)).astype(np.uint8)) for _ in range(2))
    triangles = index.numpy()
    mesh = TexturedMesh(
        vertices.numpy(), triangles, uv.numpy()[triangles], np.zeros(len(triangles), np.int32),
        (Material(base, rest, rest),),
    )  # fmt: skip
    coords = mesh_to_dual_grid(vertices, index, box).coords.numpy()
    seconds = {
        "geometry": best(lambda: mesh_to_dual_grid(*bare, box), runs),
        "attributes": best(lambda: textured_attributes(mesh, coords, box), runs),
    }
    seconds["both"] = best(lambda: mesh_to_dual_grid(vertices, index, box), runs) + seconds["attributes"]
    return [
        {
            "step": step, "faces": faces, "resolution": resolution, "voxels": len(coords),
            "seconds": float(clock), "processor_seconds": float(processor),
            "original": ORIGINAL[step][faces][resolution],
            "times": ORIGINAL[step][faces][resolution] / float(clock),
        }
        for step, (clock, processor) in seconds.items()
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="Times mesh -> O-Voxel on one core after its tests have passed.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--resolutions", default="256,512,1024")
    options = parser.parse_args()
    tests = [f"tests/kernels/test_{op}.py" for op in ("mesh_to_dual_grid", "mesh_attributes")]
    if subprocess.run([sys.executable, "-m", "pytest", "-q", *tests], cwd=ROOT, check=False).returncode:
        return 1
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    sizes = [int(size) for size in options.resolutions.split(",")]
    shapes = ((81_920, 6), (1_310_720, 8))
    report(
        [row for shape in shapes for size in sizes for row in measure(*shape, size, options.runs)], torch.device("cpu")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
