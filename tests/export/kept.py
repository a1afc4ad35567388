"""Small kept assets for the tests of the formats: a ring of voxels and a finished mesh of it made by hand."""

from __future__ import annotations

import numpy as np

from tests.voxel_shapes import Paint, gradient, ring, voxel_asset
from trellis_app.export.source import ExportSource
from trellis_app.mesh.health import report
from trellis_app.settings import FileOptions, FinishOptions
from trellis_app.types import FinishedAsset, Textures


def painted_maps(size: int, mode: str = "OPAQUE", *, normal: bool = True) -> Textures:
    """Maps with a different ramp in every channel; the normal map leans a little."""
    v, u = np.mgrid[0:size, 0:size] / max(size - 1, 1)
    base = np.stack([u, v, 1 - u, 0.2 + 0.8 * v], axis=2)
    data = np.stack([0 * u, 0.3 + 0.5 * v, u], axis=2)
    lean = np.stack([0.5 + 0.1 * u, 0.5 + 0.1 * v, 0.5 + 0.45 * np.ones_like(u)], axis=2)
    maps = [np.rint(255 * values).astype(np.uint8) for values in (base, data, lean)]
    return Textures(maps[0], maps[1], mode, maps[2] if normal else None)


def ring_source(
    mode: str = "OPAQUE",
    *,
    normal: bool = True,
    translucent: int = 0,
    options: FileOptions | None = None,
    resolution: int = 32,
    paint: Paint = gradient,
) -> ExportSource:
    """A ring whose UVs are split along a seam (unsorted positions occur twice), with 16 px textures."""
    mesh = ring()
    split = np.concatenate([np.arange(len(mesh.vertices)), mesh.faces[:40].reshape(-1)])
    faces = np.array(mesh.faces, np.int32)
    faces[:40] = len(mesh.vertices) + np.arange(120, dtype=np.int32).reshape(40, 3)
    vertices = np.array(mesh.vertices, np.float32)[split]
    angle = np.arctan2(vertices[:, 1], vertices[:, 0])
    uvs = np.stack([angle / (2 * np.pi) + 0.5, vertices[:, 2] / 0.24 + 0.5], axis=1).clip(0, 1).astype(np.float32)
    colors = np.rint(255 * paint(vertices)[:, [0, 1, 2, 5]]).astype(np.uint8)
    normals = np.array(mesh.vertex_normals, np.float32)[split]
    asset = FinishedAsset(
        vertices, faces, normals / np.linalg.norm(normals, axis=1, keepdims=True), uvs, colors,
        painted_maps(16, mode, normal=normal), translucent_faces=translucent, double_sided=False,
        counts={"faces": len(faces)}, health=report(vertices, faces, weld=True),
    )  # fmt: skip
    voxels = voxel_asset(mesh, resolution, paint)
    return ExportSource(asset, voxels, FinishOptions(faces=2000), options or FileOptions(), {"seed": 7})
