"""Triangles compressed with Draco (KHR_draco_mesh_compression), by the optional package DracoPy."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from trellis_app.errors import MachineError
from trellis_app.export.gltf import FLOAT, UINT, Document, y_up
from trellis_app.types import FinishedAsset

EXTENSION = "KHR_draco_mesh_compression"
POSITION_BITS, NORMAL_BITS, UV_BITS = 15, 10, 14  # at 2048 px the UVs stay within a sixteenth of a texel
_LEVEL = 5  # smallest files on our meshes; higher levels were slower and not smaller
_SEMANTICS = {0: "POSITION", 1: "NORMAL", 3: "TEXCOORD_0", 4: "TANGENT"}  # by Draco's attribute type
_KINDS = {"POSITION": "VEC3", "NORMAL": "VEC3", "TEXCOORD_0": "VEC2", "TANGENT": "VEC4"}
_TANGENT_ID = 7  # free for what Draco calls generic


@dataclass(frozen=True)
class Packed:
    """A compressed primitive, and what a reader will find in it."""

    data: bytes
    attributes: dict[str, int]  # semantic -> Draco's id
    vertices: int
    faces: int
    low: list[float]  # of the positions, Y up
    high: list[float]


def dracopy() -> ModuleType:
    """The package; raises MachineError with how to get it where it is missing."""
    try:
        return importlib.import_module("DracoPy")
    except ImportError as error:
        raise MachineError("Draco compression needs the package DracoPy.", "Run: pip install DracoPy") from error


def pack(asset: FinishedAsset, faces: np.ndarray, tangents: np.ndarray | None) -> Packed:
    """Compress some faces [F, 3] of the asset; faces without area may be dropped, as Draco does.

    tangents: float32 [V, 4], Y up; Draco stores them as they are.
    """
    module = dracopy()
    used, index = np.unique(faces, return_inverse=True)
    data = module.encode(
        y_up(asset.vertices[used]),
        index.reshape(-1, 3).astype(np.uint32),
        quantization_bits=POSITION_BITS,
        compression_level=_LEVEL,
        normals=y_up(asset.normals[used]).astype(np.float64),  # the package takes doubles only and stores floats
        tex_coord=asset.uvs[used].astype(np.float64),
        normal_quantization_bits=NORMAL_BITS,
        tex_coord_quantization_bits=UV_BITS,
        generic_attributes=None if tangents is None else {_TANGENT_ID: tangents[used]},
    )
    read = module.decode(data)
    attributes = {_SEMANTICS[entry["attribute_type"]]: int(entry["unique_id"]) for entry in read.attributes}
    low, high = ([float(v) for v in bound] for bound in (read.points.min(axis=0), read.points.max(axis=0)))
    return Packed(data, attributes, len(read.points), len(read.faces), low, high)


def add_primitive(document: Document, packed: Packed, material: int) -> dict[str, Any]:
    """The primitive of a compressed mesh; its accessors have no data of their own."""
    attributes = {}
    for semantic in packed.attributes:
        entry: dict[str, Any] = {"componentType": FLOAT, "count": packed.vertices, "type": _KINDS[semantic]}
        if semantic == "POSITION":
            entry |= {"min": packed.low, "max": packed.high}
        attributes[semantic] = document.add("accessors", entry)
    indices = document.add("accessors", {"componentType": UINT, "count": 3 * packed.faces, "type": "SCALAR"})
    stored = {"bufferView": document.view(packed.data), "attributes": packed.attributes}
    return {
        "attributes": attributes,
        "indices": indices,
        "material": material,
        "extensions": {document.extension(EXTENSION): stored},
    }
