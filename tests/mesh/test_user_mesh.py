"""Meshes that users bring: every array as the file has it, every bad file a sentence."""

import json
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from trellis_app.errors import MeshError
from trellis_app.mesh.user_mesh import SUFFIXES, Stance, UserMesh, checked, framed, read_mesh


@pytest.fixture
def ball() -> trimesh.Trimesh:
    mesh = trimesh.creation.icosphere(subdivisions=1)
    uv = np.random.default_rng(0).random((len(mesh.vertices), 2))
    picture = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.new("RGB", (2, 2)))
    mesh.visual = trimesh.visual.TextureVisuals(uv=uv, material=picture)
    return mesh


def stored_uvs(glb: bytes) -> np.ndarray:
    """TEXCOORD_0 of the first primitive, read by hand."""
    length = struct.unpack_from("<I", glb, 12)[0]
    tree = json.loads(glb[20 : 20 + length])
    accessor = tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"]["TEXCOORD_0"]]
    start = 28 + length + tree["bufferViews"][accessor["bufferView"]].get("byteOffset", 0)
    return np.frombuffer(glb, np.float32, 2 * accessor["count"], start).reshape(-1, 2)


def test_glb_comes_byte_for_byte(ball: trimesh.Trimesh, tmp_path: Path) -> None:
    # Written with small v, of which trimesh's 1 - (1 - v) would lose bits.
    ball.visual.uv[:, 1] = 1 - np.linspace(1e-6, 1e-3, len(ball.vertices))
    path = tmp_path / "ball.glb"
    ball.export(path)
    mesh = read_mesh(path)
    assert mesh.name == "ball"
    assert mesh.uvs is not None
    assert mesh.uvs.tobytes() == stored_uvs(path.read_bytes()).tobytes()
    assert np.array_equal(mesh.vertices, ball.vertices.astype(np.float32))
    assert np.array_equal(mesh.faces, ball.faces)


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".stl", ".off", ".glb"])
def test_formats(ball: trimesh.Trimesh, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"ball{suffix}"
    ball.export(path)
    mesh = read_mesh(path)
    np.testing.assert_allclose(mesh.vertices[mesh.faces], ball.vertices[ball.faces], atol=1e-6)
    assert (mesh.uvs is not None) == (suffix in (".obj", ".ply", ".glb"))
    if mesh.uvs is not None and len(mesh.uvs) == len(ball.vertices):
        np.testing.assert_allclose(mesh.uvs, np.asarray(ball.visual.uv) * (1, -1) + (0, 1), atol=1e-6)


def test_nodes_are_placed_and_mirrored_ones_turned(ball: trimesh.Trimesh, tmp_path: Path) -> None:
    scene = trimesh.Scene()
    moved = np.diag([-2.0, 1, 1, 1])
    moved[:3, 3] = 5, 0, 0
    scene.add_geometry(ball, node_name="a")
    scene.add_geometry(ball, node_name="b", transform=moved)
    scene.export(tmp_path / "two.glb")
    mesh = read_mesh(tmp_path / "two.glb")
    count = len(ball.faces)
    assert len(mesh.faces) == 2 * count
    for faces in (mesh.faces[:count], mesh.faces[count:]):
        assert trimesh.Trimesh(mesh.vertices, faces, process=False).volume > 0
    assert mesh.vertices[:, 0].max() == pytest.approx(7, abs=1e-5)


def test_framed_turns_up_and_yaw() -> None:
    corners = np.array([[0, 0, 4], [0, 1, 0], [2, 0, 0]], np.float32)  # seen side, up, right
    mesh = UserMesh("corner", corners, np.array([[0, 1, 2]], np.int32))
    seen, up, right = framed(mesh).vertices
    assert np.ptp(framed(mesh).vertices, axis=0).max() == pytest.approx(0.99999)
    assert seen[1] == pytest.approx(-0.499995)
    assert up[2] > seen[2]
    assert right[0] > seen[0]
    turned = framed(mesh, Stance(yaw=90)).vertices  # what faced the front now faces the right
    assert turned[0, 0] == pytest.approx(0.499995)
    level = UserMesh("corner", corners[:, [0, 2, 1]] * np.float32([1, -1, 1]), mesh.faces)
    np.testing.assert_allclose(framed(level, Stance(up="z")).vertices, framed(mesh).vertices, atol=1e-7)


def test_damage_is_told(ball: trimesh.Trimesh, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    for suffix in SUFFIXES:
        path = tmp_path / f"whole{suffix}"
        ball.export(path)
        data = path.read_bytes()
        for k in range(12):
            hurt = bytearray(data[: int(random.integers(len(data)))] if k % 2 else data)
            for at in random.integers(0, max(len(hurt), 1), 0 if k % 2 else 30):
                hurt[at] = random.integers(256)
            (tmp_path / f"hurt{suffix}").write_bytes(hurt)
            with suppress(MeshError):
                assert np.isfinite(read_mesh(tmp_path / f"hurt{suffix}").vertices).all()


@pytest.mark.parametrize(
    ("vertices", "faces", "words"),
    [
        (np.eye(3), np.empty((0, 3)), "no triangles"),
        (np.eye(3) * np.nan, [[0, 1, 2]], "finite"),
        (np.ones((3, 3)), [[0, 1, 2]], "no extent"),
        (np.eye(3), [[0, 1, 3]], "missing vertices"),
    ],
)
def test_unusable_meshes_are_told(vertices: np.ndarray, faces: list[list[int]], words: str) -> None:
    with pytest.raises(MeshError, match=words):
        checked(UserMesh("mesh", vertices.astype(np.float32), np.array(faces, np.int32).reshape(-1, 3)))


def test_no_mesh_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"x")
    for name, words in (("picture.png", "not a mesh file"), ("gone.glb", "no file")):
        with pytest.raises(MeshError, match=words):
            read_mesh(tmp_path / name)
