"""Collections: the npz layout of ../shared/data, folders of meshes, texture colours at corners."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from trellis_app.errors import MeshError
from trellis_app.training.library import ARRAYS, LibraryObject, check_visible, join, pack, read_library, read_mesh
from trellis_app.training.shapes import random_object


def triangle(name: str = "triangle") -> LibraryObject:
    return LibraryObject(
        name,
        np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32),
        np.array([[0, 1, 2]], np.int32),
        np.full((1, 3, 4), 255, np.uint8),
        np.array([[0, 128]], np.uint8),
    )


def test_pack_gives_objects_back() -> None:
    objects = [random_object(np.random.default_rng(i)) for i in range(3)]
    library = pack(objects)
    assert len(library) == 3
    for want, got in zip(objects, library, strict=True):
        assert want.name == got.name
        for field in ("vertices", "faces", "corner_rgba", "metal_rough"):
            np.testing.assert_array_equal(getattr(want, field), getattr(got, field))
    assert library[-1].name == objects[-1].name
    with pytest.raises(IndexError):
        library[3]


def test_npz_positions_are_dequantised(tmp_path: Path) -> None:
    library = pack([triangle("a"), triangle("b")])
    arrays = {name: getattr(library, name) for name in ARRAYS}
    arrays["vertices"] = (library.vertices * 65535).astype(np.uint16)
    arrays["faces"] = library.faces.astype(np.uint16)
    np.savez(tmp_path / "c.npz", **arrays)
    obj = read_library(tmp_path / "c.npz")[1]
    np.testing.assert_allclose(obj.vertices, triangle().vertices - 0.5, atol=1e-6)
    assert obj.faces.dtype == np.int32
    np.savez(tmp_path / "d.npz", names=arrays["names"])
    with pytest.raises(MeshError, match="lacks the arrays vertex_offsets"):
        read_library(tmp_path / "d.npz")


def test_shared_collection_is_whole(shared: Path) -> None:
    library = read_library(shared / "data" / "dev.npz")
    assert len(library) == 142
    for obj in library:
        check_visible(obj)
        assert abs(np.ptp(obj.vertices, axis=0).max() - 1) < 1e-3


def test_folder_of_glbs_samples_textures_and_skips_broken_files(tmp_path: Path) -> None:
    texture = Image.new("RGBA", (4, 4), (200, 10, 10, 255))
    texture.paste((10, 10, 200, 255), (2, 0, 4, 4))
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=texture, baseColorFactor=[255, 255, 255, 255], metallicFactor=0.25, roughnessFactor=0.75
    )
    plane = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    plane.visual = trimesh.visual.TextureVisuals(uv=[[0, 0], [1, 0], [1, 1], [0, 1]], material=material)
    plane.export(tmp_path / "plane.glb")
    (tmp_path / "broken.glb").write_bytes(b"not a mesh")
    library = read_library(tmp_path)
    assert list(library.names) == ["plane"]
    obj = library[0]
    middle = obj.vertices[obj.faces].mean(axis=1)
    left, right = middle[:, 0] < 0.48, middle[:, 0] > 0.52
    np.testing.assert_array_equal(np.unique(obj.corner_rgba[left].reshape(-1, 4), axis=0), [[200, 10, 10, 255]])
    np.testing.assert_array_equal(np.unique(obj.corner_rgba[right].reshape(-1, 4), axis=0), [[10, 10, 200, 255]])
    np.testing.assert_array_equal(np.unique(obj.metal_rough, axis=0), [[64, 191]])
    edges = np.linalg.norm(np.diff(obj.vertices[obj.faces], axis=1), axis=2)
    assert edges.max() <= 1 / 45


def test_vertex_colours_and_plain_meshes(tmp_path: Path) -> None:
    cube = trimesh.creation.box()
    cube.visual.vertex_colors = np.tile([[20, 40, 60, 255]], (8, 1)).astype(np.uint8)
    cube.export(tmp_path / "painted.ply")
    obj = read_mesh(tmp_path / "painted.ply")
    np.testing.assert_array_equal(np.unique(obj.corner_rgba.reshape(-1, 4), axis=0), [[20, 40, 60, 255]])
    trimesh.creation.box().export(tmp_path / "plain.stl")
    assert len(read_mesh(tmp_path / "plain.stl").faces) == 12


def test_missing_or_empty_sources_say_so(tmp_path: Path) -> None:
    with pytest.raises(MeshError, match="no library"):
        read_library(tmp_path / "nothing.npz")
    with pytest.raises(MeshError, match="no usable object"):
        read_library(tmp_path)
    (tmp_path / "bad.npz").write_bytes(b"zip?")
    with pytest.raises(MeshError, match="not a readable npz"):
        read_library(tmp_path / "bad.npz")


def test_arrays_are_checked() -> None:
    with pytest.raises(MeshError, match="faces is int64"):
        replace(triangle(), faces=np.array([[0, 1, 2]]))
    with pytest.raises(MeshError, match="missing vertices"):
        check_visible(replace(triangle(), faces=np.array([[0, 1, 3]], np.int32)))
    with pytest.raises(MeshError, match="no faces"):
        check_visible(join("empty", []))
