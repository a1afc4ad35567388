"""The glTF 2.0 document and its binary container, written by hand so that the same asset always gives the same bytes.

Positions turn from Z up to glTF's Y up: (x, y, z) -> (x, z, -y).
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

GENERATOR = "trellis-app"
USHORT, UINT, FLOAT = 5123, 5125, 5126
LINEAR, MIPMAPPED, CLAMP, REPEAT = 9729, 9987, 33071, 10497
_ARRAY_BUFFER, _ELEMENT_BUFFER = 34962, 34963


def y_up(vectors: np.ndarray) -> np.ndarray:
    """Turn Z-up positions or directions [V, 3] into glTF's Y-up frame, float32."""
    out = np.empty(vectors.shape, dtype=np.float32)
    out[:, 0], out[:, 1], out[:, 2] = vectors[:, 0], vectors[:, 2], -vectors[:, 1]
    return out + np.float32(0.0)  # -0.0 becomes 0.0


@dataclass
class Document:
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
        return self.accessor(flat, "SCALAR", USHORT if small else UINT)

    def positions(self, vertices: np.ndarray) -> int:
        """Append Z-up vertices as the POSITION attribute."""
        turned = y_up(vertices)
        low, high = [[float(v) for v in bound] for bound in (turned.min(axis=0), turned.max(axis=0))]
        return self.accessor(turned, "VEC3", FLOAT, min=low, max=high)

    def extension(self, name: str) -> str:
        """Declare an extension that readers must know; returns its name."""
        for key in ("extensionsUsed", "extensionsRequired"):
            names = self.tree.setdefault(key, [])
            if name not in names:
                names.append(name)
        return name

    def chunks(self) -> list[bytes]:
        """The whole file: header, JSON chunk, binary chunk."""
        self.tree["buffers"] = [{"byteLength": self.length}]
        text = json.dumps(self.tree, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()
        text += b" " * (-len(text) % 4)
        total = 12 + 8 + len(text) + 8 + self.length
        header = struct.pack("<4sII", b"glTF", 2, total) + struct.pack("<I4s", len(text), b"JSON")
        return [header, text, struct.pack("<I4s", self.length, b"BIN\0"), *self.blobs]


def new_document(extras: dict[str, Any] | None = None, *, name: str = "asset") -> Document:
    """A document with one scene, one node and, still to be added, one mesh; extras go to `asset.extras`."""
    asset: dict[str, Any] = {"version": "2.0", "generator": GENERATOR}
    if extras:
        asset["extras"] = extras
    return Document({"asset": asset, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0, "name": name}]})
