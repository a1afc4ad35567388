"""What keeps light away: shadows of the key light and ambient occlusion (numba, one thread, GIL released)."""

from __future__ import annotations

import numpy as np
from numba import njit

TURNS = 16  # pixels of the pattern
DIRECTIONS = 16  # rays of the ambient occlusion at a pixel, at most


def _ray_table() -> np.ndarray:
    """Rays float32 [TURNS, DIRECTIONS, 4]: tangent, bitangent, normal share, and length as a share of the radius."""
    turn, k = np.arange(TURNS)[:, None] / TURNS, np.arange(DIRECTIONS)[None]
    level = (k + 0.5) / DIRECTIONS + 0.0 * turn
    angle = 2.0 * np.pi * (k * 0.618034 + turn)
    reach = ((k * 7) % DIRECTIONS + 0.5 + 0.5 * turn) / DIRECTIONS
    out = np.sqrt(level)
    rays = [out * np.cos(angle), out * np.sin(angle), np.sqrt(1.0 - level), 0.06 + 0.94 * reach**2]
    return np.stack(rays, axis=2).astype(np.float32)


RAYS = _ray_table()


@njit(cache=True, nogil=True)
def lamp_visibility(
    position: np.ndarray, normal: np.ndarray, axes: np.ndarray, depth: np.ndarray, strength: float, bias: float
) -> np.ndarray:
    """Share of the key light that arrives, float32 [P], by a shadow map smoothed over 5x5 texels.

    axes: rows right, down, forward of the lamp [3, 3], the object within [-1, 1]; depth [N, N] its map.
    """
    side = depth.shape[0]
    out = np.empty(len(position), np.float32)
    for p in range(len(position)):
        place = np.zeros(3, np.float32)
        for axis in range(3):
            for k in range(3):
                place[axis] += axes[axis, k] * (position[p, k] + np.float32(bias) * normal[p, k])
        x, y = (place[0] * 0.5 + 0.5) * side - 0.5, (place[1] * 0.5 + 0.5) * side - 0.5
        left, top = int(np.floor(x)) - 2, int(np.floor(y)) - 2
        fx, fy = x - np.floor(x), y - np.floor(y)
        lit = total = 0.0
        for j in range(6):
            wy = 1.0 - fy if j == 0 else (fy if j == 5 else 1.0)
            for i in range(6):
                w = wy * (1.0 - fx if i == 0 else (fx if i == 5 else 1.0))
                row, column = min(max(top + j, 0), side - 1), min(max(left + i, 0), side - 1)
                total += w
                lit += w * (place[2] - bias <= depth[row, column])
        out[p] = 1.0 - strength * (1.0 - lit / total)
    return out


@njit(cache=True, nogil=True)
def ambient_openness(
    of_sample: np.ndarray, position: np.ndarray, normal: np.ndarray, depth: np.ndarray, matrix: np.ndarray,
    samples: int, radius: float, rays: int,
) -> np.ndarray:  # fmt: skip
    """Share of the near surroundings that is open, float32 [P], from the depth of what is seen (screen space).

    of_sample: point of a sample [S H, S W]; depth: camera z [S H, S W], inf where nothing is seen; matrix: world to
    (column z, row z, z) of the samples [3, 4]. Rays up to `radius` in a cosine hemisphere, turned by a 4 x 4 pattern
    of pixels, removed by a 4 x 4 mean over similar depths (Mittring 2007; Filion and McNaughton 2008).
    """
    height, width = of_sample.shape[0] // samples, of_sample.shape[1] // samples
    raw = np.ones((height, width), np.float32)
    seen = np.full((height, width), np.inf, np.float32)
    for row in range(height):
        for column in range(width):
            p = of_sample[row * samples, column * samples]
            if p >= 0:
                turn = ((row % 4) * 4 + (column % 4)) * 7 % TURNS
                raw[row, column] = _open_rays(position[p], normal[p], depth, matrix, np.float32(radius), turn, rays)
                seen[row, column] = depth[row * samples, column * samples]
    return _smooth(raw, seen, of_sample, len(position), samples, radius)


@njit(cache=True, nogil=True)
def _open_rays(
    position: np.ndarray, normal: np.ndarray, depth: np.ndarray, matrix: np.ndarray, radius: float, turn: int, rays: int
) -> float:
    nx, ny, nz = normal[0], normal[1], normal[2]
    sign = np.float32(1.0 if nz >= 0 else -1.0)  # Duff et al. 2017, "Building an orthonormal basis, revisited"
    a = np.float32(-1.0) / (sign + nz)
    b = nx * ny * a
    tx, ty, tz = np.float32(1.0) + sign * nx * nx * a, sign * b, -sign * nx
    bx, by, bz = b, sign + ny * ny * a, -ny
    hidden = np.float32(0.0)
    for k in range(0, DIRECTIONS, DIRECTIONS // rays):
        u, v, up, reach = RAYS[turn, k, 0], RAYS[turn, k, 1], RAYS[turn, k, 2], radius * RAYS[turn, k, 3]
        x = position[0] + reach * (u * tx + v * bx + up * nx)
        y = position[1] + reach * (u * ty + v * by + up * ny)
        z = position[2] + reach * (u * tz + v * bz + up * nz)
        far = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3]
        column = int(np.floor((matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3]) / far))
        row = int(np.floor((matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3]) / far))
        if 0 <= row < depth.shape[0] and 0 <= column < depth.shape[1]:
            gap = far - depth[row, column]
            if gap > np.float32(0.02) * radius:
                hidden += np.float32(1.0) if gap < radius else radius / gap * (radius / gap)
    return 1.0 - hidden / rays


@njit(cache=True, nogil=True)
def _smooth(
    raw: np.ndarray, seen: np.ndarray, of_sample: np.ndarray, count: int, samples: int, radius: float
) -> np.ndarray:
    """Mean of raw [H, W] over 4 x 4 pixels of similar depth, handed to the points [P] seen there."""
    height, width = raw.shape
    out = np.ones(count, np.float32)
    for row in range(height):
        for column in range(width):
            total = weight = 0.0
            for y in range(max(row - 2, 0), min(row + 2, height)):
                for x in range(max(column - 2, 0), min(column + 2, width)):
                    if abs(seen[y, x] - seen[row, column]) < 0.25 * radius:
                        total += raw[y, x]
                        weight += 1.0
            value = total / weight if weight > 0.0 else raw[row, column]
            for y in range(row * samples, (row + 1) * samples):
                for x in range(column * samples, (column + 1) * samples):
                    if of_sample[y, x] >= 0:
                        out[of_sample[y, x]] = value
    return out
