"""The steps of one round of edge collapses on a closed surface, every edge taking part.

PYTHONPATH=kernels python kernels/benchmarks/edge_collapse.py [--device cpu|cuda] [--rows N]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from benchmarks.mesh_links import bumpy_torus
from benchmarks.workload import benchmark, milliseconds
from trellis_kernels.edge_collapse.op import NEVER, CollapseMesh, Verdict, edge_keys, examine, independent_edges, merge
from trellis_kernels.mesh_links.op import link, plane_quadrics


def cases(device: torch.device, rows: int) -> Iterator[dict[str, object]]:
    """Price, pick, examine; merging changes the mesh, so it is timed once."""
    points, faces = bumpy_torus(rows, device)
    links = link(faces, len(points))
    ends = torch.stack([faces.view(-1)[links.halves], faces[:, [1, 2, 0]].reshape(-1)[links.halves]], dim=1)
    mesh = CollapseMesh(
        points, plane_quadrics(points, faces, pull=2e-5), links.border, faces,
        torch.ones(len(faces), dtype=torch.bool, device=device), links.head, links.tail, links.following, ends,
        torch.zeros(len(ends), dtype=torch.int8, device=device),
    )  # fmt: skip
    keys = edge_keys(mesh)[1]
    picked = independent_edges(mesh, keys, NEVER - 1)
    verdict = examine(mesh, picked)
    row: dict[str, object] = {"edges": len(ends), "picked": len(picked)}
    yield row | {"case": "edge_keys", "ms": milliseconds(lambda: edge_keys(mesh), device)}
    picking = milliseconds(lambda: independent_edges(mesh, keys, NEVER - 1), device)
    yield row | {"case": "independent_edges", "ms": picking}
    yield row | {"case": "examine", "ms": milliseconds(lambda: examine(mesh, picked), device)}
    allowed = verdict.vanishing > 0
    fits = Verdict(verdict.vanishing[allowed], verdict.points[allowed], verdict.quadrics[allowed])
    merging = milliseconds(lambda: merge(mesh, picked[allowed], fits), device, repeats=1, warm=0)
    yield row | {"case": "merge", "ms": merging}


if __name__ == "__main__":
    sys.exit(benchmark("edge_collapse", cases))
