"""Pictures and UVs of finished objects against their voxels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trellis_app.bench_quality import QualityOptions, bench_quality, misses
from trellis_app.finish_quality import Quality, looked_up, mip_levels, stretch
from trellis_app.mesh.surface import Surface
from trellis_app.settings import FinishOptions
from trellis_app.training.library import pack
from trellis_app.training.shapes import random_object

SOUND = Quality("x", 40.0, 39.0, 38.0, 45.0, 41.0, 3, 0.7, 0, 1.0, 1.0, 0.1, 0.1, 100)


def test_texels_are_read_at_their_centres() -> None:
    image = np.random.default_rng(0).random((8, 8, 3))
    u, v = (1 + 0.5) / 8, (2 + 0.5) / 8
    found = looked_up(image, np.array([[u, v], [u + 0.0625, v], [0.0, 0.0]]))
    np.testing.assert_allclose(found[0], image[2, 1])
    np.testing.assert_allclose(found[1], (image[2, 1] + image[2, 2]) / 2)
    np.testing.assert_allclose(found[2], image[0, 0])


def test_coarser_levels_are_means() -> None:
    texture = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    full, half, quarter = mip_levels(texture)
    np.testing.assert_allclose(half[1, 2], full[2:4, 4:6].mean(axis=(0, 1)))
    np.testing.assert_allclose(quarter.mean(axis=(0, 1)), full.mean(axis=(0, 1)))


def test_stretch_of_a_sheared_and_of_an_even_layout() -> None:
    square = Surface(
        np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32), np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    )
    even = square.vertices[:, :2]
    assert stretch(square, 0.3 * even) == (1.0, 1.0)
    worse, anisotropy = stretch(square, even * (4.0, 1.0))
    assert anisotropy == 4.0
    assert worse == pytest.approx(np.sqrt((1 + 1 / 16) / 2 * 4), abs=1e-3)


def test_what_is_wanted_and_not_so_is_said() -> None:
    assert misses(SOUND) == []
    assert "texels in more than one face" in misses(replace(SOUND, overlap=2))[0]
    assert "0.640 below 0.65" in misses(replace(SOUND, use=0.64))[0]
    assert "31.90 dB below" in misses(replace(SOUND, psnr=31.9))[0]


def test_a_library_is_measured_and_the_worst_is_shown(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    library = pack([random_object(random) for _ in range(2)])
    np.savez(tmp_path / "two.npz", **{name: getattr(library, name) for name in library.__dataclass_fields__})
    lines: list[str] = []
    options = QualityOptions(
        tmp_path / "two.npz", 48, FinishOptions(faces=2000, texture_size=256), pictures=tmp_path / "sheets", worst=1
    )
    report = bench_quality(options, lines.append)
    rows = [json.loads(line) for line in lines]
    assert report["objects"] == len(rows) == 2
    assert all(row["overlap"] == 0 and row["psnr"] > 20 and 0.3 < row["use"] < 1 for row in rows)
    assert all(row["psnr_surface"] > row["psnr"] - 1 for row in rows)
    assert len(list((tmp_path / "sheets").iterdir())) == 1
