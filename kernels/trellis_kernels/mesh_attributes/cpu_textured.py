"""Attributes of voxels from a textured mesh on the CPU, by slabs of the grid as mesh_to_dual_grid.

Textures lie one after the other, level after level, in one array of RGBA texels. Rows of images run down, v runs up.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit

from trellis_kernels.leaf import inlined, leaf
from trellis_kernels.mesh_attributes.cpu import LEAST_WEIGHT, closest_point, sides_of, slab_parts
from trellis_kernels.mesh_to_dual_grid.cpu_overlap import overlap_room, overlapped, planes_of
from trellis_kernels.mesh_to_dual_grid.cpu_slab import corner_offset, gather_corners, index_voxels, row_of, scan_slab

TINY_UV = 1e-6  # the original's limit for a UV triangle without direction
FINE_BITS = 23  # of the weight of a texel: 255 * 2^23 fits in half a 64-bit word
FINE = 1 << FINE_BITS
LOW_HALF = np.uint64(0xFFFFFFFF)
TWO_BYTES = np.uint64(0x00FF00FF)


def textured_attributes(geometry, surface, textures, materials, coords, step, cells, sampling):
    """float32 [M, 6] (base colour, metallic, roughness, alpha) of voxels coords int32 [M, 3] in lexicographic order.

    geometry: (vertices float32 [V, 3] relative to the grid's corner, faces int32 [F, 3]);
    surface: (uv float32 [F, 3, 2], colour float32 [F, 3, 4] or [0, 3, 4], material int32 [F], normals float32 [F, 3, 3]
    or [0, 3, 3]: where given, base colours are normal maps and the shading normal takes their place);
    textures: (texels uint32 [*], red lowest, starts int64 [T, L], sizes int32 [T, L, 2] (height, width), levels
    int32 [T], wrap int32 [T], linear bool [T], extents float64 [T]: log2 of the mean side);
    materials: (texture int32 [K, 4] of base, metallic, roughness, alpha, -1 for none, factor float64 [K, 6],
    cutoff float64 [K], negative for none).
    """

    values = np.empty((len(coords), 6), np.float32)

    def work(part: tuple[int, int, np.ndarray, slice]) -> None:
        x0, x1, near, mine = part
        place = (step, cells, x0, x1)
        rules = (sampling.original, float(sampling.mip_offset))
        textured_slab(geometry, near, surface, textures, materials, coords[mine], place, *rules, values[mine])

    with ThreadPoolExecutor(max(sampling.workers, 1)) as pool:
        for _done in pool.map(work, slab_parts(geometry[0], geometry[1], coords, step, cells)):
            pass
    return values


@njit(cache=True, nogil=True)
def textured_slab(geometry, triangles, surface, textures, materials, coords, place, original, mip_offset, values):
    vertices, faces = geometry
    uv, colour, of_face, normals = surface
    texture, factor, cutoff = materials
    h, n, x0, x1 = place
    ny, wz = n[1], (n[2] + 63) >> 6
    total, (bits, ranks) = coords.shape[0], index_voxels(coords, ny, wz, x0, x1)
    sums = np.zeros((total, 8), np.float64)  # six values, their weight, and room to a full cache line
    stamps = np.full(total if original else 0, -1, np.int32)
    corners, room, sides = gather_corners(vertices, faces, triangles), overlap_room(h, n), np.empty(12, np.float64)
    planes = planes_of(corners)
    share, texel, value = np.empty(3, np.float64), np.empty((4, 4), np.float64), np.empty(6, np.float64)
    slots, blends, slot_of = np.empty((4, 9), np.int64), np.empty(4, np.float64), np.empty(4, np.int64)
    taps = np.empty((2, 8), np.int64)
    frame, tiny = np.empty((2, 3), np.float64), TINY_UV if original else 1e-30
    cells, rows = np.empty((total, 3), np.int32), np.empty(total, np.int32)
    size, per_voxel = max(np.float64(h[0]), np.float64(h[1]), np.float64(h[2])), 1.0 / np.float64(h[0])
    hits, ends = np.empty((0, 4), np.int32), np.zeros(3 * triangles.shape[0] + 1, np.int64)
    wanting, crossing = np.ones(total, np.bool_), original
    for _phase in range(2):
        if crossing:
            hits, _, ends = scan_slab(corners, h, n, x0, x1)
        for k in range(triangles.shape[0]):
            t = triangles[k]
            m = of_face[t]
            if crossing:
                count = touched(hits, ends, k, ny, wz, x0, x1, bits, ranks, stamps, wanting, cells, rows)
            else:
                count = overlapped(corners, planes, k, h, n, x0, x1, bits, ranks, room, cells, rows)
            if count == 0:
                continue
            sides_of(corners, k, sides)
            octave = footprint_octave(sides, uv, t, size, tiny) + mip_offset
            used = plan_lookups(textures, texture, m, octave, slots, blends, slot_of)
            if normals.shape[0] > 0:
                tangents(sides, uv, t, tiny, original, frame)
            u0, u1, u2 = np.float64(uv[t, 0, 0]), np.float64(uv[t, 1, 0]), np.float64(uv[t, 2, 0])
            v0, v1, v2 = np.float64(uv[t, 0, 1]), np.float64(uv[t, 1, 1]), np.float64(uv[t, 2, 1])
            for c in range(count):
                x, y, z = (cells[c, 0] + 0.5) * h[0], (cells[c, 1] + 0.5) * h[1], (cells[c, 2] + 0.5) * h[2]
                if original:
                    weight = 1.0 - projected(sides, planes, k, x, y, z, share)
                else:
                    weight = max(1.0 - closest_point(sides, x, y, z, share) * per_voxel, LEAST_WEIGHT)
                u = share[0] * u0 + share[1] * u1 + share[2] * u2
                v = share[0] * v0 + share[1] * v1 + share[2] * v2
                for s in range(used):
                    look_up(textures[0], slots, blends, s, u, v, taps, texel)
                for s in range(6):
                    value[s] = factor[m, s]
                multiply(value, slot_of, texel)
                if colour.shape[0] > 0:
                    tint(value, colour, t, share)
                if normals.shape[0] > 0:
                    shade(value, normals, t, share, frame, texture[m, 0] >= 0, original)
                if cutoff[m] >= 0.0:
                    value[5] = 1.0 if value[5] >= cutoff[m] else 0.0
                row = rows[c]
                for s in range(6):
                    sums[row, s] += weight * value[s]
                sums[row, 6] += weight
        # Rounding may leave a voxel without a triangle in the first phase: then those that cross its edges count.
        wanting = sums[:, 6] == 0.0
        if crossing or not wanting.any():
            break
        crossing, stamps = True, np.full(total, -1, np.int32)
    write_means(sums, values)


@leaf
def write_means(sums, values):
    """Weighted means float32 [m, 6]; mid-grey and opaque where nothing was added."""
    for row in range(sums.shape[0]):
        for s in range(6):
            values[row, s] = sums[row, s] / sums[row, 6] if sums[row, 6] != 0.0 else (1.0 if s == 5 else 0.5)


@leaf
def touched(hits, ends, k, ny, wz, x0, x1, bits, ranks, stamps, wanting, cells, rows):
    """Wanting voxels around the grid edges that triangle k crosses, each once; returns their number."""
    count, triangles = 0, ends.shape[0] // 3
    for axis in range(3):
        for hit in range(ends[axis * triangles + k], ends[axis * triangles + k + 1]):
            for corner in range(4):
                dx, dy, dz = corner_offset(axis, corner)
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


@leaf
def projected(sides, planes, k, x, y, z, share):
    """Barycentric coordinates of the foot on the triangle's plane, and the signed distance in the mesh's units."""
    p, q, r = planes[k, 0], planes[k, 1], planes[k, 2]
    distance = p * x + q * y + r * z - planes[k, 3]
    px = x - distance * p - sides[0]
    py = y - distance * q - sides[1]
    pz = z - distance * r - sides[2]
    uu, uw, ww = sides[9], sides[10], sides[11]
    pu, pw = px * sides[3] + py * sides[4] + pz * sides[5], px * sides[6] + py * sides[7] + pz * sides[8]
    determinant = uu * ww - uw * uw
    b = (ww * pu - uw * pw) / determinant if determinant != 0.0 else 0.0
    c = (uu * pw - uw * pu) / determinant if determinant != 0.0 else 0.0
    share[0], share[1], share[2] = 1.0 - b - c, b, c
    return distance


@leaf
def footprint_octave(sides, uv, t, size, least):
    """log2 of the width in UV units, size / sqrt(|dP/du| |dP/dv|); -inf where the UV triangle has no area."""
    du1, dv1 = np.float64(uv[t, 1, 0]) - uv[t, 0, 0], np.float64(uv[t, 1, 1]) - uv[t, 0, 1]
    du2, dv2 = np.float64(uv[t, 2, 0]) - uv[t, 0, 0], np.float64(uv[t, 2, 1]) - uv[t, 0, 1]
    determinant = du1 * dv2 - du2 * dv1
    if abs(determinant) < least:
        return -np.inf
    along_u, along_v = 0.0, 0.0
    for k in range(3):
        e1, e2 = sides[3 + k], sides[6 + k]
        along_u += (e1 * dv2 - e2 * dv1) ** 2
        along_v += (e2 * du1 - e1 * du2) ** 2
    stretch = np.sqrt(np.sqrt(along_u) * np.sqrt(along_v)) / abs(determinant)
    return np.log2(size / stretch) if stretch > 0.0 else -np.inf


@leaf
def multiply(value, slot_of, texel):
    """Multiply the channels of each group (base, metallic, roughness, alpha) by their texels [4, 4]."""
    if slot_of[0] >= 0:
        value[0] *= texel[slot_of[0], 0]
        value[1] *= texel[slot_of[0], 1]
        value[2] *= texel[slot_of[0], 2]
    if slot_of[1] >= 0:
        value[3] *= texel[slot_of[1], 2]
    if slot_of[2] >= 0:
        value[4] *= texel[slot_of[2], 1]
    if slot_of[3] >= 0:
        value[5] *= texel[slot_of[3], 3]


@leaf
def tint(value, colour, t, share):
    """Multiply base colour and alpha by the colour at a point of triangle t."""
    for c in range(4):
        mixed = share[0] * colour[t, 0, c] + share[1] * colour[t, 1, c] + share[2] * colour[t, 2, c]
        value[5 if c == 3 else c] *= mixed


@leaf
def tangents(sides, uv, t, least, original, frame):
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
        e1, e2 = sides[3 + k], sides[6 + k]
        frame[0, k] = side * (e1 * dv2 - e2 * dv1)
        frame[1, k] = side * (e2 * du1 - e1 * du2)
    normalise(frame[0])
    normalise(frame[1])


@leaf
def normalise(vector):
    """Bring a vector [>= 3] to unit length by its first three components, if it has any."""
    length = np.sqrt(vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2])
    if length > 0.0:
        for k in range(3):
            vector[k] /= length


@leaf
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


@leaf
def plan_lookups(textures, texture, m, octave, slots, blends, slot_of):
    """Which textures a triangle of material m reads, each once, and at which levels; returns their number.

    slots [4, 9]: wrap, linear, then start, height and width of the finer and of the coarser level, and whether all but
    the starts are those of the row before; blends [4]: share of the coarser; slot_of [4]: row of each group's texture,
    -1 for none.
    """
    _, starts, sizes, levels, wraps, linear, extents = textures
    used, last = 0, np.int64(-1)
    for group in range(4):
        which = np.int64(texture[m, group])
        if which >= 0 and which != last:
            level = octave + extents[which] if linear[which] else 0.0
            level = min(level, np.float64(levels[which] - 1)) if level > 0.0 else 0.0
            slots[used, 0], slots[used, 1] = wraps[which], linear[which]
            lower = int(level)
            blends[used] = level - lower
            for k in range(2):
                at = min(lower + k, levels[which] - 1)
                slots[used, 2 + 3 * k] = starts[which, at]
                slots[used, 3 + 3 * k], slots[used, 4 + 3 * k] = sizes[which, at, 0], sizes[which, at, 1]
            slots[used, 8] = used > 0 and blends[used] == blends[used - 1] and same_places(slots, used)
            used, last = used + 1, which
        slot_of[group] = used - 1 if which >= 0 else -1
    return used


@leaf
def same_places(slots, s):
    """Whether rows s - 1 and s of slots read the same places of their textures."""
    same = True
    for k in range(8):
        same = same and (k in (2, 5) or slots[s, k] == slots[s - 1, k])
    return same


@inlined
def look_up(texels, slots, blends, s, u, v, taps, texel):
    """Row s of texel [4, 4] in [0, 1] at (u, v): nearest, or trilinear between two levels.

    taps [2, 8]: of the finer and the coarser level, kept for the rows that read the same places.
    """
    blend, wrap = blends[s], slots[s, 0]
    if slots[s, 8] == 0:
        x, y = folded(u, wrap), folded(1.0 - v, wrap)
        if slots[s, 1] == 0:
            height, breadth = slots[s, 3], slots[s, 4]
            taps[0, 0] = min(int(y * height), height - 1) * breadth + min(int(x * breadth), breadth - 1)
        else:
            for level in range(2 if blend > 0.0 else 1):
                place_taps(taps, level, x, y, slots[s, 3 + 3 * level], slots[s, 4 + 3 * level], wrap == 0)
    if slots[s, 1] == 0:
        word = texels[slots[s, 2] + taps[0, 0]]
        for c in range(4):
            texel[s, c] = ((word >> np.uint32(8 * c)) & np.uint32(255)) / 255.0
        return
    for level in range(2 if blend > 0.0 else 1):
        r, g, b, a = bilinear(texels, slots[s, 2 + 3 * level], taps, level)
        if level == 0:
            unit = (1.0 - blend) * (1.0 / (255.0 * FINE))
            texel[s, 0], texel[s, 1], texel[s, 2], texel[s, 3] = unit * r, unit * g, unit * b, unit * a
        else:
            unit = blend * (1.0 / (255.0 * FINE))
            texel[s, 0] += unit * r
            texel[s, 1] += unit * g
            texel[s, 2] += unit * b
            texel[s, 3] += unit * a


@inlined
def place_taps(taps, level, x, y, height, breadth, repeats):
    """The four texels around (x, y) in [0, 1], from their level's first one, and their weights of FINE together."""
    x, y = x * breadth + 0.5, y * height + 0.5
    right, below = int(x), int(y)
    fx, fy = int((x - right) * FINE), int((y - below) * FINE)
    left, above = right - 1, below - 1
    if left < 0:
        left = breadth - 1 if repeats else 0
    if right >= breadth:
        right = 0 if repeats else breadth - 1
    if above < 0:
        above = height - 1 if repeats else 0
    if below >= height:
        below = 0 if repeats else height - 1
    upper, lower = above * breadth, below * breadth
    taps[level, 0], taps[level, 1], taps[level, 2], taps[level, 3] = (
        upper + left,
        upper + right,
        lower + left,
        lower + right,
    )
    both = (fx * fy) >> FINE_BITS
    taps[level, 4], taps[level, 5], taps[level, 6], taps[level, 7] = FINE - fx - fy + both, fx - both, fy - both, both


@inlined
def bilinear(texels, start, taps, level):
    """255 FINE times the weighted mean [4] of four texels, in exact whole numbers."""
    even, odd = np.uint64(0), np.uint64(0)
    for k in range(4):
        word, weight = np.uint64(texels[np.uint64(start + taps[level, k])]), np.uint64(taps[level, 4 + k])
        even += weight * spread(word)
        odd += weight * spread(word >> np.uint64(8))
    # Whole numbers turn into floats faster with a sign.
    r, b = np.float64(np.int64(even & LOW_HALF)), np.float64(np.int64(even >> np.uint64(32)))
    g, a = np.float64(np.int64(odd & LOW_HALF)), np.float64(np.int64(odd >> np.uint64(32)))
    return r, g, b, a


@leaf
def spread(word):
    """Bytes 0 and 2 of a word, each at the bottom of its own half of 64 bits."""
    word = word & TWO_BYTES
    return (word | (word << np.uint64(16))) & np.uint64(0x000000FF000000FF)


@leaf
def folded(value, wrap):
    """A texture coordinate brought into [0, 1]: 0 repeat, 1 clamp, 2 mirror."""
    if wrap == 0:
        return value - np.floor(value)
    if wrap == 1:
        return min(max(value, 0.0), 1.0)
    value -= 2.0 * np.floor(0.5 * value)
    return value if value <= 1.0 else 2.0 - value
