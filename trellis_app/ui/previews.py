"""Previews of a stage's result: a GLB for the 3D viewer and a picture for everybody, WebGL or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from trellis_app.export.glb import write_preview_glb
from trellis_app.export.png import encode_png
from trellis_app.render.preview import preview_mesh, render_preview_rgba
from trellis_app.types import DualGrid, FinishedAsset, Mesh, Occupancy, OVoxel

PICTURE_SIDE = 640


def write_preview(result: Occupancy | DualGrid | Mesh | OVoxel, path: Path) -> Path:
    """Blocks, clay or vertex colours as a GLB."""
    mesh = preview_mesh(result)
    return write_preview_glb(mesh.vertices, mesh.faces, mesh.colors, path)


def render_preview(result: Occupancy | DualGrid | Mesh | OVoxel | FinishedAsset) -> bytes:
    """PNG with transparent background, seen from the front."""
    drawn = _in_unit_box(result) if isinstance(result, FinishedAsset) else result
    return encode_png(render_preview_rgba(drawn, PICTURE_SIDE))


def _in_unit_box(asset: FinishedAsset) -> FinishedAsset:
    """The asset where the renderer's lens is sharp; a textured mesh stands where its owner put it."""
    used = asset.vertices[asset.faces.reshape(-1)]
    low, high = used.min(axis=0), used.max(axis=0)
    return replace(asset, vertices=((asset.vertices - (low + high) / 2) / (high - low).max()).astype(np.float32))
