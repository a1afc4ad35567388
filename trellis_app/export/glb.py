"""Binary glTF 2.0: one node, one mesh, one atlas.

Translucent faces become a second primitive with a blended material, so that the opaque body keeps its depth writes in
every viewer. Draco and WebP are extensions that a reader must know; plain files need none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from trellis_app.export import draco
from trellis_app.export.files import write_atomically
from trellis_app.export.gltf import CLAMP, FLOAT, LINEAR, MIPMAPPED, REPEAT, USHORT, Document, new_document, y_up
from trellis_app.export.maps import Map, encode_maps
from trellis_app.mesh.tangents import vertex_tangents
from trellis_app.progress import Check, go_on
from trellis_app.settings import FileOptions
from trellis_app.types import FinishedAsset

ALPHA_CUTOFF = 0.5
CLAY = (0.41, 0.35, 0.25, 1.0)  # linear base colour of meshes that have none yet; warm under the cool light of viewers
_WEBP = "EXT_texture_webp"


def _linear(srgb: np.ndarray) -> np.ndarray:
    """Linear light of sRGB values in [0, 1] (IEC 61966-2-1); glTF vertex colours are linear."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _texture(document: Document, stored: Map) -> dict[str, int]:
    view = document.view(stored.data)
    image = document.add("images", {"bufferView": view, "mimeType": stored.mime, "name": stored.name})
    entry: dict[str, Any] = {"sampler": 0, "name": stored.name}
    if stored.kind == "webp":
        entry["extensions"] = {document.extension(_WEBP): {"source": image}}
    else:
        entry["source"] = image
    return {"index": document.add("textures", entry)}


def _textured_materials(document: Document, asset: FinishedAsset, maps: dict[str, Map]) -> list[int]:
    """One material, or two (opaque, blended) when only some faces are translucent."""
    wrap = REPEAT if asset.textures.wrap == "repeat" else CLAMP
    document.add("samplers", {"magFilter": LINEAR, "minFilter": MIPMAPPED, "wrapS": wrap, "wrapT": wrap})
    textures = {name: _texture(document, stored) for name, stored in maps.items()}
    surface = {
        "baseColorTexture": textures["base_color"],
        "metallicRoughnessTexture": textures["metallic_roughness"],
    }
    split = asset.textures.alpha_mode == "BLEND" and asset.translucent_faces < len(asset.faces)
    materials = []
    for mode in ("OPAQUE", "BLEND") if split else (asset.textures.alpha_mode,):
        entry: dict[str, Any] = {"name": f"surface_{mode.lower()}", "pbrMetallicRoughness": surface}
        if "normal" in textures:
            entry["normalTexture"] = textures["normal"]
        if mode != "OPAQUE":
            entry["alphaMode"] = mode
        if mode == "MASK":
            entry["alphaCutoff"] = ALPHA_CUTOFF
        if asset.double_sided or mode == "BLEND":
            entry["doubleSided"] = True
        materials.append(document.add("materials", entry))
    return materials


def _primitives(
    document: Document, asset: FinishedAsset, materials: list[int], *, compress: bool, check: Check
) -> list[dict[str, Any]]:
    """The opaque faces and, with two materials, the translucent ones."""
    first_translucent = len(asset.faces) - asset.translucent_faces if len(materials) == 2 else len(asset.faces)
    groups = (asset.faces[:first_translucent], asset.faces[first_translucent:])
    filled = [(faces, material) for faces, material in zip(groups, materials, strict=False) if len(faces)]
    tangents = None if asset.textures.normal is None else _tangents(asset)
    check()
    if compress:
        primitives = []
        for faces, material in filled:
            primitives.append(draco.add_primitive(document, draco.pack(asset, faces, tangents), material))
            check()
        return primitives
    attributes = {
        "POSITION": document.positions(asset.vertices),
        "NORMAL": document.accessor(y_up(asset.normals), "VEC3", FLOAT),
        "TEXCOORD_0": document.accessor(asset.uvs.astype(np.float32), "VEC2", FLOAT),
    }
    if tangents is not None:
        attributes["TANGENT"] = document.accessor(tangents, "VEC4", FLOAT)
    return [
        {"attributes": attributes, "indices": document.indices(faces, len(asset.vertices)), "material": material}
        for faces, material in filled
    ]


def _tangents(asset: FinishedAsset) -> np.ndarray:
    """The frame that the normal map was baked in, Y up, float32 [V, 4]."""
    tangents = asset.tangents
    if tangents is None:
        tangents = vertex_tangents(asset.vertices, asset.faces, asset.normals, asset.uvs)
    return np.concatenate([y_up(tangents[:, :3]), tangents[:, 3:]], axis=1)


def glb_chunks(
    asset: FinishedAsset,
    *,
    extras: dict[str, Any] | None = None,
    options: FileOptions | None = None,
    check: Check = go_on,
) -> list[bytes]:
    """A textured PBR GLB (Y up) in pieces; the same asset, extras and options give the same bytes.

    `extras` (JSON-serialisable: settings, seeds, versions) is stored under `asset.extras`; options: texture format and
    Draco. Raises MachineError where Draco is asked for and DracoPy is missing.
    """
    options = options or FileOptions()
    if options.draco:
        draco.dracopy()
    document = new_document(extras)
    maps = encode_maps(asset.textures, options.texture_format, check)
    materials = _textured_materials(document, asset, maps)
    primitives = _primitives(document, asset, materials, compress=options.draco, check=check)
    document.add("meshes", {"name": "asset", "primitives": primitives})
    return document.chunks()


def write_glb(
    asset: FinishedAsset,
    path: str | Path,
    *,
    extras: dict[str, Any] | None = None,
    options: FileOptions | None = None,
) -> Path:
    """Write what `glb_chunks` makes. Raises MachineError when the file cannot be written; nothing half is left."""
    return write_atomically(path, glb_chunks(asset, extras=extras, options=options))


def write_preview_glb(vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray | None, path: str | Path) -> Path:
    """Write a stage preview: vertices [V, 3] (Z up), faces [F, 3], colours uint8 sRGB [V, 3 or 4] or None for clay.

    No normals are stored, so viewers shade each face flat. Raises MachineError when the file cannot be written.
    """
    document = new_document(name="preview")
    attributes = {"POSITION": document.positions(vertices)}
    surface: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 0.85}
    if colors is None:
        surface["baseColorFactor"] = list(CLAY)
    else:
        rgba = np.full((len(colors), 4), 65_535, dtype=np.uint16)
        rgba[:, :3] = np.rint(65_535.0 * _linear(colors[:, :3] / 255.0))
        attributes["COLOR_0"] = document.accessor(rgba, "VEC4", USHORT, normalized=True)
    document.add("materials", {"name": "preview", "pbrMetallicRoughness": surface, "doubleSided": True})
    primitive = {"attributes": attributes, "indices": document.indices(faces, len(vertices)), "material": 0}
    document.add("meshes", {"name": "preview", "primitives": [primitive]})
    return write_atomically(path, document.chunks())
