"""Mesh collections for training: one npz file, or a folder of GLB files read through trimesh.

Objects are Y up (glTF), of any size and position; colours are sRGB bytes at face corners, metallic and roughness are
bytes per face. Real collections hold open, unoriented and self-crossing meshes; only objects that show nothing at all
(no area, fully transparent) are refused.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from trellis_app.errors import MeshError

LOG = logging.getLogger(__name__)
ARRAYS = ("names", "vertex_offsets", "face_offsets", "vertices", "faces", "corner_rgba", "metal_rough")
MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
MAX_FACES = 100_000  # after subdividing for texture colours
NEUTRAL = np.array([204, 204, 204, 255], np.uint8)  # glTF viewers show unpainted meshes in a light grey


@dataclass(frozen=True, eq=False)
class LibraryObject:
    """One coloured mesh."""

    name: str
    vertices: np.ndarray  # float32 [V, 3] Y up
    faces: np.ndarray  # int32 [F, 3]
    corner_rgba: np.ndarray  # uint8 [F, 3, 4] sRGB base colour and alpha
    metal_rough: np.ndarray  # uint8 [F, 2] metallic, roughness

    def __post_init__(self) -> None:
        wanted = {
            "vertices": (np.float32, (len(self.vertices), 3)),
            "faces": (np.int32, (len(self.faces), 3)),
            "corner_rgba": (np.uint8, (len(self.faces), 3, 4)),
            "metal_rough": (np.uint8, (len(self.faces), 2)),
        }
        for field, (dtype, shape) in wanted.items():
            array = getattr(self, field)
            if array.dtype != dtype or array.shape != shape:
                raise MeshError(
                    f"{self.name}: {field} is {array.dtype} {array.shape}.", f"It must be {np.dtype(dtype)} {shape}."
                )


def check_visible(obj: LibraryObject) -> LibraryObject:
    """Return the object, or raise MeshError where it would show nothing: no area, not finite, fully transparent."""
    if not len(obj.faces):
        raise MeshError(f"{obj.name} has no faces.", "Leave it out.")
    if not np.isfinite(obj.vertices).all():
        raise MeshError(f"{obj.name} has vertices that are not finite.", "Leave it out.")
    if obj.faces.min() < 0 or obj.faces.max() >= len(obj.vertices):
        raise MeshError(f"{obj.name} has faces that name missing vertices.", "Leave it out.")
    area, extent = face_areas(obj).sum(), np.ptp(obj.vertices[obj.faces.reshape(-1)], axis=0).max()
    if not area > 1e-6 * max(extent, 1e-12) ** 2:
        raise MeshError(f"{obj.name} has no visible area.", "Leave it out.")
    if obj.corner_rgba[..., 3].max() < 8:
        raise MeshError(f"{obj.name} is fully transparent.", "Leave it out.")
    return obj


def face_areas(obj: LibraryObject) -> np.ndarray:
    """Triangle areas, float32 [F]."""
    a, b, c = (obj.vertices[obj.faces[:, i]] for i in range(3))
    return np.asarray(0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1))


@dataclass(frozen=True, eq=False)
class Library(Sequence[LibraryObject]):
    """Many objects as slices of flat arrays; object i owns rows offsets[i]:offsets[i + 1]."""

    names: np.ndarray  # str [M]
    vertex_offsets: np.ndarray  # int [M + 1]
    face_offsets: np.ndarray  # int [M + 1]
    vertices: np.ndarray  # float32 [V, 3], or uint16 [V, 3] meaning x * 65535 - 0.5
    faces: np.ndarray  # unsigned or signed [F, 3], relative to the object's own first vertex
    corner_rgba: np.ndarray  # uint8 [F, 3, 4]
    metal_rough: np.ndarray  # uint8 [F, 2]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> LibraryObject:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(f"object {index} of a library of {len(self)}")
        index %= len(self)
        rows = slice(self.vertex_offsets[index], self.vertex_offsets[index + 1])
        span = slice(self.face_offsets[index], self.face_offsets[index + 1])
        vertices = self.vertices[rows]
        if vertices.dtype == np.uint16:
            vertices = vertices / np.float32(65535) - np.float32(0.5)
        return LibraryObject(
            str(self.names[index]),
            vertices.astype(np.float32),
            self.faces[span].astype(np.int32),
            self.corner_rgba[span],
            self.metal_rough[span],
        )

    def __iter__(self) -> Iterator[LibraryObject]:
        return (self[i] for i in range(len(self)))


def pack(objects: Sequence[LibraryObject]) -> Library:
    """Put objects into flat arrays (float32 vertices, nothing rounded)."""
    return Library(
        names=np.array([o.name for o in objects], dtype=str),
        vertex_offsets=np.cumsum([0, *(len(o.vertices) for o in objects)]),
        face_offsets=np.cumsum([0, *(len(o.faces) for o in objects)]),
        vertices=np.concatenate([np.empty((0, 3), np.float32), *(o.vertices for o in objects)]),
        faces=np.concatenate([np.empty((0, 3), np.int32), *(o.faces for o in objects)]),
        corner_rgba=np.concatenate([np.empty((0, 3, 4), np.uint8), *(o.corner_rgba for o in objects)]),
        metal_rough=np.concatenate([np.empty((0, 2), np.uint8), *(o.metal_rough for o in objects)]),
    )


def read_library(path: str | Path) -> Library:
    """Read an npz collection or every mesh file below a folder (sorted by path; unreadable ones are logged, left out).

    Raises MeshError where the path does not exist, is no such collection, or holds no usable object.
    """
    path = Path(path)
    if path.is_dir():
        library = _read_folder(path)
    elif path.is_file():
        library = _read_npz(path)
    else:
        raise MeshError(f"There is no library at {path}.", "Give an npz collection or a folder of GLB files.")
    if not len(library):
        raise MeshError(f"{path} holds no usable object.", "Give an npz collection or a folder of GLB files.")
    return library


def _read_npz(path: Path) -> Library:
    try:
        with np.load(path) as stored:
            missing = [name for name in ARRAYS if name not in stored]
            if missing:
                raise MeshError(f"{path} lacks the arrays {', '.join(missing)}.", "Give a complete collection.")
            return Library(**{name: stored[name] for name in ARRAYS})
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise MeshError(f"{path} is not a readable npz file ({error}).", "Give an npz collection.") from error


def _read_folder(folder: Path) -> Library:
    objects = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in MESH_SUFFIXES):
        try:
            objects.append(check_visible(read_mesh(path, name=str(path.relative_to(folder).with_suffix("")))))
        except MeshError as error:
            LOG.warning("left out %s: %s", path, error)
    return pack(objects)


def read_mesh(path: str | Path, *, name: str | None = None) -> LibraryObject:
    """Read one mesh file with its materials; texture colours are sampled at face corners after subdividing.

    Raises MeshError where trimesh cannot read the file.
    """
    import trimesh  # 0.3 s to import: only folders need it

    try:
        scene = trimesh.load(path, force="scene")
    except (ValueError, OSError, KeyError, IndexError, TypeError, AttributeError, NotImplementedError) as error:
        raise MeshError(f"{path} cannot be read as a mesh ({error}).", "Give a GLB file.") from error
    if not isinstance(scene, trimesh.Scene):
        raise MeshError(f"{path} holds no scene of meshes.", "Give a GLB file.")
    name = name or Path(path).stem
    parts = [_coloured(part, name) for part in scene.dump() if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    return join(name, parts)


def join(name: str, parts: Sequence[LibraryObject]) -> LibraryObject:
    """Put parts into one object, each where it stands."""
    starts = np.cumsum([0, *(len(p.vertices) for p in parts)]).astype(np.int32)
    whole = pack(parts)
    faces = [p.faces + start for p, start in zip(parts, starts[:-1], strict=True)]
    return LibraryObject(
        name,
        whole.vertices,
        np.concatenate([np.empty((0, 3), np.int32), *faces]),
        whole.corner_rgba,
        whole.metal_rough,
    )


def _coloured(part: object, name: str) -> LibraryObject:
    """One trimesh geometry with its material as corner colours."""
    corners = np.asarray(part.vertices, np.float32)[part.faces]  # type: ignore[attr-defined]  # [F, 3, 3]
    visual = part.visual  # type: ignore[attr-defined]
    kind = getattr(visual, "kind", None)
    if kind == "texture" and visual.material is not None:
        material = visual.material.to_pbr() if hasattr(visual.material, "to_pbr") else visual.material
        uv = np.zeros((len(part.vertices), 2)) if visual.uv is None else visual.uv  # type: ignore[attr-defined]
        soup = np.concatenate([corners, np.asarray(uv, np.float32)[part.faces]], axis=2)  # type: ignore[attr-defined]
        if material.baseColorTexture is not None or material.metallicRoughnessTexture is not None:
            soup = _subdivide(soup, limit=float(np.ptp(corners.reshape(-1, 3), axis=0).max()) / 45)
        corners, rgba, metal_rough = soup[..., :3], *_sample_material(material, soup[..., 3:])
    else:
        rgba = np.broadcast_to(NEUTRAL, (*corners.shape[:2], 4))
        if kind == "vertex":
            rgba = np.asarray(visual.vertex_colors, np.uint8)[part.faces]  # type: ignore[attr-defined]
        elif kind == "face":
            rgba = np.repeat(np.asarray(visual.face_colors, np.uint8)[:, None], 3, axis=1)
        metal_rough = np.tile(np.array([[0, 128]], np.uint8), (len(corners), 1))
    vertices, inverse = np.unique(corners.reshape(-1, 3), axis=0, return_inverse=True)
    faces = inverse.reshape(-1, 3).astype(np.int32)
    return LibraryObject(name, vertices.astype(np.float32), faces, np.ascontiguousarray(rgba), metal_rough)


def _subdivide(soup: np.ndarray, *, limit: float) -> np.ndarray:
    """Split triangles [F, 3, C] in four until every edge is at most `limit` long or MAX_FACES is reached."""
    done: list[np.ndarray] = []
    while len(soup):
        edges = np.linalg.norm(soup[:, :, :3] - np.roll(soup[:, :, :3], -1, axis=1), axis=2).max(axis=1)
        long = edges > limit
        if sum(len(part) for part in done) + len(soup) + 3 * long.sum() > MAX_FACES:
            long[:] = False
        done.append(soup[~long])
        a, b, c = (soup[long, i] for i in range(3))
        ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
        soup = np.concatenate([np.stack(t, axis=1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    return np.concatenate(done)


def _sample_material(material: object, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """glTF metal-roughness material at corner uvs [F, 3, 2] -> rgba uint8 [F, 3, 4], metal and rough uint8 [F, 2]."""
    get = material.__getattribute__
    uv = uv + 0.02 * (uv.mean(axis=1, keepdims=True) - uv)  # off the border of texels and palette cells
    factor = get("baseColorFactor")
    rgba = np.ones((*uv.shape[:2], 4)) * (np.ones(4) if factor is None else np.asarray(factor, float) / 255)
    if get("baseColorTexture") is not None:
        rgba *= _texels(get("baseColorTexture"), "RGBA", uv)
    mode = str(get("alphaMode") or "OPAQUE").upper()
    if mode == "OPAQUE":
        rgba[..., 3] = 1
    elif mode == "MASK":
        cutoff = get("alphaCutoff")
        rgba[..., 3] = rgba[..., 3] >= (0.5 if cutoff is None else cutoff)
    factors = [get("metallicFactor"), get("roughnessFactor")]
    metal_rough = np.ones((len(uv), 2)) * [1.0 if f is None else float(f) for f in factors]
    if get("metallicRoughnessTexture") is not None:
        metal_rough *= _texels(get("metallicRoughnessTexture"), "RGB", uv).mean(axis=1)[:, [2, 1]]
    return _bytes(rgba), _bytes(metal_rough)


def _bytes(values: np.ndarray) -> np.ndarray:
    return (np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)


def _texels(picture: Image.Image, mode: str, uv: np.ndarray) -> np.ndarray:
    """Nearest texels, repeated outside, as floats in [0, 1]; trimesh's v points up."""
    texture = np.asarray(picture.convert(mode), np.float32) / 255
    height, width = texture.shape[:2]
    column = np.floor(uv[..., 0] * width).astype(np.int64) % width
    row = np.floor((1 - uv[..., 1]) * height).astype(np.int64) % height
    return np.asarray(texture[row, column])
