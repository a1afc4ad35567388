"""From voxels to a file: every step is announced, the asset is sound, the same voxels give the same bytes."""

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from tests.gltf_validation import gltf_issues
from tests.voxel_shapes import ball, glass_top, gradient, ring, signed_volume, voxel_asset
from trellis_app.errors import EmptyAssetError
from trellis_app.export.finish import STEPS, finish
from trellis_app.export.glb import write_glb
from trellis_app.export.ply import write_ply
from trellis_app.mesh.health import report
from trellis_app.mesh.surface import Surface
from trellis_app.settings import FinishOptions
from trellis_app.types import DualGrid, FinishedAsset, OVoxel

OPTIONS = FinishOptions(faces=1500, texture_size=256)


def finished(asset: OVoxel, options: FinishOptions = OPTIONS) -> FinishedAsset:
    *_, last = finish(asset, options)
    assert last.asset is not None
    return last.asset


def test_steps_come_in_order_and_the_last_brings_the_asset() -> None:
    steps = list(finish(voxel_asset(ring(), 32), OPTIONS))
    assert [step.name for step in steps] == list(STEPS)
    assert [step.index for step in steps] == list(range(1, len(STEPS) + 1))
    assert {step.count for step in steps} == {len(STEPS)}
    assert [step.asset is not None for step in steps] == [False] * (len(STEPS) - 1) + [True]


def test_the_asset_is_closed_outward_and_within_budget() -> None:
    asset = finished(voxel_asset(ring(), 64))
    health = report(asset.vertices, asset.faces, weld=True)
    assert OPTIONS.faces - 1 <= len(asset.faces) <= OPTIONS.faces
    assert health.watertight
    assert not asset.double_sided
    assert signed_volume(Surface(asset.vertices, asset.faces)) == pytest.approx(ring().volume, rel=0.03)
    np.testing.assert_allclose(np.linalg.norm(asset.normals, axis=1), 1.0, atol=1e-5)
    flat = trimesh.Trimesh(asset.vertices, asset.faces, process=False).face_normals
    assert (np.einsum("fd,fcd->fc", flat, asset.normals[asset.faces]) > 0).all()
    assert asset.counts["faces"] == len(asset.faces)
    assert asset.counts["non_manifold_edges"] == asset.counts["boundary_edges"] == 0


def test_vertex_colours_match_the_paint() -> None:
    asset = finished(voxel_asset(ball(), 64))
    np.testing.assert_allclose(asset.colors[:, :3], 255 * gradient(asset.vertices)[:, :3], atol=6)
    assert (asset.colors[:, 3] == 255).all()


def test_an_open_sheet_is_double_sided() -> None:
    sheet = trimesh.Trimesh([(-0.4, -0.4, 0.01), (0.4, -0.4, 0.03), (0.0, 0.4, 0.05)], [(0, 1, 2)])
    asset = finished(voxel_asset(sheet, 48))
    assert asset.double_sided
    assert report(asset.vertices, asset.faces, weld=True).inconsistent_edges == 0


def test_files_validate_and_are_byte_identical(tmp_path: Path) -> None:
    voxels = voxel_asset(ball(), 48, glass_top)
    written = []
    for name in ("first", "second"):
        asset = finished(voxels)
        glb = write_glb(asset, tmp_path / f"{name}.glb", extras={"seed": 1})
        written.append((glb.read_bytes(), write_ply(asset, tmp_path / f"{name}.ply").read_bytes()))
        assert 0 < asset.translucent_faces < len(asset.faces)
    assert written[0] == written[1]
    assert trimesh.load(tmp_path / "first.ply").is_watertight
    scene = trimesh.load(tmp_path / "first.glb")
    assert sum(len(part.faces) for part in scene.geometry.values()) == len(asset.faces)
    assert gltf_issues(tmp_path / "first.glb") == []


@pytest.mark.parametrize("kind", ["no voxels", "no crossing", "lonely voxels"])
def test_nothing_to_finish_is_a_sentence(kind: str) -> None:
    coords = torch.tensor([[1, 1, 1], [5, 5, 5]], dtype=torch.int32)[: 0 if kind == "no voxels" else 2]
    crossed = torch.full((len(coords), 3), kind == "lonely voxels")
    grid = DualGrid(coords, torch.full((len(coords), 3), 0.5), crossed, None, 16)
    with pytest.raises(EmptyAssetError, match="another seed"):
        finished(OVoxel(grid, torch.ones(len(coords), 6)))


def test_inputs_are_left_as_they_were() -> None:
    asset = voxel_asset(ball(), 24)
    before = [tensor.clone() for tensor in (asset.grid.coords, asset.grid.dual, asset.grid.crossed, asset.attributes)]
    finished(asset)
    after = (asset.grid.coords, asset.grid.dual, asset.grid.crossed, asset.attributes)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
