"""Measures of likeness on cases whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from trellis_app.ovoxel.from_mesh import mesh_to_dual_grid
from trellis_app.render.camera import view_camera
from trellis_app.training.augment import to_view_frame
from trellis_app.training.comparisons import AssetArrays, Framed, compare, compare_round_trip, open_edges, portraits
from trellis_app.training.library import LibraryObject
from trellis_app.training.metrics import f_scores, intersection_over_union, matched_rows, psnr, surface_points
from trellis_app.training.samples import make_sample
from trellis_app.types import Mesh, OVoxel

BOX = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32) * [1, 0.7, 0.5]
FACES = np.array(
    [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4],
     [1, 5, 7], [1, 7, 3]], np.int32,
)  # fmt: skip


def box(colour: tuple[int, int, int] = (200, 80, 40)) -> LibraryObject:
    rgba = np.full((12, 3, 4), 255, np.uint8)
    rgba[..., :3] = colour
    return LibraryObject("box", BOX.astype(np.float32), FACES, rgba, np.full((12, 2), 100, np.uint8))


def voxels(obj: LibraryObject, yaw: float, resolution: int = 64) -> AssetArrays:
    framed = to_view_frame(obj, yaw)
    grid = mesh_to_dual_grid(Mesh(torch.from_numpy(framed.vertices), torch.from_numpy(framed.faces)), resolution)
    colours = torch.tensor([200, 80, 40, 0, 100, 255]) / 255
    return AssetArrays.of(OVoxel(grid, colours.expand(len(grid.coords), -1)))


def test_f_scores_of_shifted_points() -> None:
    points = np.random.default_rng(0).random((500, 3)) * 10
    assert f_scores(points, points + np.array([0.01, 0, 0]), (0.02, 0.005)) == pytest.approx((1.0, 0.0), abs=0.01)
    assert f_scores(points, points[:0], (0.1,)) == (0.0,)


def test_f_score_is_the_harmonic_mean_of_both_directions() -> None:
    a = np.array([[0.0, 0, 0], [1, 0, 0]])
    b = np.array([[0.0, 0, 0]])
    assert f_scores(a, b, (0.1,))[0] == pytest.approx(2 * 0.5 * 1 / 1.5)


def test_surface_points_lie_on_the_surface_in_proportion_to_area() -> None:
    points = surface_points(BOX, FACES, 20_000, np.random.default_rng(0))
    on_x = (np.abs(points[:, 0]) < 1e-6) | (np.abs(points[:, 0] - 1) < 1e-6)
    total = 2 * (0.7 * 0.5 + 1 * 0.5 + 1 * 0.7)
    assert on_x.mean() == pytest.approx(2 * 0.35 / total, abs=0.02)
    assert len(surface_points(BOX, FACES[:0], 5, np.random.default_rng(0))) == 0


def test_psnr_and_overlap() -> None:
    assert psnr(np.zeros(4), np.full(4, 0.1)) == pytest.approx(20.0)
    assert np.isnan(psnr(np.zeros(0), np.zeros(0)))
    assert intersection_over_union(np.array([True, True, False]), np.array([True, False, True])) == pytest.approx(1 / 3)


def test_matched_rows_pair_equal_coordinates() -> None:
    a = np.array([[3, 0, 1], [5, 5, 5], [0, 0, 0]])
    b = np.array([[0, 0, 0], [9, 9, 9], [3, 0, 1]])
    rows_a, rows_b = matched_rows(a, b)
    assert (a[rows_a] == b[rows_b]).all()
    assert len(rows_a) == 2


def test_an_object_is_like_itself_and_like_its_voxels() -> None:
    truth, camera = Framed(box(), 0.4), view_camera(0.3, 35.0)
    same = compare(truth, truth, camera, 0)
    assert same["iou"] == 1
    assert same["psnr"] == 60
    assert same["f_005"] > 0.999
    made = compare(truth, voxels(box(), 0.4), camera, 0)
    assert made["f_005"] > 0.999
    assert made["iou"] > 0.98
    assert made["psnr"] > 40


def test_a_turned_or_repainted_object_is_less_like() -> None:
    truth, camera = Framed(box(), 0.0), view_camera(0.3, 35.0)
    assert compare(truth, Framed(box(), 0.8), camera, 0)["iou"] < 0.9
    assert compare(truth, Framed(box((40, 80, 200)), 0.0), camera, 0)["psnr"] < 10


def test_round_trip_of_the_true_voxels_is_perfect() -> None:
    truth = voxels(box(), 0.4)
    scores = compare_round_trip(Framed(box(), 0.4), truth, truth, 0)
    assert scores["f1"] > 0.999
    assert scores["voxel_f1"] == 1
    assert scores["psnr"] == 60
    assert scores["open"] == 0


def test_open_edges_count_the_rims_of_holes() -> None:
    whole = voxels(box(), 0.4)
    crossed = whole.crossed.copy()
    crossed[np.flatnonzero(crossed.any(1))[50]] = False
    holes = open_edges(replace(whole, crossed=crossed))
    faces = 2 * crossed.sum()
    assert 4 <= round(holes * faces) <= 12


def test_the_frame_of_comparison_is_that_of_the_samples() -> None:
    sample = make_sample(box(), np.random.default_rng(3), resolution=64, views=1, view_side=32, yaw=0.9)
    bits = np.array([1, 2, 4], np.uint8)
    own = AssetArrays(
        coords=sample.coords,
        dual=(sample.dual / 255).astype(np.float16),
        crossed=(sample.crossed[:, None] & bits) > 0,
        split=np.ones((len(sample.coords), 1), np.float32),
        attributes=sample.attributes,
        resolution=64,
    )
    scores = compare(Framed(box(), sample.yaw), own, sample.cameras[0], 0)
    assert scores["f_002"] > 0.99
    assert scores["iou"] > 0.97


def test_portraits_show_front_and_back() -> None:
    front, back = portraits(voxels(box(), 0.0), view_camera(0.2, 30.0), 48)
    assert front.shape == back.shape == (48, 48, 3)
    assert front.std() > 5
