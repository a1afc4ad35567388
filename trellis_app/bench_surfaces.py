"""The promises of the surface modes over many surfaces, counted: `bench surfaces`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from trellis_app.bench import commit, machine
from trellis_app.errors import MeshError
from trellis_app.mesh.surface import Surface
from trellis_app.mesh.survey import Case, object_case, random_cases, survey

_GOLDEN_RESOLUTIONS = (16, 32, 64)
_ARRAYS = ("names", "vertex_offsets", "face_offsets", "vertices", "faces")


def library_cases(path: Path, resolution: int, limit: int | None) -> Iterator[Case]:
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
        yield object_case(str(names[i]), vertices / longest, faces[ends[i] : ends[i + 1]], resolution)


def golden_cases(path: Path) -> Iterator[Case]:
    """The golden meshes, as they are and decoded at 16, 32 and 64."""
    golden = load_file(path)
    for name in sorted({key.split(".")[0] for key in golden if key.endswith(".vertices")}):
        if name.startswith("aniso"):
            continue
        vertices, faces = golden[f"{name}.vertices"].astype(np.float32), golden[f"{name}.faces"].astype(np.int32)
        yield Case(f"{name} as it is", Surface(vertices, faces), 1 / 64)
        for resolution in _GOLDEN_RESOLUTIONS:
            yield object_case(f"{name} {resolution}", vertices, faces, resolution)


def bench_surfaces(
    library: Path | None,
    golden: Path | None,
    *,
    sets: int,
    resolution: int,
    limit: int | None,
    note: Callable[[str], None],
) -> dict[str, object]:
    """Survey single and watertight mode over a library, the golden meshes and random voxel sets; counts by source."""
    sources: dict[str, Iterator[Case]] = {}
    if library is not None:
        sources["library"] = library_cases(library, resolution, limit)
    if golden is not None:
        sources["golden"] = golden_cases(golden)
    sources["random"] = random_cases(sets)
    start = time.perf_counter()
    report: dict[str, object] = {name: survey(cases, ("single", "watertight"), note) for name, cases in sources.items()}
    return {**report, "seconds": round(time.perf_counter() - start, 1), "machine": machine("cpu"), "commit": commit()}
