"""The voxels of an asset as .vxz, .npz and .ply open again, here and elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData

from tests.export.kept import ring_source
from tests.voxel_shapes import glass_top
from trellis_app.export.formats import write_all
from trellis_app.ovoxel import files

ENDINGS = {"vxz": "vxz", "voxels-npz": "voxels.npz", "voxels-ply": "voxels.ply"}


@pytest.mark.parametrize("name", ENDINGS)
def test_the_asset_comes_back(tmp_path: Path, name: str) -> None:
    voxels = ring_source(paint=glass_top).voxels
    (path,) = write_all(ring_source(paint=glass_top), tmp_path, "ring", (name,))[name]
    assert path.name == f"ring.{ENDINGS[name]}"
    back = files.voxels_asset(files.read(path), voxels.grid.resolution)

    def in_order(coords: torch.Tensor) -> np.ndarray:
        return np.lexsort(coords.numpy().T)

    a, b = in_order(voxels.grid.coords), in_order(back.grid.coords)
    np.testing.assert_array_equal(back.grid.coords[b], voxels.grid.coords[a])
    np.testing.assert_array_equal(back.grid.crossed[b], voxels.grid.crossed[a])
    np.testing.assert_allclose(back.grid.dual[b], voxels.grid.dual[a].clamp(0, 1), atol=1 / 254)
    np.testing.assert_allclose(back.attributes[b], voxels.attributes[a], atol=1 / 509)


def test_numpy_and_plyfile_read_the_coordinates(tmp_path: Path) -> None:
    source = ring_source()
    write_all(source, tmp_path, "ring", ("voxels-npz", "voxels-ply"))
    with np.load(tmp_path / "ring.voxels.npz") as arrays:
        np.testing.assert_array_equal(arrays["coord"], source.voxels.grid.coords)
        assert arrays["base_color"].shape == (len(arrays["coord"]), 3)
    rows = PlyData.read(tmp_path / "ring.voxels.ply")["vertex"].data
    np.testing.assert_array_equal(np.stack([rows[axis] for axis in "xyz"], axis=1), source.voxels.grid.coords)
    assert {"base_color_0", "metallic_0", "roughness_0", "alpha_0"} <= set(rows.dtype.names)
