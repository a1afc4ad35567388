"""Attributes of voxels from a textured mesh on the CPU, by slabs of the grid as mesh_to_dual_grid.

Textures lie one after the other, level after level, in one array of RGBA texels. Rows of images run down, v runs up.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit

from trellis_kernels.mesh_attributes.cpu import LEAST_WEIGHT, closest_point
from trellis_kernels.mesh_to_dual_grid.cpu import slab_slices
from trellis_kernels.mesh_to_dual_grid.cpu_slab import (
    bin_triangles,
    corner_offset,
    count_ranks,
    overlapped,
    plane_of,
    row_of,
    scan_slab,
    set_bit,
)

TINY_UV = 1e-6  # the original's limit for a UV triangle without direction


def textured_attributes(geometry, surface, textures, materials, coords, step, cells, *, original, mip_offset, workers):
    """float32 [M, 6] (base colour, metallic, roughness, alpha) of voxels coords int32 [M, 3] in lexicographic order.

    geometry: (vertices float32 [V, 3] relative to the grid's corner, faces int32 [F, 3]);
    surface: (uv float32 [F, 3, 2], colour float32 [F, 3, 4] or [0, 3, 4], material int32 [F], normals float32 [F, 3, 3]
    or [0, 3, 3]: where given, base colours are normal maps and the shading normal takes their place);
    textures: (texels uint8 [*, 4], starts int64 [T, L], sizes int32 [T, L, 2] (height, width), levels int32 [T],
    wrap int32 [T], linear bool [T], extents float64 [T]: log2 of the mean side);
    materials: (texture int32 [K, 4] of base, metallic, roughness, alpha, -1 for none, factor float64 [K, 6],
    cutoff float64 [K], negative for none).
    """
    slices = slab_slices(cells)
    slabs = -(-int(cells[0]) // slices)
    starts, triangles = bin_triangles(geometry[0], geometry[1], np.float64(step[0]), slices, slabs)
    rows = np.searchsorted(coords[:, 0], np.arange(slabs + 1) * slices)

    def work(slab: int) -> np.ndarray:
        x0, mine = slab * slices, coords[rows[slab] : rows[slab + 1]]
        x1 = min(x0 + slices, int(cells[0]))
        near = triangles[starts[slab] : starts[slab + 1]]
        place = (step, cells, x0, x1)
        return textured_slab(geometry, near, surface, textures, materials, mine, place, original, mip_offset)

    occupied = [slab for slab in range(slabs) if rows[slab] < rows[slab + 1]]
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        parts = list(pool.map(work, occupied))
    return np.concatenate([np.empty((0, 6), np.float32), *parts])


@njit(cache=True, nogil=True)
def textured_slab(geometry, triangles, surface, textures, materials, coords, place, original, mip_offset):
    vertices, faces = geometry
    uv, colour, of_face, normals = surface
    texels, starts, sizes, levels, wraps, linear, extents = textures
    texture, factor, cutoff = materials
    h, n, x0, x1 = place
    ny, wz = n[1], (n[2] + 63) >> 6
    bits = np.zeros((x1 - x0) * ny * wz, np.uint64)
    for row in range(coords.shape[0]):
        set_bit(bits, ny, wz, coords[row, 0] - x0, coords[row, 1], coords[row, 2])
    ranks = np.empty(bits.shape[0], np.int32)
    total = count_ranks(bits, ranks)
    sums = np.zeros((total, 7), np.float64)
    stamps = np.full(total, -1, np.int32)
    plane, tests = np.empty(4, np.float64), np.empty((3, 3, 3), np.float64)
    share, texel, value = np.empty(3, np.float64), np.empty(4, np.float64), np.empty(6, np.float64)
    frame, tiny = np.empty((2, 3), np.float64), TINY_UV if original else 1e-30
    cells, rows = np.empty((total, 3), np.int32), np.empty(total, np.int32)
    size = max(np.float64(h[0]), np.float64(h[1]), np.float64(h[2]))
    hits, ends = np.empty((0, 4), np.int32), np.empty(0, np.int64)
    wanting, crossing = np.ones(total, np.bool_), original
    for _phase in range(2):
        if crossing:
            hits, _, ends = scan_slab(vertices, faces, triangles, h, n, x0, x1)
        begin = np.int64(0)
        for k in range(triangles.shape[0]):
            t = triangles[k]
            i0, i1, i2 = faces[t, 0], faces[t, 1], faces[t, 2]
            plane_of(vertices, i0, i1, i2, plane)
            if crossing:
                count = touched(hits, begin, ends[k], k, ny, wz, x0, x1, bits, ranks, stamps, wanting, cells, rows)
                begin = ends[k]
            else:
                count = overlapped(vertices, i0, i1, i2, plane, h, n, x0, x1, bits, ranks, tests, cells, rows)
            if count == 0:
                continue
            octave = footprint_octave(vertices, i0, i1, i2, uv, t, size, tiny) + mip_offset
            if normals.shape[0] > 0:
                tangents(vertices, i0, i1, i2, uv, t, tiny, original, frame)
            for c in range(count):
                x, y, z = (cells[c, 0] + 0.5) * h[0], (cells[c, 1] + 0.5) * h[1], (cells[c, 2] + 0.5) * h[2]
                if original:
                    weight = 1.0 - projected(vertices, i0, i1, i2, plane, x, y, z, share)
                else:
                    weight = max(1.0 - closest_point(vertices, i0, i1, i2, x, y, z, share) / h[0], LEAST_WEIGHT)
                m = of_face[t]
                u = share[0] * uv[t, 0, 0] + share[1] * uv[t, 1, 0] + share[2] * uv[t, 2, 0]
                v = share[0] * uv[t, 0, 1] + share[1] * uv[t, 1, 1] + share[2] * uv[t, 2, 1]
                last = np.int64(-1)
                for s in range(6):
                    value[s] = factor[m, s]
                for group in range(4):
                    wanted = np.int64(texture[m, group])
                    if wanted >= 0 and wanted != last:
                        sample(texels, starts, sizes, levels, wraps, linear, extents, wanted, u, v, octave, texel)
                        last = wanted
                    if wanted >= 0:
                        multiply(value, group, texel)
                if colour.shape[0] > 0:
                    tint(value, colour, t, share)
                if normals.shape[0] > 0:
                    shade(value, normals, t, share, frame, texture[m, 0] >= 0, original)
                if cutoff[m] >= 0.0:
                    value[5] = 1.0 if value[5] >= cutoff[m] else 0.0
                for s in range(6):
                    sums[rows[c], s] += weight * value[s]
                sums[rows[c], 6] += weight
        # Rounding may leave a voxel without a triangle in the first phase: then those that cross its edges count.
        wanting = sums[:, 6] == 0.0
        if crossing or not wanting.any():
            break
        crossing = True
    return means(sums)


@njit(cache=True, nogil=True)
def means(sums):
    """Weighted means float32 [m, 6]; mid-grey and opaque where nothing was added."""
    out = np.empty((sums.shape[0], 6), np.float32)
    for row in range(sums.shape[0]):
        for s in range(6):
            out[row, s] = sums[row, s] / sums[row, 6] if sums[row, 6] != 0.0 else (1.0 if s == 5 else 0.5)
    return out


@njit(cache=True, nogil=True)
def touched(hits, begin, end, k, ny, wz, x0, x1, bits, ranks, stamps, wanting, cells, rows):
    """Wanting voxels around the grid edges that one triangle crosses, each once; returns their number."""
    count = 0
    for hit in range(begin, end):
        for corner in range(4):
            dx, dy, dz = corner_offset(hits[hit, 3], corner)
            x, y, z = hits[hit, 0] + dx, hits[hit, 1] + dy, hits[hit, 2] + dz
            if x < x0 or x >= x1:
                continue
            row = row_of(bits, ranks, ny, wz, x - x0, y, z)
            if row >= 0 and wanting[row] and stamps[row] != k:
                stamps[row] = k
                cells[count, 0], cells[count, 1], cells[count, 2] = x, y, z
                rows[count] = row
                count += 1
    return count


@njit(cache=True, nogil=True)
def projected(vertices, i0, i1, i2, plane, x, y, z, share):
    """Barycentric coordinates of the foot on the triangle's plane, and the signed distance in the mesh's units."""
    distance = plane[0] * x + plane[1] * y + plane[2] * z - plane[3]
    px = x - distance * plane[0] - vertices[i0, 0]
    py = y - distance * plane[1] - vertices[i0, 1]
    pz = z - distance * plane[2] - vertices[i0, 2]
    ux = np.float64(vertices[i1, 0]) - vertices[i0, 0]
    uy = np.float64(vertices[i1, 1]) - vertices[i0, 1]
    uz = np.float64(vertices[i1, 2]) - vertices[i0, 2]
    wx = np.float64(vertices[i2, 0]) - vertices[i0, 0]
    wy = np.float64(vertices[i2, 1]) - vertices[i0, 1]
    wz = np.float64(vertices[i2, 2]) - vertices[i0, 2]
    uu, uw, ww = ux * ux + uy * uy + uz * uz, ux * wx + uy * wy + uz * wz, wx * wx + wy * wy + wz * wz
    pu, pw = px * ux + py * uy + pz * uz, px * wx + py * wy + pz * wz
    determinant = uu * ww - uw * uw
    b = (ww * pu - uw * pw) / determinant if determinant != 0.0 else 0.0
    c = (uu * pw - uw * pu) / determinant if determinant != 0.0 else 0.0
    share[0], share[1], share[2] = 1.0 - b - c, b, c
    return distance


@njit(cache=True, nogil=True)
def footprint_octave(vertices, i0, i1, i2, uv, t, size, least):
    """log2 of the width in UV units, size / sqrt(|dP/du| |dP/dv|); -inf where the UV triangle has no area."""
    du1, dv1 = np.float64(uv[t, 1, 0]) - uv[t, 0, 0], np.float64(uv[t, 1, 1]) - uv[t, 0, 1]
    du2, dv2 = np.float64(uv[t, 2, 0]) - uv[t, 0, 0], np.float64(uv[t, 2, 1]) - uv[t, 0, 1]
    determinant = du1 * dv2 - du2 * dv1
    if abs(determinant) < least:
        return -np.inf
    along_u, along_v = 0.0, 0.0
    for k in range(3):
        e1 = np.float64(vertices[i1, k]) - vertices[i0, k]
        e2 = np.float64(vertices[i2, k]) - vertices[i0, k]
        along_u += (e1 * dv2 - e2 * dv1) ** 2
        along_v += (e2 * du1 - e1 * du2) ** 2
    stretch = np.sqrt(np.sqrt(along_u) * np.sqrt(along_v)) / abs(determinant)
    return np.log2(size / stretch) if stretch > 0.0 else -np.inf


@njit(cache=True, nogil=True, inline="always")
def multiply(value, group, texel):
    """Multiply the channels of a group (base, metallic, roughness, alpha) by their texels."""
    if group == 0:
        value[0] *= texel[0]
        value[1] *= texel[1]
        value[2] *= texel[2]
    elif group == 1:
        value[3] *= texel[2]
    elif group == 2:
        value[4] *= texel[1]
    else:
        value[5] *= texel[3]


@njit(cache=True, nogil=True)
def tint(value, colour, t, share):
    """Multiply base colour and alpha by the colour at a point of triangle t."""
    for c in range(4):
        mixed = share[0] * colour[t, 0, c] + share[1] * colour[t, 1, c] + share[2] * colour[t, 2, c]
        value[5 if c == 3 else c] *= mixed


@njit(cache=True, nogil=True)
def tangents(vertices, i0, i1, i2, uv, t, least, original, frame):
    """Unit directions of dP/du and dP/dv of triangle t as rows of frame [2, 3].

    Zero where the UV triangle has no area. original: then the x and y axes; and both turned round for mirrored UVs.
    """
    du1, dv1 = np.float64(uv[t, 1, 0]) - uv[t, 0, 0], np.float64(uv[t, 1, 1]) - uv[t, 0, 1]
    du2, dv2 = np.float64(uv[t, 2, 0]) - uv[t, 0, 0], np.float64(uv[t, 2, 1]) - uv[t, 0, 1]
    determinant = du1 * dv2 - du2 * dv1
    frame[:] = 0.0
    if abs(determinant) < least:
        frame[0, 0] = frame[1, 1] = 1.0 if original else 0.0
        return
    side = 1.0 if original or determinant > 0.0 else -1.0
    for k in range(3):
        e1 = np.float64(vertices[i1, k]) - vertices[i0, k]
        e2 = np.float64(vertices[i2, k]) - vertices[i0, k]
        frame[0, k] = side * (e1 * dv2 - e2 * dv1)
        frame[1, k] = side * (e2 * du1 - e1 * du2)
    normalise(frame[0])
    normalise(frame[1])


@njit(cache=True, nogil=True)
def normalise(vector):
    """Bring a vector [>= 3] to unit length by its first three components, if it has any."""
    length = np.sqrt(vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2])
    if length > 0.0:
        for k in range(3):
            vector[k] /= length


@njit(cache=True, nogil=True)
def shade(value, normals, t, share, frame, mapped, original):
    """Replace a normal map's texel in value[:3] by the shading normal at a point of triangle t."""
    x, y, z = 2.0 * value[0] - 1.0, 2.0 * value[1] - 1.0, 2.0 * value[2] - 1.0
    for k in range(3):
        value[k] = share[0] * normals[t, 0, k] + share[1] * normals[t, 1, k] + share[2] * normals[t, 2, k]
    if not original:
        normalise(value)
    if mapped:
        for k in range(3):
            value[k] = x * frame[0, k] + y * frame[1, k] + z * value[k]
        normalise(value)


@njit(cache=True, nogil=True)
def sample(texels, starts, sizes, levels, wraps, linear, extents, which, u, v, octave, texel):
    """Texel in [0, 1] at (u, v): nearest, or trilinear between the two levels nearest to the footprint."""
    height, breadth, wrap = sizes[which, 0, 0], sizes[which, 0, 1], wraps[which]
    x, y = folded(u, wrap), folded(1.0 - v, wrap)
    if not linear[which]:
        at = starts[which, 0] + min(int(y * height), height - 1) * breadth + min(int(x * breadth), breadth - 1)
        for c in range(4):
            texel[c] = texels[at, c] / 255.0
        return
    texel[0] = texel[1] = texel[2] = texel[3] = 0.0
    level = octave + extents[which]
    level = min(level, np.float64(levels[which] - 1)) if level > 0.0 else 0.0
    lower = int(level)
    blend = level - lower
    add_bilinear(texels, starts, sizes, which, lower, wrap, x, y, (1.0 - blend) / 255.0, texel)
    if blend > 0.0:
        add_bilinear(texels, starts, sizes, which, lower + 1, wrap, x, y, blend / 255.0, texel)


@njit(cache=True, nogil=True, inline="always")
def folded(value, wrap):
    """A texture coordinate brought into [0, 1]: 0 repeat, 1 clamp, 2 mirror."""
    if wrap == 0:
        return value - np.floor(value)
    if wrap == 1:
        return min(max(value, 0.0), 1.0)
    value -= 2.0 * np.floor(0.5 * value)
    return value if value <= 1.0 else 2.0 - value


@njit(cache=True, nogil=True)
def add_bilinear(texels, starts, sizes, which, level, wrap, x, y, weight, texel):
    """Add weight times the mean of the four texels around (x, y) in [0, 1]."""
    start = starts[which, level]
    height, breadth = np.int64(sizes[which, level, 0]), np.int64(sizes[which, level, 1])
    x, y = x * breadth - 0.5, y * height - 0.5
    left, above = int(np.floor(x)), int(np.floor(y))
    fx, fy = x - left, y - above
    right, below = left + 1, above + 1
    if left < 0:
        left = breadth - 1 if wrap == 0 else 0
    if right >= breadth:
        right = 0 if wrap == 0 else breadth - 1
    if above < 0:
        above = height - 1 if wrap == 0 else 0
    if below >= height:
        below = 0 if wrap == 0 else height - 1
    a, b = start + above * breadth, start + below * breadth
    upper, lower = weight * (1.0 - fy), weight * fy
    w00, w01, w10, w11 = upper * (1.0 - fx), upper * fx, lower * (1.0 - fx), lower * fx
    for c in range(4):
        texel[c] += (
            w00 * texels[a + left, c]
            + w01 * texels[a + right, c]
            + w10 * texels[b + left, c]
            + w11 * texels[b + right, c]
        )
