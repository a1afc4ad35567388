"""Files for 3D printers: STL and 3MF of a closed surface in millimetres, Z up, standing on the plate at the origin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from trellis_app.errors import EmptyAssetError
from trellis_app.export.archive import zip_chunks
from trellis_app.export.finish import decoded_surface
from trellis_app.export.source import ExportSource, Part
from trellis_app.export.text import text_rows
from trellis_app.mesh.bake import attributes_at
from trellis_app.mesh.health import report
from trellis_app.mesh.modes import prepare_surface
from trellis_app.mesh.simplify import simplify
from trellis_app.mesh.surface import Surface, face_cross, weld_vertices
from trellis_app.progress import Check, go_on
from trellis_app.types import OVoxel

_DECIMALS = 5  # of millimetres
_COLOR_LEVELS = 31  # of each channel: few enough for one colour group
_STL_ROW = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("spare", "<u2")])
_CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
_MATERIAL = "http://schemas.microsoft.com/3dmanufacturing/material/2015/02"
_XML = '<?xml version="1.0" encoding="UTF-8"?>\n'
_TYPES = (
    f'{_XML}<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="model" ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/></Types>'
)
_RELATIONS = (
    f'{_XML}<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Target="/3D/3dmodel.model" Id="rel0" Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/>'
    "</Relationships>"
)


@dataclass(frozen=True)
class PrintModel:
    """A closed surface ready to print."""

    vertices: np.ndarray  # float32 [V, 3] mm, Z up, the box begins at the origin
    faces: np.ndarray  # int32 [F, 3] wound outward
    colors: np.ndarray  # uint8 [V, 3] sRGB


def print_model(source: ExportSource, check: Check = go_on) -> PrintModel:
    """The asset as a closed surface: its own triangles if it was finished watertight, else made anew from the voxels
    with the same face budget. The longest side has `options.size_mm`.

    Raises EmptyAssetError where no closed surface can be made.
    """
    surface, colors = source.memo("closed surface", lambda: _closed(source, check))
    low, high = surface.vertices.min(axis=0), surface.vertices.max(axis=0)
    scale = source.options.size_mm / float((high - low).max())
    vertices = ((surface.vertices.astype(np.float64) - low) * scale).astype(np.float32)
    return PrintModel(vertices, surface.faces, colors)


def _closed(source: ExportSource, check: Check) -> tuple[Surface, np.ndarray]:
    """(closed surface in world units, colours of its vertices uint8 [V, 3])."""
    asset, voxels = source.asset, source.voxels
    if source.finish.surface == "watertight":
        own = weld_vertices(Surface(asset.vertices, asset.faces))
        if report(own.vertices, own.faces).watertight:
            used = np.unique(own.faces)
            return own.compacted(), asset.colors[used, :3]
    closed = prepare_surface(decoded_surface(voxels), "watertight", voxel=1.0 / voxels.grid.resolution, check=check)
    if not len(closed.faces):
        raise EmptyAssetError("Nothing that can be printed was left.", "Try another seed or another picture.")
    check()
    surface = _simplified(closed, source.finish.faces, check)
    check()
    return surface, _colors_at(voxels, surface.vertices)


def _simplified(closed: Surface, faces: int, check: Check) -> Surface:
    """At most so many faces, or twice, four times .. as many where the surface would not stay closed with fewer."""
    while faces < len(closed.faces):
        surface = simplify(closed, faces, check=check).compacted()
        if report(surface.vertices, surface.faces, weld=True).watertight:
            return surface
        faces *= 2
    return closed.compacted()


def _colors_at(voxels: OVoxel, points: np.ndarray) -> np.ndarray:
    values = attributes_at(voxels, torch.from_numpy(points))[:, :3]
    return np.rint(255.0 * values.cpu().numpy()).astype(np.uint8)


def stl_chunks(model: PrintModel) -> list[bytes]:
    """Binary STL; the size in mm stands in the header, as the format has no unit."""
    cross = face_cross(Surface(model.vertices, model.faces))
    length = np.linalg.norm(cross, axis=1, keepdims=True)
    rows = np.zeros(len(model.faces), _STL_ROW)
    rows["normal"] = cross / np.where(length > 0, length, 1.0)
    rows["corners"] = model.vertices[model.faces]
    sides = " x ".join(f"{side:.2f}" for side in model.vertices.max(axis=0))
    header = f"trellis-app, millimetres, Z up, {sides}".encode("ascii")[:80]
    return [header.ljust(80), np.uint32(len(rows)).tobytes(), rows.tobytes()]


def threemf_chunks(model: PrintModel, check: Check = go_on) -> list[bytes]:
    """3MF (core specification 1.3, colours of the materials extension), millimetres."""
    parts = [
        Part("[Content_Types].xml", [_TYPES.encode()]),
        Part("_rels/.rels", [_RELATIONS.encode()]),
        Part("3D/3dmodel.model", _model_chunks(model, check)),
    ]
    return zip_chunks(parts, check=check)


def _model_chunks(model: PrintModel, check: Check) -> list[bytes]:
    levels = np.rint(model.colors * (_COLOR_LEVELS / 255.0)).astype(np.int64)
    codes, index = np.unique(levels @ np.array([1 << 16, 1 << 8, 1]), return_inverse=True)
    shown = np.rint(np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1) * (255.0 / _COLOR_LEVELS)).astype(
        int
    )
    palette = "".join(f'<m:color color="#{r:02X}{g:02X}{b:02X}"/>\n' for r, g, b in shown.tolist())
    triangles = np.concatenate([model.faces, index.reshape(-1)[model.faces]], axis=1)
    head = (
        f'{_XML}<model unit="millimeter" xml:lang="en-US" xmlns="{_CORE}" xmlns:m="{_MATERIAL}">\n'
        '<metadata name="Application">trellis-app</metadata>\n<resources>\n'
        f'<m:colorgroup id="1">\n{palette}</m:colorgroup>\n'
        '<object id="2" type="model" pid="1" pindex="0"><mesh><vertices>\n'
    )
    return [
        head.encode(),
        *text_rows(
            model.vertices.astype(np.float64),
            ('<vertex x="', '" y="', '" z="', '"/>\n'),
            decimals=_DECIMALS,
            check=check,
        ),
        b"</vertices><triangles>\n",
        *text_rows(
            triangles,
            ('<triangle v1="', '" v2="', '" v3="', '" pid="1" p1="', '" p2="', '" p3="', '"/>\n'),
            check=check,
        ),
        b'</triangles></mesh></object>\n</resources>\n<build><item objectid="2"/></build>\n</model>\n',
    ]
