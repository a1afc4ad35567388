"""Binary glTF 2.0, written by hand so that the same asset always gives the same bytes.

One node, one mesh, one atlas. Translucent faces become a second primitive with a blended material, so that the opaque
body keeps its depth writes in every viewer. Positions turn from Z up to glTF's Y up: (x, y, z) -> (x, z, -y).
"""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trellis_app.export.files import write_atomically
from trellis_app.types import FinishedAsset

GENERATOR = "trellis-app"
ALPHA_CUTOFF = 0.5
CLAY = (0.72, 0.70, 0.68, 1.0)  # linear base colour of meshes that have none yet

_ARRAY_BUFFER, _ELEMENT_BUFFER = 34962, 34963
_USHORT, _UINT, _FLOAT = 5123, 5125, 5126
_LINEAR, _MIPMAPPED, _CLAMP = 9729, 9987, 33071


def y_up(vectors: np.ndarray) -> np.ndarray:
    """Turn Z-up positions or directions [V, 3] into glTF's Y-up frame, float32."""
    out = np.empty(vectors.shape, dtype=np.float32)
    out[:, 0], out[:, 1], out[:, 2] = vectors[:, 0], vectors[:, 2], -vectors[:, 1]
    return out + np.float32(0.0)  # -0.0 becomes 0.0


def encode_png(pixels: np.ndarray) -> bytes:
    """PNG bytes of uint8 [H, W, 3 or 4]; the same pixels give the same bytes."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", compress_level=4)
    return stream.getvalue()


@dataclass
class _Document:
    """The JSON tree and the binary chunk while they grow together."""

    tree: dict[str, Any]
    blobs: list[bytes] = field(default_factory=list)
    length: int = 0

    def view(self, data: bytes, *, target: int | None = None) -> int:
        """Append one 4-byte aligned buffer view and return its index."""
        entry: dict[str, Any] = {"buffer": 0, "byteOffset": self.length, "byteLength": len(data)}
        if target is not None:
            entry["target"] = target
        padding = -len(data) % 4
        self.blobs.append(data + b"\0" * padding)
        self.length += len(data) + padding
        return self.add("bufferViews", entry)

    def accessor(self, array: np.ndarray, kind: str, component: int, **extra: Any) -> int:
        """Append an array with its buffer view and return the accessor's index."""
        target = _ELEMENT_BUFFER if kind == "SCALAR" else _ARRAY_BUFFER
        view = self.view(np.ascontiguousarray(array).tobytes(), target=target)
        entry = {"bufferView": view, "componentType": component, "count": len(array), "type": kind, **extra}
        return self.add("accessors", entry)

    def add(self, name: str, entry: dict[str, Any]) -> int:
        """Append to a list of the tree and return the index."""
        entries: list[dict[str, Any]] = self.tree.setdefault(name, [])
        entries.append(entry)
        return len(entries) - 1

    def indices(self, faces: np.ndarray, vertex_count: int) -> int:
        """Append triangle corners in the smallest index type that may be used."""
        small = vertex_count < 65_535
        flat = faces.reshape(-1).astype(np.uint16 if small else np.uint32)
        return self.accessor(flat, "SCALAR", _USHORT if small else _UINT)

    def positions(self, vertices: np.ndarray) -> int:
        """Append Z-up vertices as the POSITION attribute."""
        turned = y_up(vertices)
        low, high = [[float(v) for v in bound] for bound in (turned.min(axis=0), turned.max(axis=0))]
        return self.accessor(turned, "VEC3", _FLOAT, min=low, max=high)

    def chunks(self) -> list[bytes]:
        """The whole file: header, JSON chunk, binary chunk."""
        self.tree["buffers"] = [{"byteLength": self.length}]
        text = json.dumps(self.tree, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()
        text += b" " * (-len(text) % 4)
        total = 12 + 8 + len(text) + 8 + self.length
        header = struct.pack("<4sII", b"glTF", 2, total) + struct.pack("<I4s", len(text), b"JSON")
        return [header, text, struct.pack("<I4s", self.length, b"BIN\0"), *self.blobs]


def _linear(srgb: np.ndarray) -> np.ndarray:
    """Linear light of sRGB values in [0, 1] (IEC 61966-2-1); glTF vertex colours are linear."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _document(extras: dict[str, Any] | None) -> _Document:
    asset: dict[str, Any] = {"version": "2.0", "generator": GENERATOR}
    if extras:
        asset["extras"] = extras
    return _Document({"asset": asset, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0, "name": "asset"}]})


def _texture(document: _Document, pixels: np.ndarray, name: str) -> dict[str, int]:
    view = document.view(encode_png(pixels))
    image = document.add("images", {"bufferView": view, "mimeType": "image/png", "name": name})
    return {"index": document.add("textures", {"sampler": 0, "source": image})}


def _textured_materials(document: _Document, asset: FinishedAsset) -> list[int]:
    """One material, or two (opaque, blended) when only some faces are translucent."""
    textures = asset.textures
    has_alpha = textures.alpha_mode != "OPAQUE"
    pixels = textures.base_color if has_alpha else np.ascontiguousarray(textures.base_color[..., :3])
    document.add("samplers", {"magFilter": _LINEAR, "minFilter": _MIPMAPPED, "wrapS": _CLAMP, "wrapT": _CLAMP})
    surface = {
        "baseColorTexture": _texture(document, pixels, "base_color"),
        "metallicRoughnessTexture": _texture(document, textures.metallic_roughness, "metallic_roughness"),
    }
    split = textures.alpha_mode == "BLEND" and asset.translucent_faces < len(asset.faces)
    materials = []
    for mode in ("OPAQUE", "BLEND") if split else (textures.alpha_mode,):
        entry: dict[str, Any] = {"name": f"surface_{mode.lower()}", "pbrMetallicRoughness": surface}
        if mode != "OPAQUE":
            entry["alphaMode"] = mode
        if mode == "MASK":
            entry["alphaCutoff"] = ALPHA_CUTOFF
        if asset.double_sided or mode == "BLEND":
            entry["doubleSided"] = True
        materials.append(document.add("materials", entry))
    return materials


def write_glb(asset: FinishedAsset, path: str | Path, *, extras: dict[str, Any] | None = None) -> Path:
    """Write a textured PBR GLB (Y up, PNG textures); the same asset and extras give the same bytes.

    `extras` (JSON-serialisable: settings, seeds, versions) is stored under `asset.extras`.
    Raises MachineError when the file cannot be written; nothing half-written is left behind.
    """
    document = _document(extras)
    attributes = {
        "POSITION": document.positions(asset.vertices),
        "NORMAL": document.accessor(y_up(asset.normals), "VEC3", _FLOAT),
        "TEXCOORD_0": document.accessor(asset.uvs.astype(np.float32), "VEC2", _FLOAT),
    }
    materials = _textured_materials(document, asset)
    first_translucent = len(asset.faces) - asset.translucent_faces if len(materials) == 2 else len(asset.faces)
    groups = (asset.faces[:first_translucent], asset.faces[first_translucent:])
    primitives = [
        {"attributes": attributes, "indices": document.indices(faces, len(asset.vertices)), "material": material}
        for faces, material in zip(groups, materials, strict=False)
        if len(faces)
    ]
    document.add("meshes", {"name": "asset", "primitives": primitives})
    return write_atomically(path, document.chunks())


def write_preview_glb(vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray | None, path: str | Path) -> Path:
    """Write a stage preview: vertices [V, 3] (Z up), faces [F, 3], colours uint8 sRGB [V, 3 or 4] or None for clay.

    No normals are stored, so viewers shade each face flat. Raises MachineError when the file cannot be written.
    """
    document = _document(None)
    attributes = {"POSITION": document.positions(vertices)}
    surface: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 0.85}
    if colors is None:
        surface["baseColorFactor"] = list(CLAY)
    else:
        rgba = np.full((len(colors), 4), 65_535, dtype=np.uint16)
        rgba[:, :3] = np.rint(65_535.0 * _linear(colors[:, :3] / 255.0))
        attributes["COLOR_0"] = document.accessor(rgba, "VEC4", _USHORT, normalized=True)
    document.add("materials", {"name": "preview", "pbrMetallicRoughness": surface, "doubleSided": True})
    primitive = {"attributes": attributes, "indices": document.indices(faces, len(vertices)), "material": 0}
    document.add("meshes", {"name": "preview", "primitives": [primitive]})
    return write_atomically(path, document.chunks())
