"""The steps from an O-Voxel asset to what exporters write, in order.

OVoxel ─surface▶ ─clean (surface mode)▶ ─simplify▶ ─unwrap▶ ─bake▶ ─pack▶ FinishedAsset
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trellis_app.errors import EmptyAssetError
from trellis_app.mesh.bake import Sampler, bake
from trellis_app.mesh.bvh import build_tree
from trellis_app.mesh.health import report
from trellis_app.mesh.modes import prepare_surface
from trellis_app.mesh.normals import crease_normals
from trellis_app.mesh.simplify import simplify
from trellis_app.mesh.surface import Surface
from trellis_app.mesh.unwrap import Atlas, unwrap
from trellis_app.ovoxel.to_mesh import dual_grid_to_mesh
from trellis_app.progress import Check, go_on
from trellis_app.settings import FinishOptions
from trellis_app.types import FinishedAsset, OVoxel

STEPS = ("Extract the surface", "Clean it", "Simplify", "Unwrap", "Bake the textures", "Pack")


@dataclass(frozen=True)
class FinishStep:
    """A finished step; the last one carries the asset."""

    name: str
    index: int  # 1 .. count
    count: int
    asset: FinishedAsset | None = None


def decoded_surface(asset: OVoxel) -> Surface:
    """The triangles of the dual grid on the CPU; raises EmptyAssetError if there are none."""
    mesh = dual_grid_to_mesh(asset.grid)
    if not len(mesh.faces):
        raise EmptyAssetError("The shape has no surface.", "Try another seed or another picture.")
    return Surface(mesh.vertices.cpu().numpy(), mesh.faces.cpu().numpy())


def finish(asset: OVoxel, options: FinishOptions, *, check: Check = go_on) -> Iterator[FinishStep]:
    """Clean, simplify, unwrap and bake; yields after every step, the asset with the last. Deterministic.

    check: called inside the steps; it raises to stop them. Raises EmptyAssetError when no face is left to finish.
    """
    counts: dict[str, int] = {}

    def step(index: int, finished: FinishedAsset | None = None) -> FinishStep:
        return FinishStep(STEPS[index - 1], index, len(STEPS), finished)

    decoded = decoded_surface(asset)
    counts["decoded_faces"] = len(decoded.faces)
    yield step(1)
    full = prepare_surface(decoded, options.surface, voxel=1.0 / asset.grid.resolution, check=check)
    if not len(full.faces):
        raise EmptyAssetError("Nothing of the shape was left after cleaning.", "Try another seed or another picture.")
    counts["cleaned_faces"] = len(full.faces)
    yield step(2)
    surface = simplify(full, options.faces)
    yield step(3)
    atlas = unwrap(surface, texture_size=options.texture_size)
    yield step(4)
    sampler = Sampler(asset, build_tree(full))
    baked = bake(surface, atlas, sampler, size=options.texture_size, alpha=options.alpha)
    yield step(5)
    health = report(surface.vertices, surface.faces)
    counts |= {"faces": health.faces, "vertices": health.vertices, "parts": health.parts}
    counts |= {"boundary_edges": health.boundary_edges, "non_manifold_edges": health.non_manifold_edges}
    counts |= {"charts": int(atlas.chart.max()) + 1, "covered_texels": baked.covered}
    order = np.argsort(baked.translucent, kind="stable")
    vertices, faces, normals, uvs = _split_vertices(surface, atlas)
    colors = np.rint(255.0 * sampler.at(vertices)[:, [0, 1, 2, 5]]).astype(np.uint8)
    if baked.textures.alpha_mode == "OPAQUE":
        colors[:, 3] = 255
    finished = FinishedAsset(
        vertices, faces[order], normals, uvs, colors, baked.textures,
        translucent_faces=int(baked.translucent.sum()), double_sided=not health.watertight,
        counts=counts, health=health,
    )  # fmt: skip
    yield step(6, finished)


def _split_vertices(surface: Surface, atlas: Atlas) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(vertices, faces, normals, uvs) with one vertex for each distinct crease group and chart."""
    groups, normals = crease_normals(surface)
    key = groups.astype(np.int64).reshape(-1) * (int(atlas.chart.max()) + 1) + np.repeat(atlas.chart, 3)
    _, first, index = np.unique(key, return_index=True, return_inverse=True)
    vertices = surface.vertices[surface.faces.reshape(-1)[first]]
    faces = index.reshape(-1, 3).astype(np.int32)
    return vertices, faces, normals[groups.reshape(-1)[first]], atlas.uvs.reshape(-1, 2)[first]
