"""Textures from voxels: every texel takes its colour at the decoded surface."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from trellis_kernels.grid_sample.op import grid_sample_3d
from trellis_kernels.rasterise.op import rasterise

from trellis_app.mesh.bvh import Tree, closest_points
from trellis_app.mesh.surface import Surface
from trellis_app.mesh.unwrap import Atlas
from trellis_app.types import OVoxel, Textures

_RING = 2  # texels around a chart that are sampled from the surface beyond its rim
_SEE_THROUGH = 0.9  # below this a sample is not opaque
_RARE = 0.002  # a smaller share of see-through samples is noise


@dataclass(frozen=True)
class Sampler:
    """Reads PBR attributes at points near the decoded surface."""

    asset: OVoxel
    tree: Tree  # of the decoded surface, before simplification

    def at(self, points: np.ndarray) -> np.ndarray:
        """Attributes float32 [Q, 6] in [0, 1] at the surface points closest to `points` [Q, 3] (world units)."""
        grid, device = self.asset.grid, self.asset.attributes.device
        side = grid.resolution
        on_surface, _ = closest_points(self.tree, points)
        query = torch.from_numpy((on_surface + np.float32(0.5)) * np.float32(side)).to(device)
        coords = torch.cat([torch.zeros_like(grid.coords[:, :1]), grid.coords], dim=1)
        values = grid_sample_3d(
            self.asset.attributes, coords, (side, side, side), query, batch=None, fallback_to_nearest=True
        )
        return values.float().clamp(0.0, 1.0).cpu().numpy()


@njit(cache=True, nogil=True)
def _grow(face: np.ndarray) -> np.ndarray:
    """Give every empty texel beside a covered one the face of a neighbour (sides before corners)."""
    height, width = face.shape
    out = face.copy()
    for y in range(height):
        for x in range(width):
            if face[y, x] >= 0:
                continue
            for k in range(8):
                dy = (0, 0, -1, 1, -1, -1, 1, 1)[k]
                dx = (-1, 1, 0, 0, -1, 1, -1, 1)[k]
                v, u = y + dy, x + dx
                if 0 <= v < height and 0 <= u < width and face[v, u] >= 0:
                    out[y, x] = face[v, u]
                    break
    return out


@njit(cache=True, nogil=True)
def _positions(face: np.ndarray, uvs: np.ndarray, corners: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """World positions float32 [Q, 3] of texel centres; beyond a face's rim its plane is continued."""
    height, width = face.shape
    out = np.empty((len(rows), 3), np.float32)
    for i in range(len(rows)):
        y, x = rows[i] // width, rows[i] % width
        f = face[y, x]
        px, py = (x + 0.5) / width - uvs[f, 0, 0], (y + 0.5) / height - uvs[f, 0, 1]
        ax, ay = uvs[f, 1, 0] - uvs[f, 0, 0], uvs[f, 1, 1] - uvs[f, 0, 1]
        bx, by = uvs[f, 2, 0] - uvs[f, 0, 0], uvs[f, 2, 1] - uvs[f, 0, 1]
        det = ax * by - ay * bx
        s = (px * by - py * bx) / det if abs(det) > 1e-14 else 0.0
        t = (ax * py - ay * px) / det if abs(det) > 1e-14 else 0.0
        if s < -8.0 or s > 9.0 or t < -8.0 or t > 9.0:  # a needle: continuing its plane would leave the neighbourhood
            s, t = 1.0 / 3.0, 1.0 / 3.0
        for k in range(3):
            out[i, k] = (
                corners[f, 0, k] + s * (corners[f, 1, k] - corners[f, 0, k]) + t * (corners[f, 2, k] - corners[f, 0, k])
            )
    return out


def fill_gutters(pixels: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Fill texels of zero weight from their surroundings by push-pull (Gortler et al., "The Lumigraph", 1996).

    pixels float32 [T, T, C], weight float32 [T, T]; texels of positive weight keep their value.
    """
    side = len(pixels)
    if side == 1 or (weight > 0).all():
        return pixels
    even = side + side % 2
    padded = np.zeros((even, even, pixels.shape[2] + 1), dtype=np.float32)
    padded[:side, :side, :-1] = pixels * weight[:, :, None]
    padded[:side, :side, -1] = weight
    total = padded[0::2, 0::2] + padded[1::2, 0::2] + padded[0::2, 1::2] + padded[1::2, 1::2]
    mass = total[:, :, -1]
    coarse = total[:, :, :-1] / np.maximum(mass, 1e-12)[:, :, None]
    coarse = fill_gutters(coarse, np.minimum(mass, 1.0))
    filled = np.repeat(np.repeat(coarse, 2, axis=0), 2, axis=1)[:side, :side]
    return np.where(weight[:, :, None] > 0, pixels, filled)


def choose_alpha_mode(alpha: np.ndarray) -> str:
    """OPAQUE, MASK or BLEND from alpha samples spread evenly over the surface, float [Q] in [0, 1]."""
    see_through = alpha[alpha < _SEE_THROUGH]
    if len(see_through) <= _RARE * len(alpha):
        return "OPAQUE"
    between = np.mean(see_through > 0.15)
    return "BLEND" if between > 0.25 else "MASK"


@dataclass(frozen=True)
class Baked:
    """Textures and which faces let light through."""

    textures: Textures
    translucent: np.ndarray  # bool [F]
    covered: int  # texels inside a face


def bake(surface: Surface, atlas: Atlas, sampler: Sampler, *, size: int, alpha: str = "auto") -> Baked:
    """Sample the voxels at every texel centre of a size x size atlas and fill the gutters.

    `alpha` is auto, opaque, mask or blend; auto decides from the samples.
    """
    clip = np.zeros((3 * len(surface.faces), 4), dtype=np.float32)
    clip[:, :2], clip[:, 3] = 2.0 * atlas.uvs.reshape(-1, 2) - 1.0, 1.0
    corners = torch.arange(len(clip), dtype=torch.int32).reshape(-1, 3)
    inside = rasterise(torch.from_numpy(clip), corners, (size, size)).face.numpy()
    face = inside
    for _ in range(_RING):
        face = _grow(face)
    rows = np.flatnonzero(face.reshape(-1) >= 0)
    points = _positions(face, atlas.uvs.astype(np.float64), surface.vertices[surface.faces].astype(np.float64), rows)
    values = sampler.at(points)
    in_chart = inside.reshape(-1)[rows] >= 0
    mode = choose_alpha_mode(values[in_chart, 5]) if alpha == "auto" else alpha.upper()
    translucent = np.zeros(len(surface.faces), dtype=bool)
    if mode == "BLEND":
        translucent = _translucent_faces(surface, face.reshape(-1)[rows], values[:, 5], sampler)
    pixels, weight = np.zeros((size * size, 6), np.float32), np.zeros(size * size, np.float32)
    pixels[rows], weight[rows] = values, 1.0
    pixels = fill_gutters(pixels.reshape(size, size, 6), weight.reshape(size, size))
    return Baked(pack_textures(pixels, mode), translucent, int(in_chart.sum()))


def _translucent_faces(surface: Surface, face: np.ndarray, alpha: np.ndarray, sampler: Sampler) -> np.ndarray:
    """Faces whose mean alpha (over their texels; at the centre where they have none) lets light through, bool [F]."""
    texels = np.bincount(face, minlength=len(surface.faces))
    mean = np.bincount(face, weights=alpha, minlength=len(surface.faces)) / np.maximum(texels, 1)
    bare = np.flatnonzero(texels == 0)
    mean[bare] = sampler.at(surface.vertices[surface.faces[bare]].mean(axis=1))[:, 5]
    return mean < _SEE_THROUGH


def pack_textures(pixels: np.ndarray, mode: str) -> Textures:
    """Quantise attributes float32 [T, T, 6] to glTF's two maps; fully transparent texels keep their colour."""
    quantised = np.rint(255.0 * pixels).astype(np.uint8)
    base = np.ascontiguousarray(quantised[:, :, [0, 1, 2, 5]])
    if mode == "OPAQUE":
        base[:, :, 3] = 255
    surface = np.zeros((*quantised.shape[:2], 3), dtype=np.uint8)
    surface[:, :, 1], surface[:, :, 2] = quantised[:, :, 4], quantised[:, :, 3]
    return Textures(base, surface, mode)
