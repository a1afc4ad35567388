"""The steps of one round of edge collapses on a closed surface, every edge taking part.

PYTHONPATH=kernels python kernels/benchmarks/edge_collapse.py [--device cpu|cuda] [--rows N]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields

import torch
from benchmarks.mesh_links import bumpy_torus
from benchmarks.workload import Case, benchmark
from trellis_kernels.choice import REFERENCE
from trellis_kernels.edge_collapse.op import (
    NEVER,
    CollapseMesh,
    Verdict,
    edge_keys,
    examine,
    independent_edges,
    merge,
    unit_normals,
)
from trellis_kernels.mesh_links.op import link, plane_quadrics


def cases(device: torch.device, rows: int) -> Iterator[Case]:
    """Price, pick, examine; merging changes the mesh, so each call merges a copy of it."""
    points, faces = bumpy_torus(rows, device)
    links = link(faces, len(points))
    ends = torch.stack([faces.view(-1)[links.halves], faces[:, [1, 2, 0]].reshape(-1)[links.halves]], dim=1)
    mesh = CollapseMesh(
        points, plane_quadrics(points, faces, pull=2e-5), links.border, faces, unit_normals(points, faces),
        torch.ones(len(faces), dtype=torch.bool, device=device), links.head, links.tail, links.following, ends,
        torch.zeros(len(ends), dtype=torch.int8, device=device),
    )  # fmt: skip
    keys = edge_keys(mesh)[1]
    picked = independent_edges(mesh, keys, NEVER - 1)
    verdict = examine(mesh, picked)
    size = f"{len(ends):,} edges"
    yield Case(f"edge_keys, {size}", lambda: edge_keys(mesh))
    yield Case(
        f"independent_edges, {size}",
        lambda: independent_edges(mesh, keys, NEVER - 1),
        lambda: independent_edges(mesh, keys, NEVER - 1, implementation=REFERENCE),
    )
    yield Case(f"examine, {len(picked):,} of {size}", lambda: examine(mesh, picked))
    allowed = verdict.vanishing > 0
    fits = Verdict(verdict.vanishing[allowed], verdict.points[allowed], verdict.quadrics[allowed])

    def merged() -> None:
        copy = CollapseMesh(**{field.name: getattr(mesh, field.name).clone() for field in fields(mesh)})
        merge(copy, picked[allowed], fits)

    yield Case(f"merge, {int(allowed.sum()):,} of {size}, with a copy of the mesh", merged)


if __name__ == "__main__":
    sys.exit(benchmark("edge_collapse", cases))
