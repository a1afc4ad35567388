"""Previews of every stage: blocks, clay, vertex colours, textures."""

import time

import numpy as np
import pytest
import torch

from trellis_app.render.blocks import SIDES, bevelled_blocks, voxel_blocks_mesh
from trellis_app.render.preview import (
    FRONT,
    as_surface,
    hero_camera,
    on_backdrop,
    preview_mesh,
    render_mesh,
    render_preview_rgba,
    render_unlit,
)
from trellis_app.types import DualGrid, FinishedAsset, Mesh, Occupancy, OVoxel, Textures


def _occupancy(cells: list[tuple[int, int, int]], resolution: int = 4) -> Occupancy:
    coords = torch.tensor([(0, *cell) for cell in cells], dtype=torch.int32).reshape(-1, 4)
    return Occupancy(coords, resolution)


def _box_grid() -> DualGrid:
    """The surface of a box in an 8-grid: voxels 2..5, edges crossed where the box's faces cut them."""
    inside = np.zeros((9, 9, 9), bool)  # grid corners within the box
    inside[3:6, 3:6, 3:6] = True
    crossed = {}
    for axis in range(3):
        for cell in np.ndindex(8, 8, 8):
            far, near = np.array(cell) + 1, np.array(cell) + 1
            near[axis] -= 1
            if inside[tuple(far)] != inside[tuple(near)]:
                crossed.setdefault(cell, np.zeros(3, bool))[axis] = True
                for one in np.ndindex(2, 2):
                    other = list(cell)
                    for k, step in zip([a for a in range(3) if a != axis], one, strict=True):
                        other[k] += step
                    crossed.setdefault(tuple(other), np.zeros(3, bool))
    cells = sorted(crossed)
    flags = torch.tensor(np.array([crossed[cell] for cell in cells]))
    coords = torch.tensor(cells, dtype=torch.int32)
    return DualGrid(coords, torch.full((len(cells), 3), 0.5), flags, None, 8)


def _asset(alpha_mode: str = "OPAQUE") -> FinishedAsset:
    vertices = np.float32([[-0.4, 0, -0.4], [0.4, 0, -0.4], [0.4, 0, 0.4], [-0.4, 0, 0.4]])
    texture = np.full((8, 8, 4), (255, 0, 0, 100), np.uint8)
    rough = np.full((8, 8, 3), (0, 255, 0), np.uint8)
    return FinishedAsset(
        vertices,
        np.int32([[0, 1, 2], [0, 2, 3]]),
        np.float32([[0, -1, 0]] * 4),
        np.float32([[0, 1], [1, 1], [1, 0], [0, 0]]),
        np.full((4, 4), 255, np.uint8),
        Textures(texture, rough, alpha_mode),
    )


def test_blocks_have_only_exposed_sides_wound_outwards() -> None:
    occupancy = _occupancy([(0, 0, 0), (1, 0, 0), (3, 3, 3)])
    vertices, faces, colors = voxel_blocks_mesh(occupancy)
    assert (len(vertices), len(faces)) == (16 * 4, 16 * 2)  # 3 cubes of 6 sides less the two that touch
    assert colors.shape == (64, 4)
    assert colors.dtype == np.uint8
    a, b, c = (vertices[faces[:, k]].astype(float) for k in range(3))
    volume = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6
    assert volume == pytest.approx(3 / 64, rel=1e-5)
    assert vertices.min() == -0.5
    assert vertices.max() == 0.5
    for axis, sign, u, v in SIDES:
        np.testing.assert_array_equal(np.cross(np.eye(3)[u], np.eye(3)[v]), sign * np.eye(3)[axis])


def test_blocks_are_darker_in_corners_and_brighter_above() -> None:
    _, _, alone = voxel_blocks_mesh(_occupancy([(1, 1, 1)]))
    step = _occupancy([(1, 1, 1), (1, 2, 1), (1, 2, 2)])
    _, _, stairs = voxel_blocks_mesh(step)
    assert stairs[:, :3].min() < alone[:, :3].min()
    vertices, _, colors = voxel_blocks_mesh(_occupancy([(0, 0, 0), (0, 0, 3)]))
    assert colors[vertices[:, 2] == 0.5, 1].min() > colors[vertices[:, 2] == -0.5, 1].max()


def test_bevel_normals_lean_but_stay_outside() -> None:
    vertices, faces, normals, colors = bevelled_blocks(_occupancy([(1, 2, 3)]))
    assert faces.shape == (60, 3)
    assert normals.shape == (60, 3, 3)
    assert colors.shape == (60, 3, 4)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=2), 1.0, atol=1e-5)
    corners = vertices[faces].astype(float)
    outward = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert np.all(np.einsum("ij,ij->i", outward, normals[:, 0]) > 0)


def test_every_stage_has_a_picture_and_a_mesh() -> None:
    grid = _box_grid()
    attributes = torch.tensor([[0.0, 0.6, 0.0, 0.0, 0.8, 1.0]]).expand(len(grid.coords), 6)
    asset = OVoxel(grid, attributes)
    for result in (_occupancy([(1, 1, 1)]), grid, asset, _asset()):
        picture = render_preview_rgba(result, 48)
        assert picture.shape == (48, 48, 4)
        assert picture[24, 24, 3] == 255
        assert picture[0, 0, 3] == 0
        assert np.array_equal(picture, render_preview_rgba(result, 48))
    assert preview_mesh(grid).colors is None
    colored = preview_mesh(asset)
    assert colored.colors is not None
    assert colored.colors[0].tolist() == [0, 153, 0, 255]
    assert len(colored.colors) == len(colored.vertices)
    green = render_preview_rgba(asset, 48)[24, 24].astype(int)
    assert green[1] > green[0] + 30
    assert on_backdrop(picture).shape == (48, 48, 3)


def test_unlit_silhouette_and_colour_of_an_asset() -> None:
    maps = render_unlit(_asset(), FRONT, 64, ("base_color", "mask", "alpha"))
    np.testing.assert_allclose(maps["base_color"][32, 32], [1.0, 0.0, 0.0], atol=1e-3)
    assert maps["alpha"][32, 32] == 1.0  # OPAQUE forgets alpha
    assert render_mesh(_asset("BLEND"), FRONT, 32)[16, 16, 3] == 100
    assert render_mesh(_asset("MASK"), FRONT, 32)[16, 16, 3] == 0


def test_nothing_is_an_empty_picture() -> None:
    empty = _occupancy([])
    assert len(voxel_blocks_mesh(empty)[1]) == 0
    assert not render_preview_rgba(empty, 16).any()
    mesh = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int32))
    assert not render_mesh(mesh, size=16).any()


@pytest.mark.slow
def test_large_mesh_is_quick() -> None:
    side = 390
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, side + 1), np.linspace(0.01, np.pi - 0.01, side + 1))
    points = 0.48 * np.stack([np.sin(v) * np.cos(u), np.sin(v) * np.sin(u), np.cos(v)], axis=-1)
    first = (np.arange(side)[:, None] * (side + 1) + np.arange(side)).reshape(-1, 1)
    halves = np.array([[0, 1, side + 1], [1, side + 2, side + 1]])
    faces = np.concatenate([first + halves[0], first + halves[1]]).astype(np.int32)
    mesh = Mesh(torch.from_numpy(points.reshape(-1, 3).astype(np.float32)), torch.from_numpy(faces))
    render_mesh(mesh)
    begin = time.perf_counter()
    render_mesh(mesh)
    assert len(faces) > 300_000
    assert time.perf_counter() - begin < 2.0  # about 0.3 s on two idle cores


def test_hero_camera_keeps_the_object_in_the_picture() -> None:
    vertices = as_surface(_occupancy([(3, 0, 0)])).vertices
    clip = hero_camera(vertices).clip(vertices)
    assert np.abs(clip[:, :2] / clip[:, 3:]).max() == pytest.approx(1 - 2 * 0.08, abs=1e-3)
