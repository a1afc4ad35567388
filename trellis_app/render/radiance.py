"""Pictures of radiance fields: every pixel's ray walks from voxel to voxel and gathers what they emit.

Occupied space is kept as bricks of 8^3 voxels; a ray crosses an empty brick in one step.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trellis_app.export.radiance import RadianceField
from trellis_app.parallel import in_parallel
from trellis_app.progress import Check, go_on
from trellis_app.render.camera import Camera

_BRICK = 8
_BAND = 16  # picture rows a piece of work has
_OPAQUE = 1e-3  # a ray that has less than this left ends
_NUDGE = 1e-4  # voxels: keeps a ray's point inside the cell it enters


def render_radiance(field: RadianceField, camera: Camera, size: int, check: Check = go_on) -> np.ndarray:
    """Straight sRGB uint8 [size, size, 4], background transparent; colours are blended as they are stored."""
    side = -(-field.resolution // _BRICK)
    table, rows = _bricks(field.coords, side)
    start = (camera.eye - np.array(field.origin)) / field.voxel_size  # voxel units from here on
    matrix = camera.extrinsics[:3, :3].T @ np.linalg.inv(camera.intrinsics)
    matter = np.column_stack([field.color / 255.0, field.density * np.float64(field.voxel_size)])

    def band(first: int) -> np.ndarray:
        return _trace(first, min(first + _BAND, size), size, start, matrix, table, rows, matter)

    picture = np.concatenate(in_parallel(band, range(0, size, _BAND), check))
    alpha = picture[..., 3:]
    picture[..., :3] /= np.where(alpha > 0, alpha, 1.0)
    return np.rint(255.0 * picture.clip(0.0, 1.0)).astype(np.uint8)


@njit(cache=True, nogil=True)
def _bricks(coords: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """(brick of each cell of the coarse grid or -1, row of each voxel of each brick or -1)."""
    table = np.full((side, side, side), -1, np.int32)
    count = 0
    for i in range(len(coords)):
        x, y, z = coords[i, 0] // _BRICK, coords[i, 1] // _BRICK, coords[i, 2] // _BRICK
        if table[x, y, z] < 0:
            table[x, y, z] = count
            count += 1
    rows = np.full((count, _BRICK, _BRICK, _BRICK), -1, np.int32)
    for i in range(len(coords)):
        x, y, z = coords[i, 0], coords[i, 1], coords[i, 2]
        rows[table[x // _BRICK, y // _BRICK, z // _BRICK], x % _BRICK, y % _BRICK, z % _BRICK] = i
    return table, rows


@njit(cache=True, nogil=True)
def _leave(point: np.ndarray, way: np.ndarray, cell: int) -> float:
    """How far a ray goes from `point` until it leaves its cell of side `cell`."""
    nearest = np.inf
    for k in range(3):
        low = np.floor(point[k] / cell) * cell
        if way[k] > 1e-12:
            nearest = min(nearest, (low + cell - point[k]) / way[k])
        elif way[k] < -1e-12:
            nearest = min(nearest, (low - point[k]) / way[k])
    return max(nearest, 0.0)


@njit(cache=True, nogil=True)
def _trace(
    first: int, last: int, size: int, start: np.ndarray, matrix: np.ndarray,
    table: np.ndarray, rows: np.ndarray, matter: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Rows first .. last - 1 of the picture, premultiplied RGBA float64; matter [N, 4]: colour and density."""
    out = np.zeros((last - first, size, 4))
    side = table.shape[0] * _BRICK
    way, point = np.empty(3), np.empty(3)
    for v in range(first, last):
        for u in range(size):
            for k in range(3):
                way[k] = matrix[k, 0] * (u + 0.5) / size + matrix[k, 1] * (v + 0.5) / size + matrix[k, 2]
            way /= np.sqrt((way * way).sum())
            enter, leave = 0.0, np.inf
            for k in range(3):
                if abs(way[k]) < 1e-12:
                    if not 0.0 <= start[k] < side:
                        leave = -1.0
                    continue
                a, b = -start[k] / way[k], (side - start[k]) / way[k]
                enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
            t, left = enter + _NUDGE, 1.0
            while t < leave - _NUDGE and left > _OPAQUE:
                for k in range(3):
                    point[k] = min(max(start[k] + t * way[k], 0.0), side - 1e-9)
                x, y, z = int(point[0]), int(point[1]), int(point[2])
                brick = table[x // _BRICK, y // _BRICK, z // _BRICK]
                if brick < 0:
                    t += _leave(point, way, _BRICK) + _NUDGE
                    continue
                step = _leave(point, way, 1) + _NUDGE
                row = rows[brick, x % _BRICK, y % _BRICK, z % _BRICK]
                if row >= 0:
                    taken = left * (1.0 - np.exp(-matter[row, 3] * step))
                    for k in range(3):
                        out[v - first, u, k] += taken * matter[row, k]
                    out[v - first, u, 3] += taken
                    left -= taken
                t += step
    return out
