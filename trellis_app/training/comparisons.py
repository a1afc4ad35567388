"""How close a shown asset comes to the true object; plain functions of arrays, so that worker processes run them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from trellis_app.mesh.bvh import build_tree, closest_points
from trellis_app.mesh.surface import Surface as Triangles
from trellis_app.mesh.surface import edge_table
from trellis_app.ovoxel.to_mesh import dual_grid_to_mesh
from trellis_app.render.camera import Camera
from trellis_app.render.deferred import Look, Surface, draw, draw_unlit
from trellis_app.render.preview import as_surface
from trellis_app.training.augment import to_view_frame
from trellis_app.training.library import LibraryObject
from trellis_app.training.metrics import f_scores, intersection_over_union, matched_rows, psnr, surface_points
from trellis_app.training.views import Light, view_surface
from trellis_app.types import DualGrid, OVoxel

POINTS = 10_000
VIEW_SIDE = 256
COVERED = 0.5  # share of a pixel that counts as the object


@dataclass(frozen=True, eq=False)
class AssetArrays:
    """An O-Voxel asset as small arrays, to travel between processes."""

    coords: np.ndarray  # int16 [M, 3]
    dual: np.ndarray  # float16 [M, 3]
    crossed: np.ndarray  # bool [M, 3]
    split: np.ndarray  # float32 [M, 1]
    attributes: np.ndarray  # uint8 [M, 6]
    resolution: int

    @classmethod
    def of(cls, asset: OVoxel) -> AssetArrays:
        """From tensors on any device."""
        grid = asset.grid
        split = torch.ones(len(grid.coords), 1) if grid.split is None else grid.split
        return cls(
            coords=grid.coords.to("cpu", torch.int16).numpy(),
            dual=grid.dual.to("cpu", torch.float16).numpy(),
            crossed=grid.crossed.cpu().numpy(),
            split=split.float().cpu().numpy(),
            attributes=(asset.attributes * 255).round().to("cpu", torch.uint8).numpy(),
            resolution=grid.resolution,
        )

    def asset(self) -> OVoxel:
        """Back to tensors."""
        grid = DualGrid(
            coords=torch.from_numpy(self.coords.astype(np.int32)),
            dual=torch.from_numpy(self.dual.astype(np.float32)),
            crossed=torch.from_numpy(self.crossed),
            split=torch.from_numpy(self.split),
            resolution=self.resolution,
        )
        return OVoxel(grid, torch.from_numpy(self.attributes.astype(np.float32) / 255))


@dataclass(frozen=True, eq=False)
class Framed:
    """An object and the yaw that turns it into the frame of a view."""

    object: LibraryObject
    yaw: float

    def surface(self) -> Surface:
        """In the view frame, with flat shading and its own materials."""
        framed = to_view_frame(self.object, self.yaw)
        return view_surface(framed, Light(Look(), crease=0.0))


Shown = AssetArrays | Framed


def surface_of(shown: Shown) -> Surface:
    """What the renderer draws."""
    return shown.surface() if isinstance(shown, Framed) else as_surface(shown.asset(), crease=0.0)


def compare(truth: Framed, shown: Shown, camera: Camera, seed: int) -> dict[str, float]:
    """F-scores at 0.05 and 0.02 of surface points; silhouette IoU and base-colour PSNR in the input view, unlit.

    "open": of what is shown as voxels, `open_edges`.
    """
    random = np.random.default_rng(seed)
    surfaces = truth.surface(), surface_of(shown)
    a, b = (surface_points(s.vertices, s.faces, POINTS, random) for s in surfaces)
    far, near = f_scores(a, b, (0.05, 0.02))
    look = Look(samples=2, threads=False)
    seen = [draw_unlit(s, camera, VIEW_SIDE, ("base_color", "mask"), look) for s in surfaces]
    masks = [picture["mask"] > COVERED for picture in seen]
    both = masks[0] & masks[1]
    colours = [picture["base_color"][both] / picture["mask"][both, None] for picture in seen]
    return {
        "f_005": far,
        "f_002": near,
        "iou": intersection_over_union(*masks),
        "psnr": psnr(colours[0], colours[1]),
        "open": open_edges(shown) if isinstance(shown, AssetArrays) else float("nan"),
    }


def compare_round_trip(truth: Framed, voxels: AssetArrays, decoded: AssetArrays, seed: int) -> dict[str, float]:
    """F1 of surface points within one voxel of the other surface, PSNR of the colours of voxels in both, `open_edges`.

    `voxels` is the true O-Voxel asset, `decoded` what came back from the autoencoders.
    """
    random = np.random.default_rng(seed)
    true, made = truth.surface(), surface_of(decoded)
    tolerance = 1 / decoded.resolution
    recall = share_near(true, made, tolerance, random)
    precision = share_near(made, true, tolerance, random)
    mine, theirs = matched_rows(decoded.coords, voxels.coords)
    colours = decoded.attributes[mine, :3] / 255, voxels.attributes[theirs, :3] / 255
    return {
        "f1": 2 * precision * recall / max(precision + recall, 1e-12),
        "precision": precision,
        "recall": recall,
        "psnr": psnr(*colours),
        "open": open_edges(decoded),
        "voxel_f1": 2 * len(mine) / max(len(decoded.coords) + len(voxels.coords), 1),
    }


def open_edges(shown: AssetArrays) -> float:
    """Edges with one face, for each triangle of the decoded surface: holes and rims."""
    mesh = dual_grid_to_mesh(shown.asset().grid)
    edges = edge_table(Triangles(mesh.vertices.numpy(), mesh.faces.numpy()))
    return float((edges.counts == 1).sum()) / max(len(mesh.faces), 1)


def share_near(of: Surface, to: Surface, tolerance: float, random: np.random.Generator) -> float:
    """Share of points of one surface that lie within the tolerance of the other surface (exact distances)."""
    points = surface_points(of.vertices, of.faces, POINTS, random)
    if not len(points) or not len(to.faces):
        return 0.0
    nearest, _ = closest_points(build_tree(Triangles(to.vertices, to.faces)), points)
    return float((np.linalg.norm(nearest - points, axis=1) <= tolerance).mean())


def portraits(shown: Shown, camera: Camera, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Lit pictures uint8 [side, side, 3] on light grey, from the input view and from behind."""
    surface = surface_of(shown)
    look = Look(threads=False)
    views = (draw(surface, c, side, look) for c in (camera, replace(camera, yaw=camera.yaw + np.pi)))
    front, back = (on_grey(view) for view in views)
    return front, back


def on_grey(rgba: np.ndarray, grey: int = 236) -> np.ndarray:
    """Straight RGBA uint8 over a plain grey, uint8 RGB."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return np.asarray((rgba[..., :3] * alpha + grey * (1 - alpha)).round().astype(np.uint8))
