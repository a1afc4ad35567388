"""A mesh that a user brings: read as it stands, and turned into the box in which shapes live.

The arrays are the file's own, placed by the transforms of its scene: nothing is merged, reordered or rescaled, so a
result made of them lies exactly over the input.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from trellis_app.errors import MeshError
from trellis_app.mesh.surface import Surface

UPS = ("y", "z")
LONGEST_SIDE = 0.99999  # of the unit box, as in the training data
SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
MOST_FACES = 20_000_000
_UV_ATTRIBUTE = "_TRELLIS_UV"  # the bytes of TEXCOORD_0 on their way past trimesh, which turns v round in float32
_JSON_CHUNK = 0x4E4F534A
# What readers raise over damaged files.
_READ_ERRORS = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError, OSError, NotImplementedError,
    struct.error, RecursionError,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class UserMesh:
    """Triangles in the file's own axes and units."""

    name: str
    vertices: np.ndarray  # float32 [V, 3]
    faces: np.ndarray  # int32 [F, 3]
    uvs: np.ndarray | None = None  # float32 [V, 2] of the vertices, v down (glTF)
    normals: np.ndarray | None = None  # float32 [V, 3] unit; None where the file brings none


@dataclass(frozen=True)
class Stance:
    """How a mesh stands towards the picture."""

    up: str = "y"  # the file's upward axis: y (glTF) or z
    yaw: float = 0.0  # degrees about the upward axis, counterclockwise from above, that turn the seen side to the front

    def __post_init__(self) -> None:
        if self.up not in UPS:
            raise MeshError(f"There is no upward axis {self.up!r}.", f"Choose one of {', '.join(UPS)}.")
        if not np.isfinite(self.yaw):
            raise MeshError(f"The turn is {self.yaw} degrees.", "Choose a number.")


def read_mesh(path: Path | str) -> UserMesh:
    """All triangles of a .glb, .gltf, .obj, .ply, .stl or .off file as one mesh.

    Raises MeshError for anything that is no usable mesh: unreadable, no triangles, vertices that are not finite, no
    extent, or more than MOST_FACES faces.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise MeshError(f"{path.name} is not a mesh file that is read here.", f"Use {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise MeshError(f"There is no file {path}.", "Check the name.")
    try:
        with np.errstate(all="ignore"):  # damaged floats are looked at in `checked`
            scene = _load(path)
            parts = [part for node in sorted(scene.graph.nodes_geometry) if (part := _part(scene, node)) is not None]
    except _READ_ERRORS as error:
        reason = str(error) or type(error).__name__
        raise MeshError(f"{path.name} cannot be read as a mesh ({reason}).", "Save it again as .glb.") from error
    if not parts:
        raise MeshError(f"{path.name} holds no triangles.", "Choose a file with a mesh in it.")
    return checked(_joined(path.stem, parts))


def checked(mesh: UserMesh) -> UserMesh:
    """The mesh, without UVs or normals that are not finite; raises MeshError where it has no usable surface."""
    if not len(mesh.faces):
        raise MeshError(f"{mesh.name} holds no triangles.", "Choose a file with a mesh in it.")
    if len(mesh.faces) > MOST_FACES:
        raise MeshError(f"{mesh.name} has {len(mesh.faces):,} triangles.", f"Simplify it to {MOST_FACES:,} at most.")
    if not 0 <= mesh.faces.min() <= mesh.faces.max() < len(mesh.vertices):
        raise MeshError(f"{mesh.name} has triangles that name missing vertices.", "Repair it in a mesh editor.")
    used = mesh.vertices[mesh.faces.reshape(-1)]
    if not np.isfinite(mesh.vertices).all():
        raise MeshError(f"{mesh.name} has vertices that are not finite numbers.", "Repair it in a mesh editor.")
    if not np.ptp(used.astype(np.float64), axis=0).max() > 0:
        raise MeshError(f"{mesh.name} has no extent.", "Choose a mesh with a surface.")
    uvs = mesh.uvs if mesh.uvs is not None and np.isfinite(mesh.uvs).all() else None
    normals = mesh.normals if mesh.normals is not None and np.isfinite(mesh.normals).all() else None
    return UserMesh(mesh.name, mesh.vertices, mesh.faces, uvs, normals)


def framed(mesh: UserMesh, stance: Stance = Stance()) -> Surface:
    """The mesh Z up, seen side to -Y, centred in the unit box with its longest side just below 1."""
    x, y, z = mesh.vertices.astype(np.float64).T
    if stance.up == "y":
        y, z = -z, y
    turn = np.radians(stance.yaw)
    cos, sin = (1.0, 0.0) if stance.yaw == 0 else (np.cos(turn), np.sin(turn))
    turned = np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=1)
    used = turned[mesh.faces.reshape(-1)]
    low, high = used.min(axis=0), used.max(axis=0)
    placed = (turned - (low + high) / 2) * (LONGEST_SIDE / (high - low).max())
    return Surface(placed.astype(np.float32), mesh.faces)


def _load(path: Path) -> Any:
    import trimesh  # 0.3 s to import: only files need it

    kind, data = path.suffix.lower().lstrip("."), path.read_bytes()
    if kind in ("glb", "gltf"):
        data = _glb_with_uv_bytes(data) if kind == "glb" else json.dumps(_with_uv_bytes(json.loads(data))).encode()
    resolver = trimesh.resolvers.FilePathResolver(str(path))
    return trimesh.load_scene(BytesIO(data), file_type=kind, resolver=resolver, process=False, skip_materials=True)


def _with_uv_bytes(tree: dict[str, Any]) -> dict[str, Any]:
    """A glTF tree in which the first UVs of every primitive are read under a second name as well."""
    for mesh in tree.get("meshes", []):
        for primitive in mesh.get("primitives", []):
            attributes = primitive.get("attributes", {})
            if "TEXCOORD_0" in attributes and "KHR_draco_mesh_compression" not in primitive.get("extensions", {}):
                accessor = dict(tree["accessors"][attributes["TEXCOORD_0"]])
                attributes[_UV_ATTRIBUTE + ("_UNIT" if accessor.get("normalized") else "")] = attributes["TEXCOORD_0"]
    return tree


def _glb_with_uv_bytes(data: bytes) -> bytes:
    """`_with_uv_bytes` for the binary container."""
    magic, version, _, length, kind = struct.unpack_from("<4sIIII", data)
    if magic != b"glTF" or version != 2 or kind != _JSON_CHUNK:
        raise ValueError("not a GLB file of version 2")
    text = json.dumps(_with_uv_bytes(json.loads(data[20 : 20 + length]))).encode()
    text += b" " * (-len(text) % 4)
    rest = data[20 + length :]
    head = struct.pack("<4sIIII", magic, version, 20 + len(text) + len(rest), len(text), kind)
    return head + text + rest


def _part(scene: Any, node: str) -> UserMesh | None:
    """One node's triangles where its transform puts them; None for points and lines."""
    import trimesh

    from trellis_app.ovoxel.scene import turned_normals

    transform, name = scene.graph[node]
    geometry: Any = scene.geometry[name]
    if not isinstance(geometry, trimesh.Trimesh) or not len(geometry.faces):
        return None
    faces = np.ascontiguousarray(geometry.faces, np.int32)
    vertices, brings = np.asarray(geometry.vertices), "vertex_normals" in geometry._cache.cache
    normals = turned_normals(geometry, np.eye(4) if transform is None else transform) if brings else None
    if not np.array_equal(transform, np.eye(4)):
        vertices = trimesh.transform_points(vertices, transform)
        if np.linalg.det(np.asarray(transform)[:3, :3]) < 0:
            faces = np.ascontiguousarray(faces[:, ::-1])  # a mirrored node turns its triangles round
    uvs = _uvs(geometry)
    uvs = uvs if uvs is not None and uvs.shape == (len(vertices), 2) else None
    return UserMesh(str(name), np.ascontiguousarray(vertices, np.float32), faces, uvs, normals)


def _uvs(geometry: Any) -> np.ndarray | None:
    """UVs with v down: the file's own floats where it is a glTF file."""
    stored = geometry.vertex_attributes
    if _UV_ATTRIBUTE in stored:
        return np.ascontiguousarray(stored[_UV_ATTRIBUTE], np.float32)
    if f"{_UV_ATTRIBUTE}_UNIT" in stored:
        whole = np.asarray(stored[f"{_UV_ATTRIBUTE}_UNIT"])
        return (whole / np.float32(np.iinfo(whole.dtype).max)).astype(np.float32)
    uv = getattr(geometry.visual, "uv", None)
    if uv is None or np.ndim(uv) != 2 or np.shape(uv)[1] < 2:
        return None
    return np.stack([uv[:, 0], 1.0 - np.asarray(uv[:, 1], np.float64)], axis=1).astype(np.float32)


def _joined(name: str, parts: list[UserMesh]) -> UserMesh:
    """One mesh of all parts; UVs and normals only where every part has them."""
    starts = np.cumsum([0] + [len(part.vertices) for part in parts[:-1]])
    uvs = [part.uvs for part in parts if part.uvs is not None]
    normals = [part.normals for part in parts if part.normals is not None]
    return UserMesh(
        name,
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.faces + start for part, start in zip(parts, starts, strict=True)]).astype(np.int32),
        np.concatenate(uvs) if len(uvs) == len(parts) else None,
        np.concatenate(normals) if len(normals) == len(parts) else None,
    )
