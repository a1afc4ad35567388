"""Door of the op: check the arrays, put the voxels in order, run the CPU path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from trellis_kernels.mesh_attributes import reference
from trellis_kernels.mesh_attributes.surface import WRAPS, Material, PaintedMesh, TexturedMesh, mip_levels
from trellis_kernels.mesh_to_dual_grid.op import GridBox


@dataclass(frozen=True)
class Sampling:
    """How materials are read, and by how many threads.

    original: by the rules of the tool that made the released models' training data, which takes triangles crossing the
    voxel's edges, extrapolates over their borders and weighs all about the same.
    """

    original: bool = False
    mip_offset: float = 0.0  # added to the texture level
    workers: int = 1


def flat_attributes(
    mesh: PaintedMesh, coords: np.ndarray, resolution: int, *, implementation: str = "auto"
) -> np.ndarray:
    """Attributes uint8 [M, 6] (base colour, metallic, roughness, alpha; x 255) of the voxels a coloured mesh passes.

    mesh: in the box [-0.5, 0.5]^3; coords: int [M, 3] unique, in any order, which the rows keep. Voxels the mesh does
    not pass are mid-grey and opaque. Raises ValueError where coordinates do not fit.
    """
    points = ((np.asarray(mesh.vertices, np.float64) + 0.5) * resolution).astype(np.float32)
    cells = np.full(3, resolution, np.int64)
    bytes_ = (np.ascontiguousarray(part, np.uint8) for part in (mesh.corner_rgba, mesh.metal_rough))
    placed = PaintedMesh(points, np.ascontiguousarray(mesh.faces, np.int32), *bytes_)
    if implementation == "reference":
        run = reference.flat_attributes
    else:
        from trellis_kernels.mesh_attributes import cpu

        run = cpu.flat_attributes
    return in_order(coords, cells, lambda voxels: run(placed, voxels, cells))


def textured_attributes(
    mesh: TexturedMesh,
    coords: np.ndarray,
    box: GridBox,
    sampling: Sampling = Sampling(),
    *,
    implementation: str = "auto",
) -> np.ndarray:
    """Attributes float32 [M, 6] in [0, 1] (base colour, metallic, roughness, alpha) of the voxels a mesh passes.

    coords: int [M, 3] unique, in any order, which the rows keep; textures of any size. A voxel takes the mean over the
    triangles that meet it of the material at the closest point, weighted by 1 - distance in voxels. Voxels the mesh
    does not pass are mid-grey and opaque. Raises ValueError where coordinates do not fit.
    """
    return sampled(mesh, coords, box, None, sampling, implementation)


def emissive_colours(
    mesh: TexturedMesh,
    coords: np.ndarray,
    box: GridBox,
    sampling: Sampling = Sampling(),
    *,
    implementation: str = "auto",
) -> np.ndarray:
    """Emitted colour float32 [M, 3] of voxels, sampled as `textured_attributes`; the original never reads a mip level.

    Black where the mesh does not pass.
    """
    glowing = tuple(Material(m.emissive, factors=(*m.emissive_factor, 1.0, 1.0, 1.0)) for m in mesh.materials)
    rules = replace(sampling, mip_offset=-np.inf) if sampling.original else sampling
    return passed(sampled(replace(mesh, materials=glowing, colors=None), coords, box, None, rules, implementation))


def shading_normals(
    mesh: TexturedMesh,
    coords: np.ndarray,
    box: GridBox,
    sampling: Sampling = Sampling(),
    *,
    implementation: str = "auto",
) -> np.ndarray:
    """Unit shading normals float32 [M, 3] of voxels, bent by normal maps, sampled as `textured_attributes`.

    The original's interpolated normals and means keep their length, and mirrored UVs turn its map round. Zero where
    the mesh does not pass, or where normals cancel.
    """
    mapped = tuple(Material(m.normal) for m in mesh.materials)
    plain, corners = replace(mesh, materials=mapped, colors=None), mesh.corner_normals()
    normals = passed(sampled(plain, coords, box, corners, sampling, implementation))
    if sampling.original:
        return normals
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.divide(normals, length, out=np.zeros_like(normals), where=length > 1e-6)


def passed(values: np.ndarray) -> np.ndarray:
    """The first three channels, zero for voxels without a triangle: there the metallic channel is no 1."""
    return np.where(values[:, 3:4] == 1.0, values[:, :3], np.float32(0.0))


def sampled(
    mesh: TexturedMesh,
    coords: np.ndarray,
    box: GridBox,
    normals: np.ndarray | None,
    sampling: Sampling,
    implementation: str,
) -> np.ndarray:
    """The six channels of `textured_attributes`; with corner normals, base colours become shading normals."""
    shifted = np.ascontiguousarray(mesh.vertices, np.float32) - np.array(box.low, np.float32)
    geometry = (shifted, np.ascontiguousarray(mesh.faces, np.int32))
    cells = np.array(box.cells, np.int64)
    if implementation == "reference":
        slow = reference.textured_attributes
        return in_order(coords, cells, lambda voxels: slow(mesh, shifted, voxels, box, normals))
    from trellis_kernels.mesh_attributes import cpu_textured

    colours = np.empty((0, 3, 4)) if mesh.colors is None else mesh.colors
    uv, tint = (
        np.nan_to_num(mesh.uv, posinf=0.0, neginf=0.0).astype(np.float32),
        np.ascontiguousarray(colours, np.float32),
    )
    corners = np.empty((0, 3, 3), np.float32) if normals is None else normals
    surface = (uv, tint, np.ascontiguousarray(mesh.material, np.int32), corners)
    textures, materials = packed(mesh.materials, rounded=not sampling.original)
    run = cpu_textured.textured_attributes
    fixed = (geometry, surface, textures, materials)
    return in_order(coords, cells, lambda voxels: run(*fixed, voxels, box.step, cells, sampling))


def in_order(coords: np.ndarray, cells: np.ndarray, run: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Rows of `run`, which wants voxels int32 [M, 3] in lexicographic order, for voxels in any order."""
    if len(coords) and not ((coords >= 0).all() and (coords < cells).all()):
        raise ValueError(f"coordinates {coords.min(0)}..{coords.max(0)} do not fit a grid of {cells}")
    key = (coords[:, 0].astype(np.int64) * cells[1] + coords[:, 1]) * cells[2] + coords[:, 2]
    if (key[1:] > key[:-1]).all():
        return run(np.ascontiguousarray(coords, np.int32))
    order = np.argsort(key, kind="stable")
    found = run(np.ascontiguousarray(coords[order], np.int32))
    values = np.empty_like(found)
    values[order] = found
    return values


def packed(materials: tuple[Material, ...], *, rounded: bool) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Textures with their mip levels and materials as the arrays of cpu_textured."""
    slots = [(m.base_color, m.metallic, m.roughness, m.alpha) for m in materials]
    unique = {id(texture): texture for row in slots for texture in row if texture is not None}
    number = {key: k for k, key in enumerate(unique)}
    chains = [mip_levels(t.pixels, rounded=rounded) if t.linear else [t.pixels] for t in unique.values()]
    longest = max([len(chain) for chain in chains], default=1)
    starts, sizes = np.zeros((len(chains), longest), np.int64), np.ones((len(chains), longest, 2), np.int32)
    total, texels = 0, [np.zeros((1, 4), np.uint8)]
    for t, chain in enumerate(chains):
        for level, image in enumerate(chain):
            starts[t, level], sizes[t, level] = total + 1, image.shape[:2]
            total += image.shape[0] * image.shape[1]
            texels.append(image.reshape(-1, 4))
    wrap = np.array([WRAPS.index(t.wrap) for t in unique.values()], np.int32)
    linear, count = np.array([t.linear for t in unique.values()], np.bool_), [len(chain) for chain in chains]
    extents = 0.5 * np.log2(sizes[:, 0].prod(axis=1))
    words = np.concatenate(texels).view("<u4").reshape(-1)
    textures = (words, starts, sizes, np.array(count, np.int32), wrap, linear, extents)
    index = np.array([[-1 if t is None else number[id(t)] for t in row] for row in slots], np.int32).reshape(-1, 4)
    factors = np.array([m.factors for m in materials], np.float64).reshape(-1, 6)
    cutoff = np.array([-1.0 if m.alpha_cutoff is None else m.alpha_cutoff for m in materials], np.float64)
    return textures, (index, factors, cutoff)
