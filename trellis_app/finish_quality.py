"""How much of the voxels is left after finishing: pictures of the finished asset against pictures of its voxels.

object ─▶ O-Voxel ─▶ decoded surface, values blended at each pixel ──▶ picture ┐
             └─▶ clean, simplify, unwrap, bake ─▶ textured mesh ─────▶ picture ┴▶ PSNR; stretch, overlap, use
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from trellis_kernels.rasterise.op import Fragments, rasterise

from trellis_app.export.finish import STEPS, finish
from trellis_app.mesh.bake import attributes_at
from trellis_app.mesh.surface import Surface, face_cross
from trellis_app.mesh.texel_use import texel_use
from trellis_app.ovoxel.attributes import flat_attributes
from trellis_app.ovoxel.from_mesh import mesh_to_dual_grid
from trellis_app.ovoxel.to_mesh import dual_grid_to_mesh
from trellis_app.render.camera import Camera, sphere_cameras
from trellis_app.settings import FinishOptions
from trellis_app.training.augment import to_view_frame
from trellis_app.training.library import LibraryObject
from trellis_app.types import FinishedAsset, Mesh, OVoxel

VIEWS, SIDE, SUPERSAMPLING = 6, 384, 2
MIP_LEVELS = (0, 1, 2)  # of the finished texture in the pictures


@dataclass(frozen=True)
class Quality:
    """Figures of one finished object."""

    name: str
    psnr: float  # dB over the pixels that either picture covers, all views
    psnr_mip1: float  # the same with the texture at half its size
    psnr_mip2: float  # at a quarter
    psnr_picture: float  # dB over whole pictures, at full size
    psnr_surface: float  # as psnr, colours straight from the voxels: what surface mode and face budget alone change
    charts: int
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


def compared(asset: OVoxel, finished: FinishedAsset, keep: list[np.ndarray]) -> list[float]:
    """PSNR of the finished mesh against the voxels: by mip level over covered pixels, whole pictures, `psnr_surface`.

    keep gets a row of pictures for each view: voxels, then the mip levels.
    """

    def read(fragments: Fragments, mesh: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        points = torch.from_numpy(interpolated(fragments, mesh[0], mesh[1]).astype(np.float32))
        return picture(fragments, attributes_at(asset, points).numpy()[:, :3])

    decoded = dual_grid_to_mesh(asset.grid)
    full, small = (decoded.vertices.numpy(), decoded.faces.numpy()), (finished.vertices, finished.faces)
    levels = mip_levels(finished.textures.base_color[:, :, :3])
    covered: list[list[np.ndarray]] = [[] for _ in MIP_LEVELS]
    whole: list[np.ndarray] = []
    plain: list[np.ndarray] = []
    for camera in sphere_cameras(VIEWS):
        wanted = read(seen(*full, camera), full)
        made = seen(*small, camera)
        uvs = interpolated(made, finished.uvs, finished.faces)
        pictures = [picture(made, looked_up(level, uvs)) for level in levels]
        either = (pictures[0][:, :, 3] > 0) | (wanted[:, :, 3] > 0)
        squares = [(got - wanted)[:, :, :3] ** 2 for got in pictures]
        for errors, square in zip(covered, squares, strict=True):
            errors.append(square[either])
        whole.append(squares[0])
        plain.append(((read(made, small) - wanted)[:, :, :3] ** 2)[either])
        keep.append(np.concatenate([shown[:, :, :3] for shown in (wanted, *pictures)], axis=1))
    return [round(decibels(errors), 2) for errors in (*covered, whole, plain)]


def stretch(surface: Surface, uvs: np.ndarray) -> tuple[float, float]:
    """(L2 stretch, 95th percentile of anisotropy) of UVs [V, 2] (Sander et al. 2001)."""
    points = surface.vertices.astype(np.float64)[surface.faces]
    e, g = points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]
    uv = uvs.astype(np.float64)[surface.faces]
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


def measure(name: str, asset: OVoxel, options: FinishOptions) -> tuple[Quality, np.ndarray]:
    """Finish an asset and compare: (figures, sheet of the pictures uint8 [H, W, 3], a row a view)."""
    seconds, last, finished = {}, time.perf_counter(), None
    for step in finish(asset, options):
        now = time.perf_counter()
        seconds[step.name], last, finished = now - last, now, step.asset
    assert finished is not None
    rows: list[np.ndarray] = []
    psnr, mip1, mip2, whole, plain = compared(asset, finished, rows)
    l2, anisotropy = stretch(Surface(finished.vertices, finished.faces), finished.uvs)
    use = texel_use(finished.uvs, finished.faces, options.texture_size)
    quality = Quality(
        name, psnr, mip1, mip2, whole, plain, finished.counts["charts"], round(use.covered / use.texels, 3), use.shared,
        l2, anisotropy, round(seconds[STEPS[3]], 3), round(seconds[STEPS[4]], 3), len(finished.faces),
    )  # fmt: skip
    return quality, (255 * np.concatenate(rows)).round().astype(np.uint8)
