"""Figures of texturing: points, texels and a perfect material."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_bundle import write_tiny_bundle
from trellis_app.ovoxel.attributes import flat_attributes
from trellis_app.training.augment import to_view_frame
from trellis_app.training.comparisons import AssetArrays
from trellis_app.training.evaluate_texturing import (
    TexturingSettings,
    evaluate_texturing,
    mean_colour,
    measured,
    surface_samples,
    table,
)
from trellis_app.training.library import pack
from trellis_app.training.samples import make_sample
from trellis_app.training.shapes import random_object
from trellis_app.types import DualGrid, OVoxel


def test_points_follow_the_area() -> None:
    vertices = np.array([[0, 0, 0], [3, 0, 0], [0, 3, 0], [1, 0, 5], [2, 0, 5], [1, 1, 5]], np.float32)
    faces = np.array([[0, 1, 2], [3, 4, 5], [0, 0, 1]], np.int32)
    face, share = surface_samples(vertices, faces, 20_000, np.random.default_rng(0))
    assert np.bincount(face, minlength=3)[2] == 0
    assert (face == 0).mean() == pytest.approx(0.9, abs=0.01)
    assert share.min() >= 0
    np.testing.assert_allclose(share.sum(axis=1), 1)
    np.testing.assert_allclose(share.mean(axis=0), 1 / 3, atol=0.01)


def test_the_mean_colour_leaves_out_the_background() -> None:
    view = np.zeros((4, 4, 4), np.uint8)
    view[..., :3] = 200
    view[0, :2] = [[255, 0, 51, 255], [0, 0, 51, 255]]
    np.testing.assert_allclose(mean_colour(view), [0.5, 0.0, 0.2])


def test_true_voxels_measure_as_the_best() -> None:
    obj = random_object(np.random.default_rng(3))
    sample = make_sample(obj, np.random.default_rng(0), resolution=64, views=1, view_side=64)
    framed = to_view_frame(obj, sample.yaw)
    coords = torch.from_numpy(sample.coords.astype(np.int32))
    bits = torch.from_numpy(sample.crossed[:, None] & np.array([1, 2, 4], np.uint8)) > 0
    grid = DualGrid(coords, torch.from_numpy(sample.dual / np.float32(255)), bits, None, 64)
    true = flat_attributes(framed.vertices, framed.faces, framed.corner_rgba, framed.metal_rough, grid)
    asset = OVoxel(grid, torch.from_numpy(true.astype(np.float32) / 255))
    row = measured(obj, sample, AssetArrays.of(asset), 128)
    assert row["psnr"] == pytest.approx(row["best"])
    assert float(row["best"]) > float(row["plain"])


def test_a_library_is_measured(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    library = pack([random_object(random) for _ in range(2)])
    np.savez(tmp_path / "two.npz", **{name: getattr(library, name) for name in library.__dataclass_fields__})
    bundle = write_tiny_bundle(tmp_path / "bundle")
    report = evaluate_texturing(TexturingSettings(str(bundle), tmp_path / "two.npz", workers=1, texture_size=64))
    assert report["objects"] == 2
    assert "mean" in table(report)
    for row in report["rows"]:  # type: ignore[attr-defined]
        assert float(row["best"]) > float(row["psnr"])
