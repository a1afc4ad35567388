"""Fused sampling on the CPU: for each point eight look-ups and one weighted sum."""

import numpy as np
from numba import njit, prange

from trellis_kernels.voxel_index.cpu import find, pack

FAR = 1 << 15


@njit(inline="always")
def row_at(keys, rows, mask, b, x, y, z, shape):
    """Row of a voxel inside the grid, or -1."""
    if x < 0 or y < 0 or z < 0 or x >= shape[0] or y >= shape[1] or z >= shape[2]:
        return np.int64(-1)
    key = pack(b, x, y, z)
    return find(keys, rows, mask, key) if key >= 0 else np.int64(-1)


@njit(cache=True, parallel=True)
def trilinear(feats, keys, rows, query, batch, shape):
    """feats fp32 [N, C], query fp32 [Q, 3], batch int64 [Q] -> [Q, C] and bool [Q]: no voxel around the point."""
    count, channels = query.shape[0], feats.shape[1]
    out = np.zeros((count, channels), np.float32)
    missed = np.zeros(count, np.bool_)
    mask = np.uint64(keys.shape[0] - 1)
    half, one = np.float32(0.5), np.float32(1)
    for i in prange(count):
        fx, fy, fz = query[i, 0] - half, query[i, 1] - half, query[i, 2] - half
        x, y, z = np.int64(np.floor(fx)), np.int64(np.floor(fy)), np.int64(np.floor(fz))
        fx, fy, fz = fx - np.float32(x), fy - np.float32(y), fz - np.float32(z)
        total, found = np.float32(0), False
        for corner in range(8):
            dx, dy, dz = corner >> 2, (corner >> 1) & 1, corner & 1
            row = row_at(keys, rows, mask, batch[i], x + dx, y + dy, z + dz, shape)
            if row < 0:
                continue
            found = True
            weight = (fx if dx else one - fx) * (fy if dy else one - fy) * (fz if dz else one - fz)
            total += weight
            for c in range(channels):
                out[i, c] += weight * feats[row, c]
        scale = one / max(total, np.float32(1e-12))
        for c in range(channels):
            out[i, c] *= scale
        missed[i] = not found
    return out, missed


@njit(cache=True)
def nearest_row(keys, rows, mask, b, point, low, high):
    """Row of the voxel nearest to a point, the lowest of equals: shells of cells until no nearer one is possible."""
    cx, cy, cz = np.int64(np.floor(point[0])), np.int64(np.floor(point[1])), np.int64(np.floor(point[2]))
    reach = max(
        max(abs(cx - low[0]), abs(cx - high[0])),
        max(abs(cy - low[1]), abs(cy - high[1])),
        max(abs(cz - low[2]), abs(cz - high[2])),
    )
    best, nearest = np.int64(-1), np.float32(np.inf)
    for ring in range(reach + 1):
        # A cell of this shell is at least ring - 0.5 away from a point of the middle cell.
        if best >= 0 and ring > 0 and (ring - 0.5) * (ring - 0.5) > nearest:
            break
        for x in range(max(cx - ring, low[0]), min(cx + ring, high[0]) + 1):
            for y in range(max(cy - ring, low[1]), min(cy + ring, high[1]) + 1):
                shell = abs(x - cx) == ring or abs(y - cy) == ring
                step = 1 if shell or ring == 0 else 2 * ring
                for z in range(cz - ring, cz + ring + 1, step):
                    if z < low[2] or z > high[2]:
                        continue
                    row = find(keys, rows, mask, pack(b, x, y, z))
                    if row < 0:
                        continue
                    dx = np.float32(x) + np.float32(0.5) - point[0]
                    dy = np.float32(y) + np.float32(0.5) - point[1]
                    dz = np.float32(z) + np.float32(0.5) - point[2]
                    distance = dx * dx + dy * dy + dz * dz
                    if distance < nearest or (distance == nearest and row < best):
                        best, nearest = row, distance
    return best


@njit(cache=True, parallel=True)
def nearest_rows(keys, rows, query, batch, lows, highs):
    """query fp32 [Q, 3], batch int64 [Q], inclusive boxes of the items int64 [B, 3] -> rows int64 [Q], -1 if none."""
    out = np.full(query.shape[0], -1, np.int64)
    mask = np.uint64(keys.shape[0] - 1)
    for i in prange(query.shape[0]):
        b = batch[i]
        if b >= 0 and b < lows.shape[0] and lows[b, 0] <= highs[b, 0]:
            out[i] = nearest_row(keys, rows, mask, b, query[i], lows[b], highs[b])
    return out


@njit(cache=True)
def boxes(coords):
    """Smallest and largest coordinates int64 [B, 3] of the voxels of each batch item; empty items have low > high."""
    count = 0
    for i in range(coords.shape[0]):
        count = max(count, coords[i, 0] + 1)
    lows, highs = np.full((count, 3), FAR, np.int64), np.full((count, 3), -1, np.int64)
    for i in range(coords.shape[0]):
        b = coords[i, 0]
        for axis in range(3):
            lows[b, axis] = min(lows[b, axis], coords[i, axis + 1])
            highs[b, axis] = max(highs[b, axis], coords[i, axis + 1])
    return lows, highs
