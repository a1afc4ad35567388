"""The promises of the surface modes over many surfaces, counted: `bench surfaces`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from trellis_app.bench import commit, machine
from trellis_app.errors import MeshError
from trellis_app.mesh.surface import Surface
from trellis_app.mesh.survey import Case, Finding, Recipe, examined, object_case, random_cases, summary
from trellis_app.parallel import in_processes

_GOLDEN_RESOLUTIONS = (16, 32, 64)
_ARRAYS = ("names", "vertex_offsets", "face_offsets", "vertices", "faces")


def library_cases(path: Path, resolution: int, limit: int | None) -> Iterator[Recipe]:
    """The objects of an npz collection (../shared/data/README.md), decoded at a resolution; evenly many if limited.

    Raises MeshError where the file is no such collection.
    """
    if not path.is_file():
        raise MeshError(f"There is no library at {path}.", "Give an npz collection of objects.")
    with np.load(path) as data:
        if not set(_ARRAYS) <= set(data.files):
            raise MeshError(f"{path} is no object library.", f"It needs the arrays {', '.join(_ARRAYS)}.")
        names, starts, ends, points, faces = (data[name] for name in _ARRAYS)
    step = 1 if limit is None else max(1, -(-len(names) // limit))
    for i in range(0, len(names), step):
        vertices = points[starts[i] : starts[i + 1]] / 65535 - 0.5
        longest = max(1.0, 2.0001 * np.abs(vertices).max())
        yield partial(object_case, str(names[i]), vertices / longest, faces[ends[i] : ends[i + 1]], resolution)


def golden_cases(path: Path) -> Iterator[Recipe]:
    """The golden meshes, as they are and decoded at 16, 32 and 64."""
    golden = load_file(path)
    for name in sorted({key.split(".")[0] for key in golden if key.endswith(".vertices")}):
        if name.startswith("aniso"):
            continue
        vertices, faces = golden[f"{name}.vertices"].astype(np.float32), golden[f"{name}.faces"].astype(np.int32)
        yield partial(Case, f"{name} as it is", Surface(vertices, faces), 1 / 64)
        for resolution in _GOLDEN_RESOLUTIONS:
            yield partial(object_case, f"{name} {resolution}", vertices, faces, resolution)


def bench_surfaces(
    library: Path | None,
    golden: Path | None,
    *,
    sets: int,
    resolution: int,
    limit: int | None,
    jobs: int,
    note: Callable[[str], None],
) -> dict[str, object]:
    """Survey single and watertight mode over a library, the golden meshes and random voxel sets; counts by source.

    jobs: processes that share the work. note: called with one line for every surface.
    """
    recipes: list[tuple[str, Recipe]] = []
    if library is not None:
        recipes += [("library", recipe) for recipe in library_cases(library, resolution, limit)]
    if golden is not None:
        recipes += [("golden", recipe) for recipe in golden_cases(golden)]
    recipes += [("random", partial(Case, case.name, case.surface, case.voxel)) for case in random_cases(sets)]
    start = time.perf_counter()
    findings: dict[str, list[Finding]] = {}
    found = in_processes(examined, [recipe for _, recipe in recipes], jobs)
    for (source, _), finding in zip(recipes, found, strict=True):
        note(finding.line())
        findings.setdefault(source, []).append(finding)
    seconds = round(time.perf_counter() - start, 1)
    report: dict[str, object] = {source: summary(rows) for source, rows in findings.items()}
    return {**report, "seconds": seconds, "jobs": jobs, "machine": machine("cpu"), "commit": commit()}
