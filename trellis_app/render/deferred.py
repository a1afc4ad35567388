"""Draw a picture: rasterise layer by layer, gather the points that are seen, light them, add them up.

Surface ──clip──▶ rasterise ──▶ points ──▶ attributes ─┐
                    ▲ next layer     └──▶ normals ──▶ light ──▶ accumulate ──▶ tone curve ──▶ RGBA
                    └──────────── while something translucent is in front ◀──────┘
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from trellis_kernels.rasterise.cpu import rasterise_parallel, rasterise_serial

from trellis_app.render.camera import BOX_RADIUS, Camera
from trellis_app.render.environment import STUDIO, Environment
from trellis_app.render.occlusion import ambient_openness, lamp_visibility
from trellis_app.render.shading import (
    NEUTRAL,
    accumulate,
    collect_points,
    encode_picture,
    interpolate,
    point_geometry,
    sample_texture,
    shade_points,
)

LAYERS = 6  # translucent surfaces drawn one behind the other
SHADOW_SIDE = 256
LINEAR = np.array(
    [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.arange(256) / 255.0], np.float32
)
PLAIN = np.arange(256, dtype=np.float32) / np.float32(255.0)
NO_NORMALS = np.zeros((0, 3, 3), np.float32)
UNLIT = ("base_color", "metallic", "roughness", "alpha", "mask", "normal", "depth", "position")


@dataclass(frozen=True)
class Maps:
    """Textures of a surface instead of corner attributes."""

    uvs: np.ndarray  # float32 [F, 3, 2] v down
    base_color: np.ndarray  # uint8 [T, T, 4] sRGB + alpha
    metallic_roughness: np.ndarray  # uint8 [T, T, 3] (0, roughness, metallic)


@dataclass(frozen=True)
class Surface:
    """What is drawn: triangles in world units (Z up) and their material, at the corners or in maps."""

    vertices: np.ndarray  # float32 [V, 3]
    faces: np.ndarray  # int32 [F, 3]
    corners: np.ndarray  # float32 [F, 3, 6] linear colour, metallic, roughness, alpha; [0, 3, 6] with maps
    normals: np.ndarray = field(default_factory=lambda: NO_NORMALS)  # float32 [F, 3, 3]; empty: flat faces
    maps: Maps | None = None
    solid: bool = True  # no alpha below 1: one layer is enough


@dataclass(frozen=True)
class Look:
    """How the picture is made."""

    environment: Environment = STUDIO
    exposure: float = 1.0
    tone: int = NEUTRAL
    shadow: float = 0.6  # share of the key light that a shadow takes away
    occlusion: float = 0.8  # share of the other light that closed surroundings take away
    reach: float = 0.12  # of the ambient occlusion, world units
    rays: int = 16  # of the ambient occlusion: 4, 8 or 16
    flat: float = 0.0  # share of plain base colour in the picture, 0 to 1
    backdrop: float | None = (
        None  # linear grey seen through glass, which then counts as opaque; None: see-through alpha
    )
    samples: int = 2  # along a pixel's side
    threads: bool = True  # rasterise on all of numba's threads


@dataclass(frozen=True)
class Layer:
    """The points of one layer, front to back."""

    of_sample: np.ndarray  # int32 [S H, S W]
    depth: np.ndarray  # float32 [S H, S W] camera z, inf where nothing is seen
    position: np.ndarray  # float32 [P, 3]
    normal: np.ndarray  # float32 [P, 3] unit, towards the viewer
    view: np.ndarray  # float32 [P, 3] unit, towards the eye
    material: np.ndarray  # float32 [P, 6]


Paint = Callable[[Layer, int], np.ndarray]  # layer and its number -> float32 [P, C]


def draw(surface: Surface, camera: Camera, size: int, look: Look) -> np.ndarray:
    """Lit picture, straight sRGB uint8 [size, size, 4]; deterministic."""
    return encode_picture(draw_linear(surface, camera, size, look), look.exposure, look.tone)


def draw_linear(surface: Surface, camera: Camera, size: int, look: Look) -> np.ndarray:
    """Lit picture before the tone curve: linear, premultiplied, float32 [size, size, 4]."""
    light = look.environment.facing(camera)
    rows = (np.array(light.sky, np.float32), np.array(light.ground, np.float32), light.rows())
    shadow_map = _shadow_map(surface, rows[2], look)

    def lit(layer: Layer, number: int) -> np.ndarray:
        key = np.ones(len(layer.position), np.float32)
        if shadow_map is not None:
            key = lamp_visibility(layer.position, layer.normal, *shadow_map, look.shadow, 3.0 / SHADOW_SIDE)
        open_sky = np.ones(len(layer.position), np.float32)
        if look.occlusion > 0.0 and number == 0:
            matrix = _sample_matrix(camera, layer.depth.shape[0])
            found = ambient_openness(
                layer.of_sample, layer.position, layer.normal, layer.depth, matrix, look.samples, look.reach, look.rays
            )
            open_sky = 1.0 - np.float32(look.occlusion) * (1.0 - found)
        shaded = shade_points(layer.normal, layer.view, layer.material, rows, key, open_sky)
        if look.flat > 0.0:
            plain = np.float32(look.flat / look.exposure) * layer.material[:, :3]
            shaded = np.float32(1.0 - look.flat) * shaded + plain
        return shaded

    return _compose(surface, camera, size, look, lit)


def draw_unlit(
    surface: Surface, camera: Camera, size: int, wanted: tuple[str, ...], look: Look
) -> dict[str, np.ndarray]:
    """Maps of the frontmost surface, antialiased and premultiplied, float32 [size, size, C] or [size, size].

    base_color [.., 3] is sRGB in [0, 1]; normal [.., 3] in world axes towards the viewer; position [.., 3];
    metallic, roughness, alpha, mask and depth (camera z) have no last axis. Divide by mask to undo the antialiasing.
    """
    unknown = set(wanted) - set(UNLIT)
    if unknown:
        raise ValueError(f"unknown outputs {sorted(unknown)}; choose from {', '.join(UNLIT)}")
    forward = camera.extrinsics[2].astype(np.float32)

    def attributes(layer: Layer, number: int) -> np.ndarray:
        depth = layer.position @ forward[:3] + forward[3]
        return np.concatenate(
            [_encode(layer.material[:, :3]), layer.material[:, 3:], layer.normal, depth[:, None], layer.position],
            axis=1,
        )

    opaque = Surface(surface.vertices, surface.faces, surface.corners, surface.normals, surface.maps, solid=True)
    stack = _compose(opaque, camera, size, look, attributes)
    places: dict[str, int | slice] = {
        "base_color": slice(0, 3),
        "metallic": 3,
        "roughness": 4,
        "alpha": 5,
        "normal": slice(6, 9),
    }
    places |= {"depth": 9, "position": slice(10, 13), "mask": 13}
    return {name: np.ascontiguousarray(stack[..., places[name]]) for name in wanted}


def _encode(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-8) ** (1.0 / 2.4) - 0.055)


def _compose(surface: Surface, camera: Camera, size: int, look: Look, paint: Paint) -> np.ndarray:
    """Paint the layers front to back: premultiplied values and alpha, float32 [size, size, C + 1]."""
    side = size * look.samples
    clip = camera.clip(surface.vertices)
    run = rasterise_parallel if look.threads else rasterise_serial
    behind = (np.zeros((0, 0), np.int32), np.zeros((0, 0), np.float32))
    through = np.ones((side, side), np.float32)
    picture, first = np.zeros((0, 0, 0), np.float32), np.zeros((0, 0), np.int32)
    for number in range(1 if surface.solid else LAYERS):
        face, barycentric, depth = run(clip, surface.faces, (side, side), *behind)
        points = collect_points(face, barycentric, look.samples, surface.maps is None)
        layer = _layer(surface, camera, points, depth)
        values = paint(layer, number)
        if number == 0:
            picture = np.zeros((size, size, values.shape[1] + 1), np.float32)
            first = layer.of_sample
        alpha = np.ones(len(values), np.float32) if surface.solid else np.ascontiguousarray(layer.material[:, 5])
        if not accumulate(picture, through, layer.of_sample, values, alpha):
            break
        behind = (face, depth)
    if look.backdrop is not None and not surface.solid:
        seen = int(first.max(initial=-1)) + 1
        grey = np.full((seen, picture.shape[2] - 1), look.backdrop, np.float32)
        accumulate(picture, through, first, grey, np.ones(seen, np.float32))
    return picture


def _layer(
    surface: Surface, camera: Camera, points: tuple[np.ndarray, np.ndarray, np.ndarray], depth: np.ndarray
) -> Layer:
    face, barycentric, of_sample = points
    eye = camera.eye.astype(np.float32)
    geometry = point_geometry(face, barycentric, surface.vertices, surface.faces, surface.normals, eye)
    far, near = camera.far, camera.near
    z = np.float32(2.0 * far * near) / (np.float32(far + near) - depth * np.float32(far - near))
    z = np.where(np.isfinite(depth), z, np.float32(np.inf))
    return Layer(of_sample, z, *geometry, _material(surface, face, barycentric))


def _material(surface: Surface, face: np.ndarray, barycentric: np.ndarray) -> np.ndarray:
    if surface.maps is None:
        return interpolate(face, barycentric, surface.corners)
    uv = interpolate(face, barycentric, surface.maps.uvs)
    colour = sample_texture(uv, surface.maps.base_color, np.stack([LINEAR, LINEAR, LINEAR, PLAIN]))
    packed = sample_texture(uv, surface.maps.metallic_roughness, np.stack([PLAIN, PLAIN, PLAIN]))
    return np.concatenate([colour[:, :3], packed[:, 2:3], packed[:, 1:2], colour[:, 3:]], axis=1)


def _sample_matrix(camera: Camera, side: int) -> np.ndarray:
    """World to (column z, row z, z) of the samples: float32 [3, 4]."""
    return (np.diag([side, side, 1.0]) @ camera.intrinsics @ camera.extrinsics[:3]).astype(np.float32)


def _shadow_map(surface: Surface, lamps: np.ndarray, look: Look) -> tuple[np.ndarray, np.ndarray] | None:
    """Axes [3, 3] and depth [N, N] of the key light for `lamp_visibility`, or None; glass casts no shadow."""
    if look.shadow <= 0.0 or not len(lamps) or not len(surface.faces):
        return None
    forward = -lamps[0, :3].astype(np.float64)
    right = np.cross(forward, (0.0, 0.0, 1.0) if abs(forward[2]) < 0.99 else (0.0, 1.0, 0.0))
    right /= np.linalg.norm(right)
    axes = (np.stack([right, np.cross(forward, right), forward]) / BOX_RADIUS).astype(np.float32)
    clip = np.ones((len(surface.vertices), 4), np.float32)
    clip[:, :3] = surface.vertices @ axes.T
    faces = surface.faces
    if not surface.solid and surface.maps is None:
        faces = np.ascontiguousarray(faces[surface.corners[:, :, 5].mean(axis=1) > 0.5])
    nothing = (np.zeros((0, 0), np.int32), np.zeros((0, 0), np.float32))
    run = rasterise_parallel if look.threads else rasterise_serial
    return axes, run(clip, faces, (SHADOW_SIDE, SHADOW_SIDE), *nothing)[2]
