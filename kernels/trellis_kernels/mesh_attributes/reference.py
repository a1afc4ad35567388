"""Attributes of voxels from a mesh, written to be read: every voxel asks every triangle. For tests on small meshes."""

from __future__ import annotations

import numpy as np

from trellis_kernels.mesh_attributes.surface import Material, PaintedMesh, Texture, TexturedMesh, mip_levels
from trellis_kernels.mesh_to_dual_grid.op import GridBox
from trellis_kernels.mesh_to_dual_grid.reference import overlapped, plane


def flat_attributes(mesh: PaintedMesh, coords: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """As cpu.flat_attributes: the mean over the triangles a voxel meets, weighted by 1 - distance to its centre."""
    row = {tuple(int(c) for c in cell): k for k, cell in enumerate(coords)}
    sums, weights = np.zeros((len(coords), 6)), np.zeros((len(coords), 1))
    for t, face in enumerate(mesh.faces):
        triangle = mesh.vertices[face].astype(np.float64)
        for cell in overlapped(triangle, plane(triangle)[0], np.ones(3), cells):
            if cell in row:
                share, distance = closest(triangle, np.array(cell) + 0.5)
                weight = max(1.0 - distance, 1e-3)
                rgba = share @ mesh.corner_rgba[t].astype(np.float64)
                sums[row[cell]] += weight * np.array([*rgba[:3], *mesh.metal_rough[t], rgba[3]])
                weights[row[cell]] += weight
    grey = np.array([128, 128, 128, 128, 128, 255])
    return np.where(weights > 0, sums / np.maximum(weights, 1e-9) + 0.5, grey).astype(np.uint8)


def closest(triangle: np.ndarray, point: np.ndarray) -> tuple[np.ndarray, float]:
    """Barycentric coordinates of the closest point of a triangle: the best of its inside, its edges and its corners."""
    candidates = list(np.eye(3))
    a, u, w = triangle[0], triangle[1] - triangle[0], triangle[2] - triangle[0]
    b, c = np.linalg.lstsq(np.stack([u, w], 1), point - a, rcond=None)[0]
    candidates.append(np.array([1.0 - b - c, b, c]))
    for i, j in ((0, 1), (1, 2), (2, 0)):
        edge = triangle[j] - triangle[i]
        share = (point - triangle[i]) @ edge / max(edge @ edge, 1e-30)
        candidates.append((1.0 - share) * np.eye(3)[i] + share * np.eye(3)[j])
    inside = [s for s in candidates if (s >= -1e-12).all()]
    distances = [float(np.linalg.norm(s @ triangle - point)) for s in inside]
    best = int(np.argmin(distances))
    return inside[best], distances[best]


def textured_attributes(
    mesh: TexturedMesh, vertices: np.ndarray, coords: np.ndarray, box: GridBox, normals: np.ndarray | None = None
) -> np.ndarray:
    """As op.sampled without `original`; vertices are relative to the grid's corner."""
    h, cells = box.step.astype(np.float64), np.array(box.cells)
    row = {tuple(int(c) for c in cell): k for k, cell in enumerate(coords)}
    sums, weights = np.zeros((len(coords), 6)), np.zeros((len(coords), 1))
    for t, face in enumerate(mesh.faces):
        triangle = vertices[face].astype(np.float64)
        width = footprint(triangle, mesh.uv[t].astype(np.float64), h.max())
        for cell in row.keys() & set(overlapped(triangle, plane(triangle)[0], h, cells)):
            share, distance = closest(triangle, (np.array(cell) + 0.5) * h)
            tint = np.ones(4) if mesh.colors is None else share @ mesh.colors[t]
            material, place = mesh.materials[mesh.material[t]], share @ mesh.uv[t]
            value = shade(material, place, width, tint)
            if normals is not None:
                value[:3] = bent(material.base_color, value[:3], tangents(triangle, mesh.uv[t]), share @ normals[t])
            weight = max(1.0 - distance / h[0], 1e-3)
            sums[row[cell]] += weight * value
            weights[row[cell]] += weight
    grey = np.array([0.5, 0.5, 0.5, 0.5, 0.5, 1.0])
    return np.where(weights > 0, sums / np.maximum(weights, 1e-9), grey).astype(np.float32)


def footprint(triangle: np.ndarray, uv: np.ndarray, size: float) -> float:
    """Width in UV units of something of `size` on the triangle."""
    edges, sides = np.diff(triangle, axis=0), np.diff(uv, axis=0)
    if abs(np.linalg.det(sides)) < 1e-30:
        return 0.0
    along_u, along_v = np.linalg.norm(np.linalg.solve(sides, edges), axis=1)
    return float(size / np.sqrt(along_u * along_v))


def tangents(triangle: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Unit dP/du and dP/dv [2, 3], or zeros."""
    edges, sides = np.diff(triangle, axis=0), np.diff(uv.astype(np.float64), axis=0)
    if abs(np.linalg.det(sides)) < 1e-30:
        return np.zeros((2, 3))
    along = np.linalg.solve(sides, edges)
    return along / np.linalg.norm(along, axis=1, keepdims=True)


def bent(texture: Texture | None, texel: np.ndarray, frame: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Shading normal [3] from a normal map's texel, if there is a map."""
    normal = normal / max(np.linalg.norm(normal), 1e-30)
    if texture is None:
        return normal
    x, y, z = 2 * texel - 1
    normal = x * frame[0] + y * frame[1] + z * normal
    return normal / max(np.linalg.norm(normal), 1e-30)


def shade(material: Material, uv: np.ndarray, width: float, tint: np.ndarray) -> np.ndarray:
    """Base colour, metallic, roughness and alpha at one point; tint [4] multiplies colour and alpha."""
    value = np.array(material.factors) * tint[[0, 1, 2, 0, 0, 3]]
    value[3:5] = material.factors[3:5]
    slots = ((material.base_color, [0, 1, 2], [0, 1, 2]), (material.metallic, [3], [2]))
    for texture, target, channels in (*slots, (material.roughness, [4], [1]), (material.alpha, [5], [3])):
        if texture is not None:
            value[target] *= sample(texture, uv, width)[channels]
    if material.alpha_cutoff is not None:
        value[5] = float(value[5] >= material.alpha_cutoff)
    return value


def sample(texture: Texture, uv: np.ndarray, width: float) -> np.ndarray:
    """Texel [4] in [0, 1] at one point; trilinear between mip levels, or nearest."""
    height, breadth = texture.pixels.shape[:2]
    if not texture.linear:
        corner = np.floor([uv[0] * breadth, (1 - uv[1]) * height]).astype(int)
        return fetch(texture, texture.pixels, corner[0], corner[1])
    chain = mip_levels(texture.pixels, rounded=True)
    level = np.log2(width * np.sqrt(height * breadth)) if width > 0 else 0.0
    level = min(max(level, 0.0), len(chain) - 1.0)
    lower = int(level)
    upper = min(lower + 1, len(chain) - 1)
    near, far = (bilinear(texture, chain[k], uv) for k in (lower, upper))
    return near + (level - lower) * (far - near)


def bilinear(texture: Texture, image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    x, y = uv[0] * image.shape[1] - 0.5, (1 - uv[1]) * image.shape[0] - 0.5
    left, above = int(np.floor(x)), int(np.floor(y))
    value = np.zeros(4)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        weight = (1 - abs(x - left - dx)) * (1 - abs(y - above - dy))
        value += weight * fetch(texture, image, left + dx, above + dy)
    return value


def fetch(texture: Texture, image: np.ndarray, x: int, y: int) -> np.ndarray:
    """One texel [4] in [0, 1], after wrapping."""
    place = []
    for index, size in ((y, image.shape[0]), (x, image.shape[1])):
        mirrored = index % (2 * size)
        mirrored = min(mirrored, 2 * size - 1 - mirrored)
        place.append({"repeat": index % size, "clamp": min(max(index, 0), size - 1), "mirror": mirrored}[texture.wrap])
    return image[place[0], place[1]] / 255.0
