"""Pictures and preview meshes of what a stage made: blocks, clay, colour.

Occupancy ─▶ bevelled blocks ┐
DualGrid, Mesh ─▶ clay       ├─▶ Surface ─▶ draw ─▶ RGBA ─▶ on_backdrop ─▶ RGB
OVoxel ─▶ vertex attributes  │
FinishedAsset ─▶ textures    ┘
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trellis_app.ovoxel.to_mesh import dual_grid_to_mesh
from trellis_app.render.blocks import bevelled_blocks, voxel_blocks_mesh
from trellis_app.render.camera import Camera, view_camera
from trellis_app.render.deferred import LINEAR, Look, Maps, Surface, draw, draw_unlit
from trellis_app.render.shading import corner_normals
from trellis_app.types import DualGrid, FinishedAsset, Mesh, Occupancy, OVoxel

CLAY = np.array([0.50, 0.435, 0.375, 0.0, 0.55, 1.0], np.float32)  # linear colour, metallic, roughness, alpha
BLOCK_ROUGHNESS = 0.55
CREASE = 40.0  # degrees: flatter edges look round
PRODUCT = Look(samples=3)
FRONT = view_camera(math.radians(18.0), 30.0)
HERO = Camera(math.pi - math.radians(28.0), FRONT.pitch, FRONT.radius, FRONT.fov, FRONT.near, FRONT.far)
Drawable = Occupancy | DualGrid | Mesh | OVoxel | FinishedAsset | Surface


@dataclass(frozen=True)
class PreviewMesh:
    """What the 3D viewer shows after a stage; Z up."""

    vertices: np.ndarray  # float32 [V, 3]
    faces: np.ndarray  # int32 [F, 3]
    colors: np.ndarray | None  # uint8 sRGB [V, 4]; None: clay


def preview_mesh(result: Occupancy | DualGrid | Mesh | OVoxel) -> PreviewMesh:
    """Blocks, clay, or a mesh with vertex colours, of a stage's result."""
    if isinstance(result, Occupancy):
        return PreviewMesh(*voxel_blocks_mesh(result))
    mesh = result if isinstance(result, Mesh) else dual_grid_to_mesh(_grid(result))
    vertices, faces = _arrays(mesh)
    if not isinstance(result, OVoxel):
        return PreviewMesh(vertices, faces, None)
    attributes = result.attributes.detach().float().cpu().numpy().clip(0.0, 1.0)
    return PreviewMesh(vertices, faces, np.rint(attributes[:, [0, 1, 2, 5]] * 255.0).astype(np.uint8))


def render_preview_rgba(result: Drawable, size: int) -> np.ndarray:
    """The product picture of a stage's result: straight sRGB uint8 [size, size, 4], background transparent."""
    return render_mesh(result, size=size)


def render_mesh(
    drawable: Drawable,
    camera: Camera | None = None,
    size: int = 512,
    *,
    look: Look = PRODUCT,
    crease: float = CREASE,
) -> np.ndarray:
    """Lit picture of anything a stage makes: straight sRGB uint8 [size, size, 4], background transparent.

    Without a camera: from the front and a little to the side, cut to the object.
    """
    surface = as_surface(drawable, crease=crease)
    return draw(surface, camera or hero_camera(surface.vertices), size, look)


def hero_camera(vertices: np.ndarray) -> Camera:
    """The product view of vertices [V, 3]: from the front, a little to the side and above, the object filling it."""
    return HERO.framed(vertices, margin=0.08) if len(vertices) else HERO


def render_unlit(
    drawable: Drawable,
    camera: Camera,
    size: int,
    outputs: tuple[str, ...] = ("base_color", "mask"),
    *,
    samples: int = 2,
) -> dict[str, np.ndarray]:
    """Maps without light: any of `deferred.UNLIT`, as `deferred.draw_unlit` describes them."""
    return draw_unlit(as_surface(drawable, crease=0.0), camera, size, outputs, Look(samples=samples))


def on_backdrop(rgba: np.ndarray) -> np.ndarray:
    """Straight RGBA uint8 [H, W, 4] on a soft light backdrop without a ground: RGB uint8 [H, W, 3]."""
    height, width = rgba.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    away = np.hypot((x + 0.5) / width - 0.5, (y + 0.5) / height - 0.44) / 0.75
    fade = np.clip(away, 0.0, 1.0)[..., None] ** 2 * (3.0 - 2.0 * np.clip(away, 0.0, 1.0)[..., None])
    backdrop = np.array([250.0, 250.0, 251.0]) * (1.0 - fade) + np.array([214.0, 217.0, 224.0]) * fade
    alpha = rgba[..., 3:] / 255.0
    return np.rint(rgba[..., :3] * alpha + backdrop * (1.0 - alpha)).astype(np.uint8)


def as_surface(drawable: Drawable, *, crease: float = CREASE) -> Surface:
    """The renderer's surface of anything drawable; crease in degrees, 0 for flat faces."""
    if isinstance(drawable, Surface):
        return drawable
    if isinstance(drawable, Occupancy):
        vertices, faces, normals, colors = bevelled_blocks(drawable)
        corners = np.empty((*colors.shape[:2], 6), np.float32)
        corners[...] = (0.0, 0.0, 0.0, 0.0, BLOCK_ROUGHNESS, 1.0)
        corners[..., :3] = LINEAR[colors[..., :3]]
        return Surface(vertices, faces, corners, normals)
    if isinstance(drawable, FinishedAsset):
        return _asset_surface(drawable)
    mesh = drawable if isinstance(drawable, Mesh) else dual_grid_to_mesh(_grid(drawable))
    vertices, faces = _arrays(mesh)
    if isinstance(drawable, OVoxel):
        return vertex_surface(vertices, faces, drawable.attributes.detach().float().cpu().numpy(), crease=crease)
    clay = np.broadcast_to(CLAY, (len(vertices), 6))
    return _surface(vertices, faces, clay, crease, solid=True)


def vertex_surface(
    vertices: np.ndarray, faces: np.ndarray, attributes: np.ndarray, *, crease: float = CREASE
) -> Surface:
    """Vertices float32 [V, 3] with attributes [V, 6]: sRGB colour, metallic, roughness, alpha in [0, 1]."""
    values = attributes.clip(0.0, 1.0).astype(np.float32)
    low, high = values[:, :3] / 12.92, ((values[:, :3] + 0.055) / 1.055) ** 2.4
    values[:, :3] = np.where(values[:, :3] <= 0.04045, low, high)
    values[:, 5] = np.where(values[:, 5] > 0.98, 1.0, values[:, 5])
    return _surface(vertices, faces, values, crease, solid=bool((values[:, 5] == 1.0).all()))


def _surface(vertices: np.ndarray, faces: np.ndarray, values: np.ndarray, crease: float, *, solid: bool) -> Surface:
    surface = Surface(vertices, faces, values[faces], solid=solid)
    if crease <= 0.0:
        return surface
    normals = corner_normals(vertices, faces, np.arange(len(vertices)), math.cos(math.radians(crease)))
    return Surface(vertices, faces, surface.corners, normals, solid=solid)


def _asset_surface(asset: FinishedAsset) -> Surface:
    """Textures of the asset; MASK cuts at one half, OPAQUE forgets alpha."""
    textures = asset.textures
    colour = textures.base_color.copy()
    if textures.alpha_mode == "OPAQUE":
        colour[..., 3] = 255
    elif textures.alpha_mode == "MASK":
        colour[..., 3] = np.where(colour[..., 3] >= 128, 255, 0)
    maps = Maps(asset.uvs[asset.faces], colour, textures.metallic_roughness)
    nothing = np.zeros((0, 3, 6), np.float32)
    solid = bool((colour[..., 3] == 255).all())
    return Surface(asset.vertices, asset.faces, nothing, asset.normals[asset.faces], maps, solid=solid)


def _grid(result: DualGrid | OVoxel) -> DualGrid:
    return result.grid if isinstance(result, OVoxel) else result


def _arrays(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    vertices = mesh.vertices.detach().float().cpu().numpy()
    return np.ascontiguousarray(vertices), np.ascontiguousarray(mesh.faces.cpu().numpy().astype(np.int32))
