"""PLY files open elsewhere with colours, without seams, Y up."""

from pathlib import Path

import numpy as np
import trimesh

from tests.export.test_glb import quad
from trellis_app.export.ply import write_ply
from trellis_app.types import FinishedAsset


def seamed() -> FinishedAsset:
    """The quad with its diagonal split as at a UV seam."""
    asset = quad()
    split = np.array([0, 1, 2, 0, 2, 3])
    colors = np.arange(16, dtype=np.uint8).reshape(4, 4)[split] * 10
    faces = np.array([[0, 1, 2], [3, 4, 5]], np.int32)
    return FinishedAsset(asset.vertices[split], faces, asset.normals[split], asset.uvs[split], colors, asset.textures)


def test_trimesh_reads_positions_colours_and_joined_seams(tmp_path: Path) -> None:
    asset = seamed()
    mesh = trimesh.load(write_ply(asset, tmp_path / "quad.ply"), process=False)
    assert len(mesh.vertices) == 4
    x, y, z = asset.vertices[[0, 1, 2, 5]].T
    np.testing.assert_array_equal(mesh.vertices, np.stack([x, z, -y], axis=1))
    np.testing.assert_array_equal(mesh.faces, [[0, 1, 2], [0, 2, 3]])
    np.testing.assert_array_equal(mesh.visual.vertex_colors, asset.colors[[0, 1, 2, 5]])


def test_the_same_asset_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_ply(seamed(), tmp_path / "a.ply").read_bytes()
    assert write_ply(seamed(), tmp_path / "b.ply").read_bytes() == first
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.ply", "b.ply"]
