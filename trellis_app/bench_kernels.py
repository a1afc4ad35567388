"""Seconds of every op at the sizes of real assets, beside other packages where they are installed: `bench kernels`.

Each result is compared with the op's reference first; what differs is reported and not timed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from benchmarks.workload import measure

from trellis_app.bench import commit, machine
from trellis_app.errors import SettingsError

VOXELS = {256: 140_000, 512: 590_000, 1024: 2_360_000, 1536: 5_300_000}  # of a decoded surface, by resolution
BY_VOXELS = (
    "sparse_conv",
    "neighbour_map",
    "voxel_index",
    "grid_sample",
    "dual_grid_faces",
    "mesh_links",
    "edge_collapse",
    "lattice_crossings",
    "lattice_rays",
    "row_ops",
)
ONCE = ("attention", "rasterise", "voxel_octree", "mesh_to_dual_grid", "mesh_attributes")  # with sizes of their own
OPS = BY_VOXELS + ONCE


def bench_kernels(
    ops: Sequence[str], resolutions: Sequence[int], device: torch.device, note: Callable[[str], None]
) -> dict[str, Any]:
    """Rows of figures of the named ops; `note` gets each one as a line of text when it is there.

    Raises SettingsError for an op or a resolution that is not offered.
    """
    if unknown := [op for op in ops if op not in OPS]:
        raise SettingsError(f"There is no benchmark of {', '.join(unknown)}.", f"Choose from {', '.join(OPS)}.")
    if unknown := [str(size) for size in resolutions if size not in VOXELS]:
        raise SettingsError(
            f"There is no workload of {', '.join(unknown)}³.", f"Choose from {', '.join(map(str, VOXELS))}."
        )
    rows: list[dict[str, object]] = []
    for op in ops:
        cases = importlib.import_module(f"benchmarks.{op}").cases
        for resolution in resolutions if op in BY_VOXELS else resolutions[:1]:
            for case in cases(device, VOXELS[resolution]):
                rows.append({"op": op, "resolution": resolution, **measure(case, device)})
                note(line(rows[-1]))
    return {"rows": rows, "machine": machine(str(device)), "commit": commit()}


def line(row: dict[str, object]) -> str:
    """One row as text: milliseconds, the rate, and the peer's milliseconds."""
    if "failed" in row:
        return f"{row['op']:18}{row['case']}: {row['failed']} ({row['difference']:.1e})"
    rate = f"{row['gflop_per_second']:10.0f} GFLOP/s" if "gflop_per_second" in row else ""
    theirs = row.get("peer_seconds", "")
    if isinstance(theirs, float):
        theirs = f"{1e3 * theirs:.3f} ms, first call {row['peer_first_seconds']:.1f} s"
    peer = f"   {row['peer']}: {theirs}" if "peer" in row else ""
    ours = f"{1e3 * row['seconds']:10.3f} ms, first call {row['first_seconds']:4.1f} s"  # type: ignore[operator]
    return f"{row['op']:18}{row['case']:64}{ours}{rate}{peer}"
