"""Previews of a stage's result: a GLB for the 3D viewer and a picture for everybody, WebGL or not."""

from __future__ import annotations

from pathlib import Path

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
    return encode_png(render_preview_rgba(result, PICTURE_SIDE))
