"""Meshes as files and scenes hold them -> one textured mesh in the grid's frame."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image
from trellis_kernels.mesh_attributes.surface import Material, Texture, TexturedMesh
from trimesh.visual.color import DEFAULT_COLOR, ColorVisuals
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from trellis_app.errors import MeshError

LONGEST_SIDE = 0.99999  # of the unit box, as in the training data
SIMPLE_METALLIC = 0.0  # of materials that know no metals
ALPHA_CUTOFF = 0.5  # glTF's default


def read_scene(path: Path | str) -> trimesh.Scene:
    """The scene of a mesh file that trimesh reads (.glb, .gltf, .obj, .ply, .stl, ...); raises MeshError."""
    path = Path(path)
    try:
        scene = trimesh.load_scene(path, process=False)
    except (ValueError, KeyError, IndexError, TypeError, OSError, NotImplementedError) as error:
        raise MeshError(f"{path.name} cannot be read as a mesh ({error}).", "Use a .glb, .obj or .ply file.") from error
    if not any(isinstance(geometry, trimesh.Trimesh) for geometry in scene.geometry.values()):
        raise MeshError(f"{path.name} holds no triangles.", "Choose a file with a mesh in it.")
    return scene


def textured_mesh(
    scene: trimesh.Scene | trimesh.Trimesh, *, original: bool = False, details: bool = False
) -> TexturedMesh:
    """All triangles of a scene with their materials, placed by the scene's transforms.

    Colour factors are linear, as glTF has them, and are applied so; original: they are multiplied on the encoded
    colours instead, as the tool did that made the released models' training data. Textures repeat.
    details: also vertex normals, normal maps and emissive colours.
    """
    if isinstance(scene, trimesh.Trimesh):
        scene = trimesh.Scene(scene)
    reader = MaterialReader(original, details, {}, {})
    parts: list[TexturedMesh] = []
    for node in sorted(scene.graph.nodes_geometry):
        transform, name = scene.graph[node]
        geometry = scene.geometry[name]
        if isinstance(geometry, trimesh.Trimesh) and len(geometry.faces):
            parts.append(part_of(geometry, transform, reader))
    if not parts:
        raise MeshError("The scene holds no triangles.", "Choose a file with a mesh in it.")
    return joined(parts)


def in_unit_box(mesh: TexturedMesh, *, up: str = "y") -> TexturedMesh:
    """The mesh centred, its longest side just below 1, and turned from Y up (glTF) or left Z up.

    Raises MeshError for a mesh without extent.
    """
    low, high = mesh.vertices.min(0).astype(np.float64), mesh.vertices.max(0).astype(np.float64)
    extent = float((high - low).max())
    if not 0 < extent < np.inf:
        raise MeshError("The mesh has no extent.", "Choose a mesh with a surface.")
    vertices, normals = (mesh.vertices - (low + high) / 2) * (LONGEST_SIDE / extent), mesh.normals
    if up == "y":
        vertices = vertices[:, [0, 2, 1]] * (1, -1, 1)
        normals = None if normals is None else normals[..., [0, 2, 1]] * np.array([1, -1, 1], np.float32)
    elif up != "z":
        raise ValueError(f"up is {up!r}; choose y or z")
    return replace(mesh, vertices=vertices.astype(np.float32), normals=normals)


def part_of(geometry: trimesh.Trimesh, transform: np.ndarray, reader: MaterialReader) -> TexturedMesh:
    faces = np.asarray(geometry.faces, np.int32)
    vertices = trimesh.transform_points(geometry.vertices, transform).astype(np.float32)
    material, colors = reader.read(geometry)
    stored = getattr(geometry.visual, "uv", None)
    uv = np.zeros((len(vertices), 2), np.float32) if stored is None else np.asarray(stored, np.float32)
    normals = turned_normals(geometry, transform)[faces] if reader.details else None
    return TexturedMesh(vertices, faces, uv[faces], np.zeros(len(faces), np.int32), (material,), colors, normals)


def turned_normals(geometry: trimesh.Trimesh, transform: np.ndarray) -> np.ndarray:
    """Unit vertex normals float32 [V, 3] after a transform, which moves them by its cofactors."""
    a, b, c = np.asarray(transform, np.float64)[:3, :3].T
    cofactors = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=1)
    normals = geometry.vertex_normals @ (cofactors * np.sign(a @ np.cross(b, c))).T
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return (normals / np.where(length > 0, length, 1.0)).astype(np.float32)


def joined(parts: list[TexturedMesh]) -> TexturedMesh:
    """One mesh of many; each brings its materials."""
    starts = np.cumsum([0] + [len(part.vertices) for part in parts])
    colors = None
    if any(part.colors is not None for part in parts):
        white = [np.ones((len(part.faces), 3, 4), np.float32) if part.colors is None else part.colors for part in parts]
        colors = np.concatenate(white)
    return TexturedMesh(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.faces + start for part, start in zip(parts, starts, strict=False)]).astype(np.int32),
        np.concatenate([part.uv for part in parts]),
        np.concatenate([np.full(len(part.faces), k, np.int32) for k, part in enumerate(parts)]),
        tuple(part.materials[0] for part in parts),
        colors,
        np.concatenate([part.normals for part in parts]) if parts[0].normals is not None else None,
    )


@dataclass(frozen=True)
class MaterialReader:
    """Turns trimesh's visuals into materials; a picture used twice becomes one texture."""

    original: bool
    details: bool
    textures: dict[tuple[bytes, tuple[int, ...], tuple[float, ...]], Texture]
    materials: dict[int, Material]

    def read(self, geometry: trimesh.Trimesh) -> tuple[Material, np.ndarray | None]:
        """(material, corner colours float32 [F, 3, 4] or None) of one geometry."""
        visual: Any = geometry.visual
        if isinstance(visual, ColorVisuals):
            return Material(factors=(1.0, 1.0, 1.0, SIMPLE_METALLIC, 1.0, 1.0)), corner_colors(geometry)
        source = visual.material
        if id(source) not in self.materials:
            self.materials[id(source)] = self.convert(source)
        return self.materials[id(source)], None

    def convert(self, source: Any) -> Material:
        if isinstance(source, SimpleMaterial):
            untold = np.array_equal(source.diffuse, DEFAULT_COLOR)  # then the picture is meant as it is
            source = source.to_pbr()
            source.metallicFactor = SIMPLE_METALLIC
            if untold and source.baseColorTexture is not None:
                source.baseColorFactor = None
        if not isinstance(source, PBRMaterial):
            raise MeshError(f"Materials of the kind {type(source).__name__} are not read.", "Save the mesh as .glb.")
        rgba = color_factor(source.baseColorFactor)
        mode = source.alphaMode if source.alphaMode in ("MASK", "BLEND") else "OPAQUE"
        tint = rgba[:3] if not self.original else (1.0, 1.0, 1.0)
        base = self.texture(source.baseColorTexture, tint)
        surface = self.texture(source.metallicRoughnessTexture, (1.0, 1.0, 1.0))
        if not self.original:
            rgba = (1.0, 1.0, 1.0, rgba[3]) if base is not None else (*encoded(np.array(rgba[:3])).tolist(), rgba[3])
        metallic = 1.0 if source.metallicFactor is None else float(source.metallicFactor)
        roughness = 1.0 if source.roughnessFactor is None else float(source.roughnessFactor)
        alpha = 1.0 if mode == "OPAQUE" else rgba[3]
        cutoff = ALPHA_CUTOFF if source.alphaCutoff is None else float(source.alphaCutoff)
        material = Material(
            base,
            surface,
            surface,
            None if mode == "OPAQUE" else base,
            (rgba[0], rgba[1], rgba[2], metallic, roughness, alpha),
            cutoff if mode == "MASK" else None,
        )
        return self.detailed(material, source) if self.details else material

    def detailed(self, material: Material, source: PBRMaterial) -> Material:
        """The material with its normal map and what it emits."""
        r, g, b, _ = (0.0, 0.0, 0.0, 1.0) if source.emissiveFactor is None else color_factor(source.emissiveFactor)
        emissive = self.texture(source.emissiveTexture, (1.0, 1.0, 1.0) if self.original else (r, g, b))
        if not self.original:
            r, g, b = (1.0, 1.0, 1.0) if emissive is not None else encoded(np.array([r, g, b])).tolist()
        normal = self.texture(source.normalTexture, (1.0, 1.0, 1.0))
        return replace(material, emissive=emissive, emissive_factor=(r, g, b), normal=normal)

    def texture(self, image: Image.Image | None, tint: tuple[float, ...]) -> Texture | None:
        """The picture with a linear colour factor worked into its bytes."""
        if image is None:
            return None
        pixels = np.array(image.convert("RGBA"))
        key = (hashlib.blake2b(pixels.tobytes()).digest(), pixels.shape, tint)
        if key not in self.textures:
            for channel, factor in enumerate(tint):
                if factor != 1.0:
                    table = encoded(decoded(np.arange(256) / 255.0) * factor) * 255 + 0.5
                    pixels[..., channel] = table.astype(np.uint8)[pixels[..., channel]]
            self.textures[key] = Texture(pixels)
        return self.textures[key]


def color_factor(stored: Any) -> tuple[float, float, float, float]:
    """A base colour factor in [0, 1]; trimesh holds bytes or floats, three or four, or none."""
    if stored is None:
        return 1.0, 1.0, 1.0, 1.0
    values = np.asarray(stored)
    values = values / 255.0 if values.dtype == np.uint8 else values.astype(np.float64)
    r, g, b, a = [*values.tolist(), 1.0][:4]
    return r, g, b, a


def corner_colors(geometry: trimesh.Trimesh) -> np.ndarray:
    """Colours float32 [F, 3, 4] in [0, 1] at the face corners of a mesh without textures."""
    visual: Any = geometry.visual
    if visual.kind == "face":
        return np.repeat(np.asarray(visual.face_colors, np.float32)[:, None] / 255, 3, axis=1)
    return np.asarray(visual.vertex_colors, np.float32)[geometry.faces] / 255


def decoded(value: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] to linear light (IEC 61966-2-1)."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def encoded(value: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] to sRGB (IEC 61966-2-1)."""
    return np.where(value <= 0.0031308, value * 12.92, 1.055 * np.maximum(value, 0.0031308) ** (1 / 2.4) - 0.055)
