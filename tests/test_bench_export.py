"""The synthetic surfaces that finishing is measured on, and the measurement itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trellis_app.bench_assets import field, parts_field, rough, synthetic_asset
from trellis_app.bench_export import GLB_STEP, bench_export, table
from trellis_app.export.finish import STEPS
from trellis_app.mesh.health import report
from trellis_app.ovoxel.to_mesh import dual_grid_to_mesh
from trellis_app.settings import FinishOptions


@pytest.mark.parametrize(("resolution", "walls"), [(33, 1), (80, 2)])
def test_the_surface_lies_on_the_level_set(resolution: int, walls: int) -> None:
    asset = synthetic_asset(resolution, walls=walls)
    mesh = dual_grid_to_mesh(asset.grid)
    assert float(field(mesh.vertices, walls).abs().max()) < 1.0 / resolution
    health = report(mesh.vertices.numpy(), mesh.faces.numpy())
    assert health.boundary_edges == 0
    assert health.parts == walls
    assert float(asset.attributes.min()) >= 0
    assert float(asset.attributes.max()) <= 1


def test_noise_is_rough_at_the_scale_of_voxels() -> None:
    smooth, noisy = (synthetic_asset(96, kind=kind).grid for kind in ("ball", "noisy"))
    points = torch.rand(20_000, 3) - 0.5
    assert float(rough(points, 96).square().mean().sqrt()) * 96 == pytest.approx(0.35, abs=0.02)
    off = field(dual_grid_to_mesh(noisy).vertices, 1).square().mean().sqrt() * 96
    assert 0.25 < float(off) < 0.45
    assert len(noisy.coords) == pytest.approx(len(smooth.coords), rel=0.2)


def test_the_parts_are_apart() -> None:
    mesh = dual_grid_to_mesh(synthetic_asset(128, kind="parts").grid)
    health = report(mesh.vertices.numpy(), mesh.faces.numpy())
    assert health.parts == 64
    assert health.boundary_edges == 0
    assert float(parts_field(mesh.vertices, 1).abs().max()) < 3.0 / 128


def test_slabs_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = synthetic_asset(40)
    monkeypatch.setattr("trellis_app.bench_assets._SLAB_CORNERS", 7 * 41**2)
    slabs = synthetic_asset(40)
    assert torch.equal(whole.grid.coords, slabs.grid.coords)
    assert torch.equal(whole.grid.crossed, slabs.grid.crossed)
    np.testing.assert_array_equal(whole.grid.dual, slabs.grid.dual)


def test_measures_every_step() -> None:
    measured = bench_export([32, 40], FinishOptions(faces=800, texture_size=64), runs=1, device="cpu", walls=1)
    for size in ("32", "40"):
        found = measured[size]
        assert list(found["median_steps"]) == [*STEPS, GLB_STEP]
        assert found["runs"][0]["counts"]["faces"] <= 800
        assert found["median_seconds"] == pytest.approx(sum(found["median_steps"].values()), abs=0.05)
    assert "32³" in table(measured)
