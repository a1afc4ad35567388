"""Texturing a given mesh with a tiny bundle: what was brought comes back, and only the colours are new."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from tests.mesh.test_user_mesh import stored_uvs
from tests.tiny_bundle import write_tiny_bundle
from trellis_app.__main__ import main
from trellis_app.errors import BundleError, MeshError, SettingsError
from trellis_app.mesh.user_mesh import Stance, UserMesh, framed, read_mesh
from trellis_app.pipeline import ImageTo3D
from trellis_app.settings import FinishOptions, GenerationRequest
from trellis_app.texturing import TextureOptions, finish_texture, new_atlas, parted, texture, voxels_of
from trellis_app.types import DualGrid, FinishedAsset, OVoxel, PreparedImage, Stage
from trellis_app.weights import load_bundle

FINISH = FinishOptions(texture_size=64, alpha="opaque")  # else translucent faces move to the end


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def pipeline(bundle: Path) -> ImageTo3D:
    return ImageTo3D(load_bundle(bundle), torch.device("cpu"))


def picture() -> Image.Image:
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[8:56, 16:48] = (200, 90, 40, 255)
    return Image.fromarray(pixels)


def prepared() -> PreparedImage:
    return PreparedImage(picture(), picture().convert("RGB"))


def tube() -> UserMesh:
    """An open tube, far from the origin, with UVs that cover the texture once."""
    turn, height = np.meshgrid(np.linspace(0, 2 * np.pi, 13), np.linspace(0, 1, 5), indexing="ij")
    vertices = np.stack([30 + np.cos(turn), 7 + 2 * height, np.sin(turn)], -1).reshape(-1, 3).astype(np.float32)
    uvs = np.stack([turn / (2 * np.pi), height], -1).reshape(-1, 2).astype(np.float32)
    first = (np.arange(12)[:, None] * 5 + np.arange(4)).reshape(-1, 1)
    faces = np.concatenate([first + np.array(part) for part in ([0, 1, 6], [0, 6, 5])]).astype(np.int32)
    return UserMesh("tube", vertices, faces, uvs)


def run(pipeline: ImageTo3D, mesh: UserMesh, options: TextureOptions, seed: int = 0) -> tuple[OVoxel, FinishedAsset]:
    results = {}
    request = GenerationRequest(seed=seed, finish=FINISH)
    for event in texture(pipeline, mesh, prepared(), request, options):
        if event.result is not None:
            results[event.stage] = event.result
    voxels, asset = results[Stage.MATERIAL], results[Stage.FINISH]
    assert isinstance(results[Stage.SHAPE], DualGrid)
    assert isinstance(voxels, OVoxel)
    assert isinstance(asset, FinishedAsset)
    return voxels, asset


def own_axes(asset: FinishedAsset) -> np.ndarray:
    """Vertices as exporters write them."""
    return asset.vertices[:, [0, 2, 1]] * np.float32([1, 1, -1])


@pytest.mark.parametrize("normals", [False, True])
def test_own_mesh_and_uvs_come_back(pipeline: ImageTo3D, normals: bool) -> None:
    mesh = tube()
    mesh = replace(mesh, normals=np.tile(np.float32([0, 1, 0]), (len(mesh.vertices), 1))) if normals else mesh
    voxels, asset = run(pipeline, mesh, TextureOptions())
    count = len(mesh.vertices)
    assert mesh.uvs is not None
    assert asset.uvs[:count].tobytes() == mesh.uvs.tobytes()
    assert np.array_equal(own_axes(asset)[:count], mesh.vertices)
    assert np.array_equal(own_axes(asset)[asset.faces], mesh.vertices[mesh.faces])
    assert np.array_equal(asset.uvs[asset.faces], mesh.uvs[mesh.faces])
    assert "were kept" in asset.notes[0]
    assert len(voxels.attributes) == len(voxels.grid.coords) == asset.counts["voxels"]
    if normals:
        assert len(asset.vertices) == count
        assert np.array_equal(asset.normals[:, [0, 2, 1]] * [1, 1, -1], mesh.normals)


def test_texels_show_the_place_they_cover() -> None:
    """Voxels coloured by their place give texels coloured by the place of the surface under them."""
    mesh = tube()
    grid = voxels_of(framed(mesh), 64)
    place = (grid.coords + 0.5) / 64
    asset = OVoxel(grid, torch.cat([place, torch.zeros(len(place), 2), torch.ones(len(place), 1)], dim=1))
    assert mesh.uvs is not None
    mirrored = replace(mesh, uvs=mesh.uvs * np.float32([-1, 1]) + np.float32([1, 0]))
    tiled = replace(mesh, uvs=mesh.uvs * np.float32(0.5) + np.float32([2, -1]))
    for brought, mode in ((mesh, "auto"), (mirrored, "keep"), (tiled, "auto"), (mesh, "new")):
        *_, last = finish_texture(brought, asset, FINISH, TextureOptions(uv=mode))
        made = last.result
        assert isinstance(made, FinishedAsset)
        assert made.textures.wrap == ("repeat" if brought is tiled else "clamp")
        column, row = np.floor(made.uvs[made.faces].mean(axis=1) % 1 * FINISH.texture_size).astype(int).T
        texels = made.textures.base_color[row, column, :3] / 255
        assert np.abs(texels - (framed(mesh).vertices[mesh.faces].mean(axis=1) + 0.5)).max() < 0.04


def test_new_uvs_where_there_are_none_or_overlapping_ones(pipeline: ImageTo3D) -> None:
    mesh = tube()
    assert mesh.uvs is not None
    folded = replace(mesh, uvs=np.abs(mesh.uvs - np.float32(0.5)))
    for brought, words in ((replace(mesh, uvs=None), "no UVs"), (folded, "several faces")):
        _, asset = run(pipeline, brought, TextureOptions())
        assert words in asset.notes[0]
        assert np.array_equal(own_axes(asset)[asset.faces], mesh.vertices[mesh.faces])
        assert asset.uvs.min() >= 0
        assert asset.uvs.max() <= 1
    voxels, kept = run(pipeline, folded, TextureOptions(uv="keep"))
    assert "were kept, though" in kept.notes[0]
    with pytest.raises(MeshError, match="no UVs to keep"):
        list(finish_texture(replace(mesh, uvs=None), voxels, FINISH, TextureOptions(uv="keep")))
    with pytest.raises(SettingsError, match="UV mode"):
        TextureOptions(uv="old")


def test_the_encoder_may_stand_in_a_manifest_of_its_own(bundle: Path, tmp_path: Path) -> None:
    """As in the released bundle, whose pipeline.json names no encoder."""
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    manifest = json.loads((copy / "pipeline.json").read_text())
    encoder = {"shape_slat_encoder": manifest["args"]["models"].pop("shape_slat_encoder")}
    (copy / "pipeline.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="no model shape_slat_encoder"):
        run(ImageTo3D(load_bundle(copy), torch.device("cpu")), tube(), TextureOptions())
    (copy / "texturing_pipeline.json").write_text(json.dumps({"args": {"models": encoder}}))
    run(ImageTo3D(load_bundle(copy), torch.device("cpu")), tube(), TextureOptions())


def test_seeds_vary_and_repeat(pipeline: ImageTo3D) -> None:
    runs = [run(pipeline, tube(), TextureOptions(), seed)[1].textures.base_color for seed in (1, 1, 2)]
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_yaw_turns_the_shape_that_is_coloured_not_the_result(pipeline: ImageTo3D) -> None:
    mesh = tube()
    straight, first = run(pipeline, mesh, TextureOptions())
    turned, second = run(pipeline, mesh, TextureOptions(Stance(yaw=45.0)))
    assert not np.array_equal(straight.grid.coords, turned.grid.coords)
    assert np.array_equal(first.vertices, second.vertices)


def test_finishing_again_samples_nothing(pipeline: ImageTo3D) -> None:
    mesh = tube()
    voxels, asset = run(pipeline, mesh, TextureOptions())
    *_, last = finish_texture(mesh, voxels, FINISH, TextureOptions())
    assert isinstance(last.result, FinishedAsset)
    assert np.array_equal(last.result.textures.base_color, asset.textures.base_color)
    *_, last = finish_texture(mesh, voxels, replace(FINISH, texture_size=128), TextureOptions(uv="new"))
    assert isinstance(last.result, FinishedAsset)
    assert last.result.textures.base_color.shape == (128, 128, 4)


def test_can_be_closed_at_any_event(pipeline: ImageTo3D) -> None:
    request = GenerationRequest(finish=FINISH)
    for count in range(1, 20, 3):
        events = texture(pipeline, tube(), prepared(), request)
        for _ in range(count):
            next(events, None)
        events.close()


def test_degenerate_and_doubled_triangles_stay() -> None:
    """A soup with faces without area, twice the same face and a vertex that no face uses."""
    vertices = np.random.default_rng(0).uniform(-1, 1, (12, 3)).astype(np.float32)
    faces = np.array([[0, 1, 2], [0, 1, 2], [3, 3, 4], [5, 6, 7], [8, 9, 10]], np.int32)
    mesh = UserMesh("soup", vertices, faces)
    grid = voxels_of(framed(mesh), 32)
    asset = OVoxel(grid, torch.full((len(grid.coords), 6), 0.5))
    *_, last = finish_texture(mesh, asset, FINISH, TextureOptions())
    assert isinstance(last.result, FinishedAsset)
    assert np.array_equal(own_axes(last.result)[last.result.faces], vertices[faces])
    assert np.abs(last.result.textures.base_color[..., :3] - 127.5).max() < 1


def test_coincident_triangles_share_their_texels() -> None:
    mesh = tube()
    turned = np.concatenate([mesh.faces, np.roll(mesh.faces, 1, axis=1), mesh.faces[:, ::-1], mesh.faces])
    atlas = new_atlas(framed(replace(mesh, faces=turned)), 64, lambda: None)
    first, rolled, flipped, again = atlas.uvs.reshape(4, len(mesh.faces), 3, 2)
    assert np.array_equal(rolled, np.roll(first, 1, axis=1))
    assert np.array_equal(flipped, first[:, ::-1])
    assert np.array_equal(again, first)
    once = new_atlas(framed(mesh), 64, lambda: None)
    assert np.ptp(once.uvs, axis=1).min() > 0


def test_poles_of_a_ball_are_slivers_that_unwrap(pipeline: ImageTo3D) -> None:
    """The triangles at the poles of a UV sphere have next to no area."""
    tilt, turn = np.meshgrid(np.linspace(0, np.pi, 33), np.linspace(0, 2 * np.pi, 65), indexing="ij")
    vertices = np.stack([np.sin(tilt) * np.cos(turn), np.cos(tilt), np.sin(tilt) * np.sin(turn)], -1).reshape(-1, 3)
    first = (np.arange(32)[:, None] * 65 + np.arange(64)).reshape(-1, 1)
    faces = np.concatenate([first + np.array(part) for part in ([0, 1, 66], [0, 66, 65])])
    mesh = UserMesh("ball", vertices.astype(np.float32), faces.astype(np.int32))
    _, asset = run(pipeline, mesh, TextureOptions(uv="new"))
    assert np.array_equal(own_axes(asset)[asset.faces], mesh.vertices[mesh.faces])
    assert np.isfinite(asset.uvs).all()


def test_what_slips_through_the_grid_is_told() -> None:
    speck = np.array([[0, 0, 0], [1, 1e-3, 0], [1, 0, 1e-3]], np.float32) + np.float32([0, 3, 3])
    with pytest.raises(MeshError, match="slips through"):
        voxels_of(framed(UserMesh("speck", speck, np.array([[0, 1, 2]], np.int32))), 3)


def test_vertices_part_where_corners_differ() -> None:
    corner = np.array([0, 1, 2, 2, 1, 3])
    source, faces = parted(corner, [np.array([5, 5, 5, 6, 5, 5])], 5)
    assert source.tolist() == [0, 1, 2, 3, 4, 2]
    assert faces.tolist() == [[0, 1, 2], [5, 1, 3]]
    source, faces = parted(corner, [], 5)
    assert source.tolist() == [0, 1, 2, 3, 4]
    assert faces.reshape(-1).tolist() == corner.tolist()


class TestCommand:
    @pytest.fixture
    def files(self, tmp_path: Path) -> tuple[Path, Path]:
        mesh = tube()
        assert mesh.uvs is not None
        visual = trimesh.visual.TextureVisuals(
            uv=mesh.uvs * [1, -1] + [0, 1], material=trimesh.visual.material.PBRMaterial()
        )
        trimesh.Trimesh(mesh.vertices, mesh.faces, visual=visual, process=False).export(tmp_path / "tube.glb")
        picture().save(tmp_path / "picture.png")
        return tmp_path / "tube.glb", tmp_path / "picture.png"

    def test_glb_lies_over_the_mesh_with_its_uvs(self, files: tuple[Path, Path], bundle: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        flags = ["--bundle", str(bundle), "--device", "cpu", "--texture-size", "64", "--formats", "glb,obj,vxz"]
        assert main(["texture", *map(str, files), "--out", str(out), *flags]) == 0
        made, brought = out / "tube_textured.glb", read_mesh(files[0])
        count = len(brought.vertices)
        assert stored_uvs(made.read_bytes())[:count].tobytes() == stored_uvs(files[0].read_bytes()).tobytes()
        back = read_mesh(made)
        assert np.array_equal(back.vertices[back.faces], brought.vertices[brought.faces])
        record = json.loads((out / "tube_textured.json").read_text())
        assert record["notes"] == ["The mesh's own UVs were kept."]
        assert set(record["samplers"]) == {"material"}

    @pytest.mark.parametrize("bad", ["mesh", "picture", "uv", "formats"])
    def test_bad_input_is_a_sentence(
        self, files: tuple[Path, Path], bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: str
    ) -> None:
        mesh, image = files
        flags = ["--bundle", str(bundle), "--device", "cpu"]
        if bad in ("mesh", "picture"):
            broken = tmp_path / ("broken.glb" if bad == "mesh" else "broken.png")
            broken.write_bytes(b"glTF")
            mesh, image = (broken, image) if bad == "mesh" else (mesh, broken)
        elif bad == "uv":
            mesh = tmp_path / "bare.stl"
            trimesh.creation.box().export(mesh)
            flags += ["--uv", "keep"]
        else:
            flags += ["--formats", "glb,fbx"]
        assert main(["texture", str(mesh), str(image), "--out", str(tmp_path / "out"), *flags]) == 2
        assert "error: " in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
