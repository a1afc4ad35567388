"""The steps from an O-Voxel asset to what exporters write, in order.

OVoxel ─surface▶ ─clean (surface mode)▶ ─simplify▶ ─unwrap▶ ─bake▶ ─pack▶ FinishedAsset

Whole-surface work happens where the asset lies: compiled loops on a CPU, parallel kernels on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from trellis_app.errors import EmptyAssetError
from trellis_app.mesh import bake as cpu_bake
from trellis_app.mesh import modes as cpu_modes
from trellis_app.mesh import simplify as cpu_simplify
from trellis_app.mesh.bake import Baked, Sampler
from trellis_app.mesh.detail import surface_detail
from trellis_app.mesh.gpu import bake as gpu_bake
from trellis_app.mesh.gpu import health as gpu_health
from trellis_app.mesh.gpu import modes as gpu_modes
from trellis_app.mesh.gpu import simplify as gpu_simplify
from trellis_app.mesh.gpu.charts import half_edge_partners
from trellis_app.mesh.gpu.normals import split_mesh
from trellis_app.mesh.health import HealthReport, report
from trellis_app.mesh.normals import SplitSurface, split_surface
from trellis_app.mesh.surface import Surface
from trellis_app.mesh.unwrap import Atlas, unwrap
from trellis_app.ovoxel.to_mesh import dual_grid_to_mesh
from trellis_app.parallel import alongside
from trellis_app.progress import Check, go_on
from trellis_app.settings import FinishOptions
from trellis_app.types import FinishedAsset, Mesh, OVoxel

STEPS = ("Extract the surface", "Clean it", "Simplify", "Unwrap", "Bake the textures", "Pack")
SHARES = (2, 14, 14, 26, 34, 10)  # per cent of the seconds that each step takes on a CPU


@dataclass(frozen=True)
class FinishStep:
    """A finished step; the last one carries the asset."""

    name: str
    index: int  # 1 .. count
    count: int
    asset: FinishedAsset | None = None


def decoded_surface(asset: OVoxel) -> Surface:
    """The triangles of the dual grid on the CPU; raises EmptyAssetError if there are none."""
    return _on_cpu(_decoded(asset))


def finish(asset: OVoxel, options: FinishOptions, *, check: Check = go_on) -> Iterator[FinishStep]:
    """Clean, simplify, unwrap and bake; yields after every step, the asset with the last. Deterministic on a device.

    check: called inside the steps; it raises to stop them. Raises EmptyAssetError when no face is left to finish.
    """
    counts: dict[str, int] = {}

    def step(index: int, finished: FinishedAsset | None = None) -> FinishStep:
        return FinishStep(STEPS[index - 1], index, len(STEPS), finished)

    mesh = _decoded(asset)
    counts["decoded_faces"] = len(mesh.faces)
    yield step(1)
    full = _prepared(mesh, options.surface, 1.0 / asset.grid.resolution, check)
    del mesh
    if not len(full.faces):
        raise EmptyAssetError("Nothing of the shape was left after cleaning.", "Try another seed or another picture.")
    counts["cleaned_faces"] = len(full.faces)
    yield step(2)
    small = _simplified(full, options.faces, check)
    yield step(3)
    with _examined(small) as health:
        atlas = unwrap(small, texture_size=options.texture_size, check=check)
    counts["charts"] = int(atlas.chart.max()) + 1
    yield step(4)
    sampler = Sampler(asset, detail=surface_detail(full.vertices, full.faces, asset.grid.resolution))
    split, baked = _baked(small, atlas, sampler, options, check)
    yield step(5)
    yield step(6, _packed(split, baked, sampler, counts, health()))


def _decoded(asset: OVoxel) -> Mesh:
    mesh = dual_grid_to_mesh(asset.grid)
    if not len(mesh.faces):
        raise EmptyAssetError("The shape has no surface.", "Try another seed or another picture.")
    return mesh


def _prepared(mesh: Mesh, mode: str, voxel: float, check: Check) -> Mesh:
    if mesh.faces.is_cuda:
        return gpu_modes.prepare_surface(mesh, mode, voxel=voxel, check=check)
    return _as_mesh(cpu_modes.prepare_surface(_on_cpu(mesh), mode, voxel=voxel, check=check))


def _simplified(mesh: Mesh, target: int, check: Check) -> Mesh:
    if mesh.faces.is_cuda:
        return gpu_simplify.simplify(mesh, target, check=check)
    return _as_mesh(cpu_simplify.simplify(_on_cpu(mesh), target, check=check))


def _examined(mesh: Mesh) -> AbstractContextManager[Callable[[], HealthReport]]:
    """A call for the mesh's health, which compiled loops find beside the block; a GPU needs but milliseconds."""
    if mesh.faces.is_cuda:
        found = gpu_health.report(mesh)
        return nullcontext(lambda: found)
    surface = _on_cpu(mesh)
    return alongside(lambda: report(surface.vertices, surface.faces))


def _baked(
    mesh: Mesh, atlas: Atlas, sampler: Sampler, options: FinishOptions, check: Check
) -> tuple[SplitSurface, Baked]:
    """The mesh with the vertices that its charts and creases need, and its textures."""
    size, alpha, normal_map = options.texture_size, options.alpha, options.normal_map
    if mesh.faces.is_cuda:
        uvs = torch.from_numpy(atlas.uvs).to(mesh.faces.device)
        parted = split_mesh(mesh, half_edge_partners(mesh.faces), uvs)
        baked = gpu_bake.bake(parted, sampler, size=size, alpha=alpha, normal_map=normal_map, check=check)
        return parted.on_cpu(), baked
    surface = _on_cpu(mesh)
    split = split_surface(surface, atlas.uvs, partner=atlas.partner)
    frame = split if normal_map else None
    return split, cpu_bake.bake(surface, atlas, sampler, size=size, alpha=alpha, split=frame, check=check)


def _packed(
    split: SplitSurface, baked: Baked, sampler: Sampler, counts: dict[str, int], health: HealthReport
) -> FinishedAsset:
    counts |= {"faces": health.faces, "vertices": health.vertices, "parts": health.parts}
    counts |= {"boundary_edges": health.boundary_edges, "non_manifold_edges": health.non_manifold_edges}
    colors = np.rint(255.0 * sampler.at(split.vertices)[:, [0, 1, 2, 5]]).astype(np.uint8)
    if baked.textures.alpha_mode == "OPAQUE":
        colors[:, 3] = 255
    faces = split.faces
    if baked.translucent.any():
        faces = faces[np.argsort(baked.translucent, kind="stable")]
    return FinishedAsset(
        split.vertices, faces, split.normals, split.uvs, colors, baked.textures, tangents=baked.tangents,
        translucent_faces=int(baked.translucent.sum()), double_sided=not health.watertight,
        counts=counts | {"covered_texels": baked.covered}, health=health,
    )  # fmt: skip


def _on_cpu(mesh: Mesh) -> Surface:
    return Surface(mesh.vertices.float().cpu().numpy(), mesh.faces.int().cpu().numpy())


def _as_mesh(surface: Surface) -> Mesh:
    return Mesh(torch.from_numpy(surface.vertices), torch.from_numpy(surface.faces))
