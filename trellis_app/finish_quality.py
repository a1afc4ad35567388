"""How much of the voxels is left after finishing: pictures of the finished asset against pictures of its voxels.

object ─▶ O-Voxel ─▶ decoded surface, values blended at each pixel ──▶ picture ┐
             └─▶ clean, simplify, unwrap, bake ─▶ textured mesh ─────▶ picture ┴▶ PSNR; stretch, overlap, use
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from trellis_kernels.rasterise.op import Fragments, rasterise

from trellis_app.errors import TrellisError
from trellis_app.mesh.bake import Sampler, attributes_at, bake, covering_faces
from trellis_app.mesh.detail import surface_detail
from trellis_app.mesh.modes import prepare_surface
from trellis_app.mesh.normals import SplitSurface, split_surface
from trellis_app.mesh.simplify import simplify
from trellis_app.mesh.surface import Surface, face_cross
from trellis_app.mesh.unwrap import Atlas, unwrap
from trellis_app.ovoxel.attributes import flat_attributes
from trellis_app.ovoxel.from_mesh import mesh_to_dual_grid
from trellis_app.ovoxel.to_mesh import dual_grid_to_mesh
from trellis_app.render.camera import Camera, sphere_cameras
from trellis_app.training.augment import to_view_frame
from trellis_app.training.library import LibraryObject, read_library
from trellis_app.types import Mesh, OVoxel

VIEWS, SIDE, SUPERSAMPLING = 6, 384, 2
MIP_LEVELS = (0, 1, 2)  # of the finished texture in the pictures


@dataclass(frozen=True)
class Quality:
    """Figures of one finished object."""

    name: str
    psnr: list[float]  # dB by mip level: pixels that either picture covers, all views
    psnr_picture: float  # dB over whole pictures, as the level 0 above
    charts: int
    margin: float  # texels
    use: float  # covered share of the atlas
    overlap: int  # texel centres in more than one face
    stretch: float  # L2 stretch (Sander et al. 2001) at the mean texel density; 1 is none
    anisotropy95: float  # longest over shortest extent of a texel on the surface, 95th percentile by area
    unwrap_seconds: float
    bake_seconds: float
    faces: int


def voxels_of(obj: LibraryObject, resolution: int) -> OVoxel:
    """The object as an O-Voxel asset, seen side to -Y; raises MeshError where it crosses no edge of the grid."""
    framed = to_view_frame(obj, 0.0)
    grid = mesh_to_dual_grid(Mesh(torch.from_numpy(framed.vertices), torch.from_numpy(framed.faces)), resolution)
    values = flat_attributes(framed.vertices, framed.faces, framed.corner_rgba, framed.metal_rough, grid)
    return OVoxel(grid, torch.from_numpy(np.asarray(values, np.float32) / 255.0))


def seen(vertices: np.ndarray, faces: np.ndarray, camera: Camera) -> Fragments:
    """What the samples of a picture see."""
    size = SIDE * SUPERSAMPLING
    return rasterise(torch.from_numpy(camera.clip(vertices)), torch.from_numpy(faces), (size, size))


def interpolated(fragments: Fragments, values: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Vertex values [V, C] at the samples that see a face, float64 [Q, C]."""
    hit = fragments.face.numpy() >= 0
    corners = values[faces[fragments.face.numpy()[hit]]]
    return np.einsum("qk,qkc->qc", fragments.barycentric.numpy()[hit].astype(np.float64), corners)


def picture(fragments: Fragments, colors: np.ndarray) -> np.ndarray:
    """Samples' colours [Q, 3] as a picture float64 [S, S, 4]: colour before a grey ground, and coverage."""
    full = np.full((*fragments.face.shape, 4), (0.5, 0.5, 0.5, 0.0))
    full[fragments.face.numpy() >= 0] = np.concatenate([colors, np.ones((len(colors), 1))], axis=1)
    return full.reshape(SIDE, SUPERSAMPLING, SIDE, SUPERSAMPLING, 4).mean(axis=(1, 3))


def looked_up(texture: np.ndarray, uvs: np.ndarray) -> np.ndarray:
    """Bilinear texture values [Q, C] of float [T, T, C] at uvs [Q, 2], as a GPU samples one mip level."""
    size = len(texture)
    at = uvs * size - 0.5
    low = np.floor(at).astype(int)
    part = (at - low)[:, :, None]
    x0, y0 = low.clip(0, size - 1).T
    x1, y1 = (low + 1).clip(0, size - 1).T
    top = texture[y0, x0] * (1 - part[:, 0]) + texture[y0, x1] * part[:, 0]
    bottom = texture[y1, x0] * (1 - part[:, 0]) + texture[y1, x1] * part[:, 0]
    return top * (1 - part[:, 1]) + bottom * part[:, 1]


def mip_levels(texture: np.ndarray) -> list[np.ndarray]:
    """The texture uint8 [T, T, 3] as float [0, 1] and its coarser levels by means of 2 x 2."""
    levels = [texture.astype(np.float64) / 255.0]
    while len(levels) <= max(MIP_LEVELS):
        last = levels[-1]
        levels.append((last[0::2, 0::2] + last[1::2, 0::2] + last[0::2, 1::2] + last[1::2, 1::2]) / 4.0)
    return levels


def decibels(errors: list[np.ndarray]) -> float:
    """PSNR of squared errors of values in [0, 1]."""
    return float(-10.0 * np.log10(max(float(np.concatenate([e.reshape(-1) for e in errors]).mean()), 1e-10)))


def compared(
    asset: OVoxel, split: SplitSurface, texture: np.ndarray, keep: list[np.ndarray] | None = None
) -> tuple[list[float], float]:
    """(PSNR by mip level over covered pixels, PSNR of whole pictures) of the finished mesh against the voxels."""
    decoded = dual_grid_to_mesh(asset.grid)
    vertices, faces = decoded.vertices.numpy(), decoded.faces.numpy()
    levels = mip_levels(texture)
    covered: list[list[np.ndarray]] = [[] for _ in MIP_LEVELS]
    whole: list[np.ndarray] = []
    for camera in sphere_cameras(VIEWS):
        true = seen(vertices, faces, camera)
        points = interpolated(true, vertices, faces).astype(np.float32)
        wanted = picture(true, attributes_at(asset, torch.from_numpy(points)).numpy()[:, :3])
        made = seen(split.vertices, split.faces, camera)
        uvs = interpolated(made, split.uvs, split.faces)
        row = [wanted[:, :, :3]]
        for errors, level in zip(covered, MIP_LEVELS, strict=True):
            got = picture(made, looked_up(levels[level], uvs))
            square = (got[:, :, :3] - wanted[:, :, :3]) ** 2
            errors.append(square[(got[:, :, 3] > 0) | (wanted[:, :, 3] > 0)])
            if level == 0:
                whole.append(square)
            row.append(got[:, :, :3])
        if keep is not None:
            keep.append(np.concatenate(row, axis=1))
    return [round(decibels(errors), 2) for errors in covered], round(decibels(whole), 2)


def stretch(surface: Surface, atlas: Atlas) -> tuple[float, float]:
    """(L2 stretch, 95th percentile of anisotropy) of the UVs (Sander et al., "Texture mapping progressive meshes")."""
    points = surface.vertices.astype(np.float64)[surface.faces]
    e, g = points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]
    uv = atlas.uvs.astype(np.float64)
    a, b = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    det = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    area = 0.5 * np.linalg.norm(face_cross(surface), axis=1)
    sound = (np.abs(det) > 1e-14) & (area > 1e-14)
    e, g, a, b, det, area = e[sound], g[sound], a[sound], b[sound], det[sound], area[sound]
    du = (e * b[:, 1:] - g * a[:, 1:]) / det[:, None]
    dv = (g * a[:, :1] - e * b[:, :1]) / det[:, None]
    square = (du**2).sum(axis=1) + (dv**2).sum(axis=1)
    product = np.linalg.norm(np.cross(du, dv), axis=1)
    density = 0.5 * np.abs(det).sum() / area.sum()
    spread = np.sqrt(np.maximum(square**2 - 4 * product**2, 0))
    anisotropy = np.sqrt((square + spread) / np.maximum(square - spread, 1e-12 * square))
    order = np.argsort(anisotropy)
    middle = np.searchsorted(np.cumsum(area[order]), 0.95 * area.sum())
    l2 = float(np.sqrt((0.5 * square * area).sum() / area.sum() * density))
    return round(l2, 3), round(float(anisotropy[order][min(middle, len(order) - 1)]), 2)


def overlap(uvs: np.ndarray, size: int) -> int:
    """Texel centres that lie in more than one face: where drawing in the reverse order shows another face."""
    first = covering_faces(uvs, size)
    last = covering_faces(np.ascontiguousarray(uvs[::-1]), size)
    return int(((first >= 0) & (first != len(uvs) - 1 - last)).sum())


def measure(
    name: str, asset: OVoxel, *, faces: int, texture_size: int, keep: list[np.ndarray] | None = None
) -> Quality:
    """Finish the asset step by step as export/finish.py does and compare; keep gets rows of pictures."""
    decoded = dual_grid_to_mesh(asset.grid)
    full = prepare_surface(
        Surface(decoded.vertices.numpy(), decoded.faces.numpy()), "single", voxel=1.0 / asset.grid.resolution
    )
    surface = simplify(full, faces)
    start = time.perf_counter()
    atlas = unwrap(surface, texture_size=texture_size)
    unwrapped = time.perf_counter()
    split = split_surface(surface, atlas.chart, atlas.uvs)
    detail = surface_detail(torch.from_numpy(full.vertices), torch.from_numpy(full.faces), asset.grid.resolution)
    baked = bake(surface, atlas, Sampler(asset, detail=detail), size=texture_size, split=split)
    done = time.perf_counter()
    psnr, whole = compared(asset, split, baked.textures.base_color[:, :, :3], keep)
    return Quality(
        name, psnr, whole, int(atlas.chart.max()) + 1, atlas.margin, round(baked.covered / texture_size**2, 3),
        overlap(atlas.uvs, texture_size), *stretch(surface, atlas), round(unwrapped - start, 3),
        round(done - unwrapped, 3), len(surface.faces),
    )  # fmt: skip


def summary(found: list[Quality]) -> dict[str, object]:
    """Least, median and largest of every figure."""
    table: dict[str, object] = {"objects": len(found)}
    for level in MIP_LEVELS:
        values = [quality.psnr[level] for quality in found]
        table[f"psnr_mip{level}"] = {"least": min(values), "median": statistics.median(values)}
    for key in (
        "psnr_picture",
        "charts",
        "margin",
        "use",
        "overlap",
        "stretch",
        "anisotropy95",
        "unwrap_seconds",
        "bake_seconds",
    ):
        values = [getattr(quality, key) for quality in found]
        table[key] = {"least": min(values), "median": statistics.median(values), "most": max(values)}
    return table


def assets(library: Path, resolution: int, part: slice) -> Iterator[tuple[str, OVoxel]]:
    objects = read_library(library)
    for index in range(len(objects))[part]:
        obj = objects[index]
        try:
            yield obj.name, voxels_of(obj, resolution)
        except TrellisError as error:
            sys.stderr.write(f"{obj.name}: {error}\n")


def main(arguments: list[str] | None = None) -> int:
    """Measure every object of a library; a JSON line each on the standard output, the summary last."""
    parser = argparse.ArgumentParser(prog="finish-quality", description=main.__doc__)
    parser.add_argument("--library", type=Path, default=Path("../shared/data/dev.npz"), help="npz collection")
    parser.add_argument("--resolution", type=int, default=256, help="voxels along a side")
    parser.add_argument("--faces", type=int, default=50_000)
    parser.add_argument("--texture-size", type=int, default=1024)
    parser.add_argument("--every", type=int, default=1, help="take every n-th object only")
    parser.add_argument("--start", type=int, default=0, help="the first object taken")
    parser.add_argument("--pictures", type=Path, help="folder for a sheet of each object: voxels, then mip 0, 1, 2")
    options = parser.parse_args(arguments)
    found: list[Quality] = []
    for name, asset in assets(options.library, options.resolution, slice(options.start, None, options.every)):
        keep: list[np.ndarray] | None = [] if options.pictures else None
        quality = measure(name, asset, faces=options.faces, texture_size=options.texture_size, keep=keep)
        sys.stdout.write(json.dumps(asdict(quality)) + "\n")
        sys.stdout.flush()
        found.append(quality)
        if keep:
            options.pictures.mkdir(parents=True, exist_ok=True)
            sheet = (255 * np.concatenate(keep)).round().astype(np.uint8)
            Image.fromarray(sheet).save(options.pictures / f"{name.replace('/', '_')}.png")
    sys.stdout.write(json.dumps(summary(found)) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
