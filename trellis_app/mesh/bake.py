"""Textures from voxels: every texel takes its values and its normal at the full-resolution surface.

Atlas ─rasterise▶ face of each texel ─▶ place and frame ─Sampler▶ values, normals ─fill_gutters▶ Textures
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numba import njit, prange
from trellis_kernels.grid_sample.op import grid_sample_3d
from trellis_kernels.rasterise.op import rasterise

from trellis_app.mesh.bvh import Tree, closest_points
from trellis_app.mesh.detail import Detail
from trellis_app.mesh.normals import SplitSurface
from trellis_app.mesh.surface import Surface
from trellis_app.mesh.tangents import vertex_tangents
from trellis_app.mesh.unwrap import Atlas
from trellis_app.progress import Check, go_on
from trellis_app.types import OVoxel, Textures

RING = 2  # texels around a chart that are sampled from the surface beyond its rim
SEE_THROUGH = 0.9  # below this a sample is not opaque
_RARE = 0.002  # a smaller share of see-through samples is noise
INVISIBLE = 0.02  # colour under less alpha than this is made up from its surroundings
FLATTEST = 0.05  # least third component of a stored normal


class ReadsPoints(Protocol):
    """Anything that knows PBR attributes at points."""

    def at(self, points: np.ndarray) -> np.ndarray:
        """Attributes float32 [Q, 6] in [0, 1] at points [Q, 3] in world units."""


@dataclass(frozen=True)
class Sampler:
    """Reads PBR attributes at points near the full-resolution surface."""

    asset: OVoxel
    tree: Tree | None = None  # of the full surface: points move to the closest one on it
    detail: Detail | None = None  # of the full surface: points move along its planes

    def at(self, points: np.ndarray) -> np.ndarray:
        """Attributes float32 [Q, 6] in [0, 1] at the surface near `points` [Q, 3] (world units)."""
        places = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float32))
        if self.tree is not None:
            places = torch.from_numpy(closest_points(self.tree, points)[0])
        elif self.detail is not None:
            places = self.detail.project(places.to(self.detail.points.device), None)[0]
        return attributes_at(self.asset, places).cpu().numpy()

    def facing(self, points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(attributes [Q, 6], unit normals [Q, 3]) at the surface near points that face along `normals` [Q, 3]."""
        if self.detail is None:
            return self.at(points), normals
        device = self.detail.points.device
        places, found = self.detail.project(torch.from_numpy(points).to(device), torch.from_numpy(normals).to(device))
        return attributes_at(self.asset, places).cpu().numpy(), found.cpu().numpy()


def attributes_at(asset: OVoxel, points: torch.Tensor) -> torch.Tensor:
    """Attributes float32 [Q, 6] in [0, 1] of the voxels at points [Q, 3] in world units, on the asset's device.

    Values are blended in proportion to alpha, so what cannot be seen lends no colour; far away the nearest one counts.
    """
    grid, side = asset.grid, asset.grid.resolution
    values = asset.attributes.float()
    weight = values[:, 5:] + 1e-3
    query = (points.to(values.device) + 0.5) * side
    coords = torch.nn.functional.pad(grid.coords, (1, 0))
    premultiplied = torch.cat([values[:, :5] * weight, weight], dim=1)
    mixed = grid_sample_3d(premultiplied, coords, (side, side, side), query, fallback_to_nearest=True)
    share = mixed[:, 5:].clamp_min(1e-6)
    return torch.cat([mixed[:, :5] / share, share - 1e-3], dim=1).clamp(0.0, 1.0)


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
def _weights(uvs: np.ndarray, f: int, u: float, v: float, out: np.ndarray) -> None:
    """Barycentric weights [3] of a point of the atlas; beyond a face's rim its plane is continued."""
    ax, ay = np.float64(uvs[f, 1, 0]) - uvs[f, 0, 0], np.float64(uvs[f, 1, 1]) - uvs[f, 0, 1]
    bx, by = np.float64(uvs[f, 2, 0]) - uvs[f, 0, 0], np.float64(uvs[f, 2, 1]) - uvs[f, 0, 1]
    px, py = u - uvs[f, 0, 0], v - uvs[f, 0, 1]
    det = ax * by - ay * bx
    s, t = 1.0 / 3.0, 1.0 / 3.0
    if abs(det) > 1e-14:
        s, t = (px * by - py * bx) / det, (ax * py - ay * px) / det
    if not (-8.0 <= s <= 9.0 and -8.0 <= t <= 9.0):  # a needle: continuing its plane would leave the neighbourhood
        s, t = 1.0 / 3.0, 1.0 / 3.0
    out[0], out[1], out[2] = 1.0 - s - t, s, t


@njit(cache=True, nogil=True)
def _mixed(values: np.ndarray, face: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None:
    """out [3] = the weighted sum of the rows of values [V, >= 3] at a face's vertices."""
    for k in range(3):
        out[k] = weight[0] * values[face[0], k] + weight[1] * values[face[1], k] + weight[2] * values[face[2], k]


@njit(cache=True, nogil=True)
def _unit(x: np.ndarray, otherwise: np.ndarray) -> None:
    length = np.sqrt(x[0] * x[0] + x[1] * x[1] + x[2] * x[2])
    if length > 1e-12:
        x /= length
    else:
        x[:] = otherwise


@njit(cache=True, nogil=True)
def _cross(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    out[0], out[1], out[2] = a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@njit(cache=True, nogil=True, parallel=True)
def _places(
    face: np.ndarray, rows: np.ndarray, uvs: np.ndarray, vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """World positions and unit shading normals, float32 [Q, 3] each, of the texels `rows` of face int32 [T, T]."""
    height, width = face.shape
    points, facing = np.empty((len(rows), 3), np.float32), np.empty((len(rows), 3), np.float32)
    chunk = 4096
    for part in prange((len(rows) + chunk - 1) // chunk):
        weight, mean, up = np.empty(3), np.empty(3), np.array([0.0, 0.0, 1.0])
        for i in range(part * chunk, min((part + 1) * chunk, len(rows))):
            y, x = rows[i] // width, rows[i] % width
            f = face[y, x]
            _weights(uvs, f, (x + 0.5) / width, (y + 0.5) / height, weight)
            _mixed(vertices, faces[f], weight, mean)
            points[i] = mean
            _mixed(normals, faces[f], weight, mean)
            _unit(mean, up)
            facing[i] = mean
    return points, facing


@njit(cache=True, nogil=True, parallel=True)
def _tangent_normals(
    face: np.ndarray, rows: np.ndarray, uvs: np.ndarray, faces: np.ndarray, normals: np.ndarray, tangents: np.ndarray,
    wanted: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Components float32 [Q, 3] of the wanted unit normals in the frames (tangent, bitangent, normal) of the texels.

    The frame is interpolated as viewers do: each of the three vectors by itself, then made unit.
    """
    height, width = face.shape
    out = np.empty((len(rows), 3), np.float32)
    chunk = 4096
    for part in prange((len(rows) + chunk - 1) // chunk):
        weight, t, b, n = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
        bn, nt, tb = np.empty(3), np.empty(3), np.empty(3)
        up = np.array([0.0, 0.0, 1.0])
        for i in range(part * chunk, min((part + 1) * chunk, len(rows))):
            y, x = rows[i] // width, rows[i] % width
            f = face[y, x]
            _weights(uvs, f, (x + 0.5) / width, (y + 0.5) / height, weight)
            _mixed(normals, faces[f], weight, n)
            _mixed(tangents, faces[f], weight, t)
            b[:] = 0.0
            for c in range(3):
                v = faces[f, c]
                signed = weight[c] * tangents[v, 3]
                b[0] += signed * (normals[v, 1] * tangents[v, 2] - normals[v, 2] * tangents[v, 1])
                b[1] += signed * (normals[v, 2] * tangents[v, 0] - normals[v, 0] * tangents[v, 2])
                b[2] += signed * (normals[v, 0] * tangents[v, 1] - normals[v, 1] * tangents[v, 0])
            _unit(n, up)
            _unit(t, up)
            _unit(b, up)
            w = wanted[i]
            _cross(b, n, bn)
            _cross(n, t, nt)
            _cross(t, b, tb)
            det = t[0] * bn[0] + t[1] * bn[1] + t[2] * bn[2]
            if abs(det) < 0.1:
                out[i] = up
                continue
            p = (w[0] * bn[0] + w[1] * bn[1] + w[2] * bn[2]) / det
            q = (w[0] * nt[0] + w[1] * nt[1] + w[2] * nt[2]) / det
            r = max((w[0] * tb[0] + w[1] * tb[1] + w[2] * tb[2]) / det, FLATTEST)
            length = np.sqrt(p * p + q * q + r * r)
            out[i, 0], out[i, 1], out[i, 2] = p / length, q / length, r / length
    return out


@njit(cache=True, nogil=True, parallel=True)
def _coarser(pixels: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted means of 2 x 2 texels and their weight, at most 1; sides round up."""
    side, half = pixels.shape[0], (pixels.shape[0] + 1) // 2
    out = np.zeros((half, half, pixels.shape[2]), np.float32)
    mass = np.zeros((half, half), np.float32)
    for y in prange(half):
        for x in range(half):
            for v in range(2 * y, min(2 * y + 2, side)):
                for u in range(2 * x, min(2 * x + 2, side)):
                    if weight[v, u] > 0:
                        mass[y, x] += weight[v, u]
                        for c in range(pixels.shape[2]):
                            out[y, x, c] += weight[v, u] * pixels[v, u, c]
            if mass[y, x] > 0:
                for c in range(pixels.shape[2]):
                    out[y, x, c] /= mass[y, x]
            mass[y, x] = min(mass[y, x], np.float32(1.0))
    return out, mass


@njit(cache=True, nogil=True, parallel=True)
def _pushed(pixels: np.ndarray, weight: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """The pixels, those of zero weight replaced by the coarse one over them."""
    out = pixels.copy()
    for y in prange(pixels.shape[0]):
        for x in range(pixels.shape[1]):
            if weight[y, x] <= 0:
                for c in range(pixels.shape[2]):
                    out[y, x, c] = coarse[y // 2, x // 2, c]
    return out


def fill_gutters(pixels: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Fill texels of zero weight from their surroundings by push-pull (Gortler et al., "The Lumigraph", 1996).

    pixels float32 [T, T, C], weight float32 [T, T]; texels of positive weight keep their value.
    """
    if len(pixels) == 1 or (weight > 0).all():
        return pixels
    coarse, mass = _coarser(pixels, weight)
    return _pushed(pixels, weight, fill_gutters(coarse, mass))


def choose_alpha_mode(alpha: np.ndarray) -> str:
    """OPAQUE, MASK or BLEND from alpha samples spread evenly over the surface, float [Q] in [0, 1]."""
    see_through = alpha[alpha < SEE_THROUGH]
    return alpha_mode(len(alpha), len(see_through), int(np.sum(see_through > 0.15)))


def alpha_mode(samples: int, see_through: int, between: int) -> str:
    """OPAQUE, MASK or BLEND from how many samples let light through, and how many of these are no holes."""
    if see_through <= _RARE * samples:
        return "OPAQUE"
    return "BLEND" if between > 0.25 * see_through else "MASK"


@dataclass(frozen=True)
class Baked:
    """Textures and which faces let light through."""

    textures: Textures
    translucent: np.ndarray  # bool [F]
    covered: int  # texels inside a face
    tangents: np.ndarray | None = None  # float32 [V, 4] of the split vertices: the frame of the normal map


def bake(
    surface: Surface, atlas: Atlas, sampler: ReadsPoints, *, size: int, alpha: str = "auto",
    split: SplitSurface | None = None, check: Check = go_on,
) -> Baked:  # fmt: skip
    """Sample the voxels at every texel centre of a size x size atlas and fill the gutters.

    `alpha` is auto, opaque, mask or blend; auto decides from the samples. With `split`, the vertices as they will be
    exported (normals.split_surface), and a Sampler that has detail, a normal map comes too: in the frames of
    tangents.vertex_tangents of exactly these vertices.
    """
    inside = covering_faces(atlas.uvs, size)
    face = inside
    for _ in range(RING):
        face = _grow(face)
    rows = np.flatnonzero(face.reshape(-1) >= 0)
    check()
    normals: np.ndarray | None = None
    tangents: np.ndarray | None = None
    if split is not None and isinstance(sampler, Sampler):
        points, facing = _places(face, rows, atlas.uvs, split.vertices, split.faces, split.normals)
        values, wanted = sampler.facing(points, facing)
        check()
        tangents = vertex_tangents(split.vertices, split.faces, split.normals, split.uvs)
        normals = _tangent_normals(face, rows, atlas.uvs, split.faces, split.normals, tangents, wanted)
    else:
        nothing = np.zeros_like(surface.vertices)
        values = sampler.at(_places(face, rows, atlas.uvs, surface.vertices, surface.faces, nothing)[0])
    check()
    in_chart = inside.reshape(-1)[rows] >= 0
    mode = choose_alpha_mode(values[in_chart, 5]) if alpha == "auto" else alpha.upper()
    translucent = np.zeros(len(surface.faces), dtype=bool)
    if mode == "BLEND":
        translucent = _translucent_faces(surface, face.reshape(-1)[rows], values[:, 5], sampler)
    maps = _maps(rows, values, normals, size, mode)
    check()
    return Baked(textures_of(_bytes(maps), mode), translucent, int(in_chart.sum()), tangents)


def covering_faces(uvs: np.ndarray, size: int) -> np.ndarray:
    """The face that holds each texel centre, int32 [T, T], -1 where none does; uvs float32 [F, 3, 2]."""
    clip = np.zeros((3 * len(uvs), 4), dtype=np.float32)
    clip[:, :2], clip[:, 3] = 2.0 * uvs.reshape(-1, 2) - 1.0, 1.0
    corners = torch.arange(len(clip), dtype=torch.int32).reshape(-1, 3)
    return rasterise(torch.from_numpy(clip), corners, (size, size)).face.numpy()


def _maps(rows: np.ndarray, values: np.ndarray, normals: np.ndarray | None, size: int, mode: str) -> np.ndarray:
    """Attributes, and normals behind them, float32 [T, T, 6 or 9] with filled gutters."""
    channels = values if normals is None else np.concatenate([values, normals], axis=1)
    pixels, weight = np.zeros((size * size, channels.shape[1]), np.float32), np.zeros(size * size, np.float32)
    pixels[rows], weight[rows] = channels, 1.0
    shape = (size, size)
    filled = fill_gutters(pixels.reshape(*shape, -1), weight.reshape(shape))
    unseen = values[:, 5] < INVISIBLE
    if mode != "OPAQUE" and unseen.any() and not unseen.all():  # else white specks beside what can be seen
        weight[rows[unseen]] = 0.0
        filled[:, :, :5] = fill_gutters(np.ascontiguousarray(filled[:, :, :5]), weight.reshape(shape))
    return filled


def _translucent_faces(surface: Surface, face: np.ndarray, alpha: np.ndarray, sampler: ReadsPoints) -> np.ndarray:
    """Faces whose mean alpha (over their texels; at the centre where they have none) lets light through, bool [F]."""
    texels = np.bincount(face, minlength=len(surface.faces))
    mean = np.bincount(face, weights=alpha, minlength=len(surface.faces)) / np.maximum(texels, 1)
    bare = np.flatnonzero(texels == 0)
    mean[bare] = sampler.at(surface.vertices[surface.faces[bare]].mean(axis=1))[:, 5]
    return mean < SEE_THROUGH


@njit(cache=True, nogil=True, parallel=True)
def _bytes(maps: np.ndarray) -> np.ndarray:
    """Attributes, and normals behind them, float32 [T, T, 6 or 9] as uint8."""
    out = np.empty(maps.shape, np.uint8)
    for y in prange(maps.shape[0]):
        for x in range(maps.shape[1]):
            for c in range(6):
                out[y, x, c] = np.uint8(255.0 * maps[y, x, c] + 0.5)
            if maps.shape[2] > 6:
                n = maps[y, x, 6:]
                length = max(np.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]), 1e-6)
                for c in range(3):
                    out[y, x, 6 + c] = np.uint8(127.5 * n[c] / length + 128.0)
    return out


def textures_of(texels: np.ndarray, mode: str) -> Textures:
    """glTF's maps from uint8 [T, T, 6 or 9]: colour, metallic, roughness, alpha, and the tangent-space normal.

    Fully transparent texels keep their colour.
    """
    base = np.ascontiguousarray(texels[:, :, [0, 1, 2, 5]])
    if mode == "OPAQUE":
        base[:, :, 3] = 255
    surface = np.zeros((*texels.shape[:2], 3), dtype=np.uint8)
    surface[:, :, 1], surface[:, :, 2] = texels[:, :, 4], texels[:, :, 3]
    normal = np.ascontiguousarray(texels[:, :, 6:]) if texels.shape[2] > 6 else None
    return Textures(base, surface, mode, normal=normal)
