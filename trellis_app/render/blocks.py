"""Voxel blocks: occupied cells as cubes, only the sides that can be seen, shaded where cells meet."""

from __future__ import annotations

import numpy as np

from trellis_app.types import Occupancy

BEVEL = 0.09  # of a cell's side
BOTTOM, TOP = np.array([112.0, 116.0, 226.0]), np.array([132.0, 224.0, 214.0])  # sRGB along the height
CORNERS = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])  # of a side, counter-clockwise about its outward normal
# Per side: outward axis, sign, and the axes (u, v) of its square so that u x v points outward.
SIDES = ((0, 1, 1, 2), (0, -1, 2, 1), (1, 1, 2, 0), (1, -1, 0, 2), (2, 1, 0, 1), (2, -1, 1, 0))


def voxel_blocks_mesh(occupancy: Occupancy) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quads of the exposed sides of batch item 0 in the box [-0.5, 0.5]^3, Z up.

    Returns vertices float32 [4 Q, 3], faces int32 [2 Q, 3] wound outwards, colours uint8 sRGB [4 Q, 4]: a gradient of
    height, darker in corners between blocks.
    """
    corners, _, colors = exposed_sides(occupancy)
    first = np.arange(len(corners), dtype=np.int32)[:, None] * 4
    faces = (first[:, :, None] + np.array([[[0, 1, 2], [0, 2, 3]]], np.int32)).reshape(-1, 3)
    return corners.reshape(-1, 3), faces, colors.reshape(-1, 4)


def exposed_sides(occupancy: Occupancy) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corners float32 [Q, 4, 3], outward normals float32 [Q, 3], colours uint8 [Q, 4, 4] of the exposed sides."""
    side = occupancy.resolution
    coords = occupancy.coords.cpu().numpy().astype(np.int64)
    cells = coords[coords[:, 0] == 0][:, 1:]
    filled = np.zeros((side + 2,) * 3, bool)
    filled[tuple((cells + 1).T)] = True
    parts = [_one_side(filled, cells, axes, side) for axes in SIDES]
    corners, normals, colors = (np.concatenate(part) for part in zip(*parts, strict=True))
    return corners, normals, colors


def _one_side(
    filled: np.ndarray, cells: np.ndarray, axes: tuple[int, int, int, int], side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    axis, sign, u, v = axes
    out = np.eye(3, dtype=np.int64)[axis] * sign
    cells = cells[~filled[tuple((cells + 1 + out).T)]]
    corner = np.zeros((4, 3), np.int64)
    corner[:, axis] = sign > 0
    corner[:, u], corner[:, v] = CORNERS.T
    corners = ((cells[:, None] + corner) / side - 0.5).astype(np.float32)
    normals = np.broadcast_to(out.astype(np.float32), (len(cells), 3))
    open_share = _corner_openness(filled, cells + 1 + out, np.eye(3, dtype=np.int64)[[u, v]])
    height = (corners[..., 2:3] + 0.5).astype(np.float64)
    colour = (BOTTOM + (TOP - BOTTOM) * height) * open_share[..., None]
    alpha = np.full((*colour.shape[:2], 1), 255.0)
    return corners, normals, np.rint(np.concatenate([colour, alpha], axis=2)).astype(np.uint8)


def _corner_openness(filled: np.ndarray, front: np.ndarray, tangents: np.ndarray) -> np.ndarray:
    """Share of light at the four corners of a side [Q, 4]: each of the three cells that touch it takes some."""
    shares = []
    for corner in CORNERS:
        first, second = (tangents[k] * (2 * corner[k] - 1) for k in range(2))
        a, b, c = (filled[tuple((front + step).T)] for step in (first, second, first + second))
        shares.append(1.0 - 0.16 * (a.astype(float) + b + (c | (a & b))))
    return np.stack(shares, axis=1)


def bevelled_blocks(occupancy: Occupancy) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Blocks for the renderer: each side a square and four strips whose normals lean outwards, like a bevel.

    Returns vertices float32 [8 Q, 3], faces int32 [10 Q, 3], corner normals float32 [10 Q, 3, 3], corner colours uint8
    [10 Q, 3, 4].
    """
    outer, normal, colors = exposed_sides(occupancy)
    centre = outer.mean(axis=1, keepdims=True)
    inner = centre + (outer - centre) * np.float32(1.0 - 2.0 * BEVEL)
    vertices = np.concatenate([outer, inner], axis=1)
    triangles, lean = [[4, 5, 6], [4, 6, 7]], [normal, normal]
    for k in range(4):
        after = (k + 1) % 4
        middle = (outer[:, k] + outer[:, after]) / 2 - centre[:, 0]
        tilted = normal + np.float32(0.8) * middle / np.linalg.norm(middle, axis=1, keepdims=True)
        tilted /= np.linalg.norm(tilted, axis=1, keepdims=True)
        triangles += [[k, after, 4 + after], [k, 4 + after, 4 + k]]
        lean += [tilted, tilted]
    local = np.array(triangles, np.int32)
    faces = (np.arange(len(outer), dtype=np.int32)[:, None, None] * 8 + local).reshape(-1, 3)
    normals = np.repeat(np.stack(lean, axis=1).reshape(-1, 1, 3), 3, axis=1)
    corner_colors = np.concatenate([colors, colors], axis=1)[:, local].reshape(-1, 3, 4)
    return vertices.reshape(-1, 3), faces, np.ascontiguousarray(normals), corner_colors
