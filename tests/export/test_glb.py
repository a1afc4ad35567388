"""GLBs pass the Khronos validator, open in trimesh with their PBR maps, and never change by a byte."""

import dataclasses
import importlib
import itertools
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from tests.export.kept import painted_maps, ring_source
from tests.gltf_validation import gltf_issues, gltf_issues_of
from trellis_app.errors import MachineError
from trellis_app.export import draco
from trellis_app.export.glb import write_glb, write_preview_glb
from trellis_app.settings import TEXTURE_FORMATS, FileOptions
from trellis_app.types import FinishedAsset, Textures


def quad(mode: str = "OPAQUE", *, translucent: int = 0) -> FinishedAsset:
    """Two triangles that face the viewer (-Y) with a 4 x 4 texture."""
    vertices = np.array([[-0.5, 0, -0.5], [0.5, 0, -0.5], [0.5, 0, 0.5], [-0.5, 0, 0.5]], np.float32)
    pixels = np.arange(64, dtype=np.uint8).reshape(4, 4, 4) * 3
    return FinishedAsset(
        vertices,
        np.array([[0, 1, 2], [0, 2, 3]], np.int32),
        np.tile(np.float32([[0, -1, 0]]), (4, 1)),
        np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32),
        np.full((4, 4), 200, np.uint8),
        Textures(pixels, pixels[:, :, :3].copy(), mode),
        translucent_faces=translucent,
    )


def tree(path: Path) -> dict:
    data = path.read_bytes()
    assert struct.unpack("<4sII", data[:12]) == (b"glTF", 2, len(data))
    length, kind = struct.unpack("<I4s", data[12:20])
    assert kind == b"JSON"
    return json.loads(data[20 : 20 + length])


@pytest.mark.parametrize(
    ("mode", "translucent", "modes"),
    [
        ("OPAQUE", 0, ["OPAQUE"]),
        ("MASK", 0, ["MASK"]),
        ("BLEND", 2, ["BLEND"]),
        ("BLEND", 1, ["OPAQUE", "BLEND"]),
        ("BLEND", 0, ["OPAQUE", "BLEND"]),
    ],
)
def test_materials_follow_the_alpha_mode(tmp_path: Path, mode: str, translucent: int, modes: list[str]) -> None:
    path = write_glb(quad(mode, translucent=translucent), tmp_path / "quad.glb", extras={"seed": 7, "who": "é"})
    made = tree(path)
    primitives = made["meshes"][0]["primitives"]
    used = [made["materials"][part["material"]] for part in primitives]
    assert [material.get("alphaMode", "OPAQUE") for material in used] == modes[: len(primitives)]
    assert sum(made["accessors"][part["indices"]]["count"] for part in primitives) == 6
    assert made["asset"]["extras"] == {"seed": 7, "who": "é"}


@pytest.mark.parametrize(
    ("mode", "translucent"), [("OPAQUE", 0), ("MASK", 0), ("BLEND", 2), ("BLEND", 1), ("BLEND", 0)]
)
def test_validator_finds_nothing(tmp_path: Path, mode: str, translucent: int) -> None:
    path = write_glb(quad(mode, translucent=translucent), tmp_path / "quad.glb", extras={"seed": 7})
    assert gltf_issues(path) == []


ALPHAS = [("OPAQUE", 0), ("MASK", 0), ("BLEND", 3200), ("BLEND", 1500)]
COMBINATIONS = list(itertools.product(TEXTURE_FORMATS, (False, True), ALPHAS, (False, True)))


@pytest.fixture(scope="module")
def combined(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple, Path]:
    """A GLB of every combination of texture format, Draco, alpha mode and normal map."""
    folder = tmp_path_factory.mktemp("combined")
    made = {}
    for k, (kind, packed, (mode, translucent), normal) in enumerate(COMBINATIONS):
        asset = ring_source(mode, normal=normal, translucent=translucent).asset
        options = FileOptions(kind, draco=packed)
        made[COMBINATIONS[k]] = write_glb(asset, folder / f"{k}.glb", extras={"seed": 7}, options=options)
    return made


def test_the_validator_finds_nothing_in_any_combination(combined: dict[tuple, Path]) -> None:
    found = gltf_issues_of(list(combined.values()))
    assert {str(key): found[path] for key, path in combined.items() if found[path]} == {}


@pytest.mark.parametrize("key", COMBINATIONS, ids=str)
def test_trimesh_opens_every_combination(combined: dict[tuple, Path], key: tuple) -> None:
    kind, _, (mode, translucent), normal = key
    asset = ring_source(mode, normal=normal, translucent=translucent).asset
    scene = trimesh.load(combined[key])
    parts = list(scene.geometry.values())
    assert len(parts) == (2 if 0 < translucent < len(asset.faces) else 1)
    assert sum(len(part.faces) for part in parts) == len(asset.faces)
    merged = trimesh.util.concatenate([trimesh.Trimesh(part.vertices, part.faces) for part in parts])
    merged.merge_vertices(digits_vertex=3)
    assert merged.is_watertight
    assert merged.volume == pytest.approx(2 * np.pi**2 * 0.3 * 0.12**2, rel=0.02)
    material = parts[0].visual.material
    shown = np.asarray(material.baseColorTexture, dtype=int)
    bands = 3 if mode == "OPAQUE" else 4
    assert shown.shape == (16, 16, bands)
    np.testing.assert_allclose(shown, asset.textures.base_color[..., :bands], atol=0 if kind == "png" else 40)
    assert (material.normalTexture is not None) == normal


def test_draco_keeps_every_corner_within_its_quantisation(tmp_path: Path) -> None:
    asset = ring_source().asset
    plain = trimesh.load(write_glb(asset, tmp_path / "plain.glb"), force="mesh", process=False)
    path = write_glb(asset, tmp_path / "packed.glb", options=FileOptions(draco=True))
    packed = trimesh.load(path, force="mesh", process=False)
    assert path.stat().st_size < 0.5 * (tmp_path / "plain.glb").stat().st_size

    def corners(mesh: trimesh.Trimesh) -> np.ndarray:
        """Position and UV of each corner, and the place of its face, [3 F, 8]."""
        values = np.concatenate([mesh.vertices, mesh.visual.uv], axis=1)[mesh.faces]
        centres = np.repeat(mesh.triangles_center[:, None], 3, axis=1)
        return np.concatenate([values, centres], axis=2).reshape(-1, 8)

    distance, found = cKDTree(corners(plain)).query(corners(packed))
    assert distance.max() < 2e-4
    assert len(np.unique(found)) == len(found) == 3 * len(asset.faces)


def test_draco_without_its_package_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MachineError, match="pip install DracoPy"):
        write_glb(quad(), tmp_path / "quad.glb", options=FileOptions(draco=True))
    assert list(tmp_path.iterdir()) == []
    assert draco.EXTENSION == "KHR_draco_mesh_compression"


def test_repeated_textures_say_so(tmp_path: Path) -> None:
    wrapping = dataclasses.replace(quad(), textures=dataclasses.replace(painted_maps(4), wrap="repeat"))
    assert tree(write_glb(wrapping, tmp_path / "repeat.glb"))["samplers"][0]["wrapS"] == 10497
    assert tree(write_glb(quad(), tmp_path / "clamp.glb"))["samplers"][0]["wrapT"] == 33071


def test_trimesh_reads_back_what_was_written(tmp_path: Path) -> None:
    asset = quad("BLEND", translucent=2)
    mesh = trimesh.load(write_glb(asset, tmp_path / "quad.glb"), force="mesh", process=False)
    x, y, z = asset.vertices.T
    np.testing.assert_array_equal(mesh.vertices, np.stack([x, z, -y], axis=1))
    np.testing.assert_array_equal(mesh.faces, asset.faces)
    np.testing.assert_array_equal(mesh.vertex_normals, np.tile([[0, 0, 1]], (4, 1)))
    np.testing.assert_array_equal(mesh.visual.uv, np.stack([asset.uvs[:, 0], 1 - asset.uvs[:, 1]], axis=1))
    material = mesh.visual.material
    np.testing.assert_array_equal(np.asarray(material.baseColorTexture), asset.textures.base_color)
    np.testing.assert_array_equal(np.asarray(material.metallicRoughnessTexture), asset.textures.metallic_roughness)
    assert material.alphaMode == "BLEND"


def test_large_meshes_use_wide_indices(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vertices = rng.random((70_000, 3), dtype=np.float32)
    faces = rng.permutation(70_000)[:69_999].reshape(-1, 3).astype(np.int32)
    path = write_preview_glb(vertices, faces, None, tmp_path / "large.glb")
    assert gltf_issues(path) == []
    read = trimesh.load(path, force="mesh", process=False)
    np.testing.assert_array_equal(read.faces, faces)


def test_double_sided_follows_the_asset(tmp_path: Path) -> None:
    closed = dataclasses.replace(quad(), double_sided=False)
    assert "doubleSided" not in tree(write_glb(closed, tmp_path / "closed.glb"))["materials"][0]
    assert tree(write_glb(quad(), tmp_path / "open.glb"))["materials"][0]["doubleSided"]


def test_preview_colours_are_linear_vertex_colours(tmp_path: Path) -> None:
    asset = quad()
    colors = np.array([[0, 0, 0], [255, 255, 255], [188, 188, 188], [255, 0, 0]], np.uint8)
    path = write_preview_glb(asset.vertices, asset.faces, colors, tmp_path / "colours.glb")
    assert gltf_issues(path) == []
    made = tree(path)
    accessor = made["accessors"][made["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]]
    view = made["bufferViews"][accessor["bufferView"]]
    start = path.read_bytes().index(b"BIN\0") + 4 + view["byteOffset"]
    stored = np.frombuffer(path.read_bytes()[start : start + 32], np.uint16).reshape(4, 4) / 65535
    np.testing.assert_allclose(stored[:, 0], [0, 1, 0.5, 1], atol=0.005)
    np.testing.assert_array_equal(stored[:, 3], 1)


def test_clay_previews_pass_the_validator(tmp_path: Path) -> None:
    assert gltf_issues(write_preview_glb(quad().vertices, quad().faces, None, tmp_path / "clay.glb")) == []


def test_the_same_asset_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_glb(quad(), tmp_path / "a.glb", extras={"b": 1, "a": 2}).read_bytes()
    assert write_glb(quad(), tmp_path / "b.glb", extras={"a": 2, "b": 1}).read_bytes() == first


def test_an_unwritable_folder_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MachineError, match="cannot be written"):
        write_glb(quad(), tmp_path / "file" / "quad.glb")
    (tmp_path / "taken.glb").mkdir()
    with pytest.raises(MachineError):
        write_glb(quad(), tmp_path / "taken.glb")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken.glb"]
