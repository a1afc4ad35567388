"""PLY mesh with vertex colours, binary little-endian, Y up."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trellis_app.export.files import write_atomically
from trellis_app.export.gltf import y_up
from trellis_app.types import FinishedAsset

_VERTEX = np.dtype([("position", "<f4", 3), ("color", "u1", 4)])
_FACE = np.dtype([("count", "u1"), ("corners", "<i4", 3)])


def weld(vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(first row of each distinct position in order of appearance, new index of every vertex)."""
    keys = np.ascontiguousarray(vertices).view(np.dtype((np.void, 12))).reshape(-1)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse.reshape(-1)]


def ply_chunks(asset: FinishedAsset) -> list[bytes]:
    """Positions, sRGB + alpha vertex colours and triangles; vertices split at UV seams are joined again."""
    turned = y_up(asset.vertices)
    keep, index = weld(turned)
    vertices = np.empty(len(keep), dtype=_VERTEX)
    vertices["position"], vertices["color"] = turned[keep], asset.colors[keep]
    faces = np.empty(len(asset.faces), dtype=_FACE)
    faces["count"], faces["corners"] = 3, index[asset.faces]
    header = "\n".join(
        (
            "ply",
            "format binary_little_endian 1.0",
            f"element vertex {len(vertices)}",
            *(f"property float {axis}" for axis in "xyz"),
            *(f"property uchar {channel}" for channel in ("red", "green", "blue", "alpha")),
            f"element face {len(faces)}",
            "property list uchar int vertex_indices",
            "end_header\n",
        )
    )
    return [header.encode("ascii"), vertices.tobytes(), faces.tobytes()]


def write_ply(asset: FinishedAsset, path: str | Path) -> Path:
    """Write what `ply_chunks` makes. Raises MachineError when the file cannot be written; nothing half is left."""
    return write_atomically(path, ply_chunks(asset))
