"""Small O-Voxel assets made from simple meshes, for the tests of finishing and export."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import trimesh

from trellis_app.mesh.surface import Surface
from trellis_app.ovoxel.from_mesh import mesh_to_dual_grid
from trellis_app.ovoxel.to_mesh import dual_grid_to_mesh
from trellis_app.types import Mesh, OVoxel

Paint = Callable[[np.ndarray], np.ndarray]  # points [M, 3] -> attributes [M, 6] in [0, 1]


def surface_of(mesh: trimesh.Trimesh) -> Surface:
    """A trimesh as the finisher's surface."""
    return Surface(np.asarray(mesh.vertices, dtype=np.float32), np.asarray(mesh.faces, dtype=np.int32))


def ball(radius: float = 0.4, subdivisions: int = 4) -> trimesh.Trimesh:
    """A closed sphere around the origin."""
    return trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)


def ring() -> trimesh.Trimesh:
    """A closed torus around the z axis."""
    return trimesh.creation.torus(0.3, 0.12, major_sections=48, minor_sections=24)


def gradient(points: np.ndarray) -> np.ndarray:
    """Colour by position, metallic and roughness by height, opaque."""
    values = np.ones((len(points), 6), dtype=np.float32)
    values[:, :3] = points + 0.5
    values[:, 3], values[:, 4] = points[:, 2] + 0.5, 0.5 - 0.5 * points[:, 2]
    return values


def glass_top(points: np.ndarray) -> np.ndarray:
    """As `gradient`, but the upper half lets 60 % of the light through."""
    values = gradient(points)
    values[points[:, 2] > 0, 5] = 0.4
    return values


def voxel_asset(mesh: trimesh.Trimesh, resolution: int, paint: Paint = gradient) -> OVoxel:
    """The mesh as an O-Voxel asset whose attributes are painted at the voxels' dual vertices."""
    surface = surface_of(mesh)
    grid = mesh_to_dual_grid(Mesh(torch.from_numpy(surface.vertices), torch.from_numpy(surface.faces)), resolution)
    points = ((grid.coords + grid.dual) / resolution - 0.5).numpy()
    return OVoxel(grid, torch.from_numpy(np.clip(paint(points), 0, 1).astype(np.float32)))


def decoded(asset: OVoxel) -> Surface:
    """The raw surface of the dual grid, wound by axis."""
    mesh = dual_grid_to_mesh(asset.grid)
    return Surface(mesh.vertices.numpy(), mesh.faces.numpy())


def signed_volume(surface: Surface) -> float:
    """Volume enclosed by a closed surface; negative if it is inside out."""
    corners = surface.vertices.astype(np.float64)[surface.faces]
    return float(np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6)
