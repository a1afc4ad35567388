"""Attributes of textured meshes: golden vectors of the original rules, and the recommended ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from safetensors.numpy import load_file
from trellis_kernels.mesh_attributes import op
from trellis_kernels.mesh_attributes.op import Sampling
from trellis_kernels.mesh_attributes.surface import Material, Texture, TexturedMesh
from trellis_kernels.mesh_to_dual_grid.op import GridBox
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from trellis_app.errors import MeshError
from trellis_app.ovoxel import scene
from trellis_app.ovoxel.attributes import flat_attributes, textured_mesh_to_attributes, textured_mesh_to_details
from trellis_app.ovoxel.from_mesh import mesh_to_dual_grid
from trellis_app.types import DualGrid, Mesh

CHANNELS = ("base_color", "metallic", "roughness", "alpha")

GEOMETRY = ("vertices", "faces", "normals")


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    return load_file(shared / "golden/geometry/volumetric_attr.safetensors")


@pytest.fixture(scope="module")
def cases(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "golden/geometry/volumetric_attr_cases.json").read_text())


def scene_of(golden: dict[str, np.ndarray], case: str, parts: list[dict[str, Any]]) -> trimesh.Scene:
    built = trimesh.Scene()
    for k, part in enumerate(parts):
        settings = {key: Image.fromarray(golden[v]) if key.endswith("Texture") else v for key, v in part.items()}
        if "baseColorFactor" in settings:
            settings["baseColorFactor"] = np.array(settings["baseColorFactor"], np.uint8)
        prefix = f"{case}.part{k}"
        visual = trimesh.visual.TextureVisuals(golden[f"{prefix}.uv"], PBRMaterial(**settings))
        arrays = {f"vertex_{key}" if key == "normals" else key: golden[f"{prefix}.{key}"] for key in GEOMETRY}
        mesh = trimesh.Trimesh(**arrays, visual=visual, process=False)
        built.add_geometry(mesh, node_name=f"part{k}")
    return built


def grid_on(mesh: TexturedMesh, resolution: int) -> DualGrid:
    return mesh_to_dual_grid(Mesh(torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces)), resolution)


def lexicographic(coords: np.ndarray) -> np.ndarray:
    return np.lexsort((coords[:, 2], coords[:, 1], coords[:, 0]))


def test_golden_scenes(golden: dict[str, np.ndarray], cases: dict[str, Any]) -> None:
    assert len(cases) == 10
    for case, told in cases.items():
        mesh = scene.textured_mesh(scene_of(golden, case, told["parts"]), original=True, details=True)
        grid = grid_on(mesh, told["res"])
        coords = golden[f"{case}.coords"].astype(np.int32)
        order = lexicographic(coords)
        assert np.array_equal(grid.coords.numpy(), coords[order])
        options = {"original": True, "mip_offset": told["mip_level_offset"]}
        values = textured_mesh_to_attributes(mesh, grid, **options)
        values = np.concatenate([values, *textured_mesh_to_details(mesh, grid, **options)], axis=1)
        names = (*CHANNELS, "emissive", "normal")
        expected = np.concatenate([golden[f"{case}.{name}"] for name in names], axis=1)[order]
        assert np.abs(values.astype(int) - expected).max() <= 1, case


@pytest.mark.parametrize("wrap", [0, 1, 2])
@pytest.mark.parametrize("linear", [0, 1])
def test_golden_raw(golden: dict[str, np.ndarray], linear: int, wrap: int) -> None:
    count = len(golden["raw.triangles"])
    rgb = golden["raw.mr_rgb"]
    opaque = np.concatenate([rgb, np.full_like(rgb[..., :1], 255)], axis=2)
    base, rest = (
        Texture(p, ("repeat", "clamp", "mirror")[wrap], bool(linear)) for p in (golden["raw.base_rgba"], opaque)
    )
    faces, material = np.arange(3 * count, dtype=np.int32).reshape(-1, 3), np.zeros(count, np.int32)
    vertices = golden["raw.triangles"].reshape(-1, 3)
    mesh = TexturedMesh(vertices, faces, golden["raw.uvs"], material, (Material(base, rest, rest, base),))
    box = GridBox((0, 0, 0), (1, 1, 1), (32, 32, 32))
    values = op.textured_attributes(mesh, golden["raw.coords"].astype(np.int32), box, Sampling(original=True))
    names = [golden[f"raw.f{linear}w{wrap}.{name}"].reshape(len(values), -1) for name in CHANNELS]
    np.testing.assert_allclose(values, np.concatenate(names, axis=1), rtol=0, atol=1e-4)


def test_golden_raw_normals(golden: dict[str, np.ndarray]) -> None:
    count = len(golden["raw.triangles"])
    faces, material = np.arange(3 * count, dtype=np.int32).reshape(-1, 3), np.zeros(count, np.int32)
    vertices, normals = golden["raw.triangles"].reshape(-1, 3), golden["raw.normals"]
    mesh = TexturedMesh(vertices, faces, golden["raw.uvs"], material, (Material(),), normals=normals)
    box = GridBox((0, 0, 0), (1, 1, 1), (32, 32, 32))
    found = op.shading_normals(mesh, golden["raw.coords"].astype(np.int32), box, Sampling(original=True))
    np.testing.assert_allclose(found, golden["raw.normal"], rtol=0, atol=1e-5)


def painted_ball(material: Any) -> trimesh.Trimesh:
    ball = trimesh.creation.uv_sphere(0.4, count=(12, 12))
    uv = np.stack([np.arctan2(ball.vertices[:, 1], ball.vertices[:, 0]) / 6.3 + 0.5, ball.vertices[:, 2] + 0.5], 1)
    ball.visual = trimesh.visual.TextureVisuals(uv, material)
    return ball


def test_linear_factors_are_applied_in_linear_light() -> None:
    grey = Image.fromarray(np.full((3, 5, 3), 188, np.uint8))
    half = np.array([128, 255, 0, 255], np.uint8)
    for texture, expected in ((grey, (137, 188, 0)), (None, (188, 255, 0))):
        material = PBRMaterial(baseColorTexture=texture, baseColorFactor=half, metallicFactor=0.5, roughnessFactor=0.2)
        mesh = scene.textured_mesh(painted_ball(material))
        values = textured_mesh_to_attributes(mesh, grid_on(mesh, 16))
        assert np.abs(values.astype(int) - [*expected, 128, 51, 255]).max() <= 1


def test_details_of_a_scene() -> None:
    """What glows is encoded from linear light; normals follow the transform, and the turn from Y up."""
    material = PBRMaterial(
        emissiveTexture=Image.fromarray(np.full((2, 2, 3), 188, np.uint8)), emissiveFactor=(0.5, 1, 0)
    )
    ball = painted_ball(material)
    ball.apply_transform(trimesh.transformations.rotation_matrix(0.3, (1, 2, 3)))
    built, squashed = trimesh.Scene(), np.diag([1.0, 1.0, -0.5, 1.0])
    built.add_geometry(ball, transform=squashed)
    mesh = scene.in_unit_box(scene.textured_mesh(built, details=True))
    grid = grid_on(mesh, 32)
    emissive, normal = textured_mesh_to_details(mesh, grid)
    assert np.abs(emissive.astype(int) - [137, 188, 0]).max() <= 1
    scale = 0.99999 / 0.8
    place = ((grid.coords.numpy() + 0.5) / 32 - 0.5) / np.array([1, 0.5, 1]) / scale  # on the ball, y halved
    outward = place / np.array([1, 0.5, 1])
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    agree = ((normal / 127.5 - 1) * outward).sum(1)
    assert np.abs(agree).min() > 0.9
    assert (agree > 0).all() or (agree < 0).all()
    assert scene.textured_mesh(built).normals is None


def test_transforms_shared_pictures_simple_and_coloured_meshes() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 4, 4)).astype(np.uint8))
    shown = PBRMaterial(baseColorTexture=picture, alphaMode="BLEND")
    colored = trimesh.creation.box((0.1, 0.1, 0.1))
    colored.visual.face_colors = [10, 20, 30, 40]
    built = trimesh.Scene([painted_ball(shown)])
    built.add_geometry(painted_ball(SimpleMaterial(image=picture)), transform=trimesh.transformations.scale_matrix(2))
    built.add_geometry(colored, transform=trimesh.transformations.translation_matrix((3, 0, 0)))
    mesh = scene.textured_mesh(built)
    assert mesh.vertices[:, 0].max() == pytest.approx(3.05)
    assert len({id(m.base_color) for m in mesh.materials if m.base_color}) == 1
    mesh = scene.in_unit_box(mesh)
    grid = grid_on(mesh, 32)
    values = textured_mesh_to_attributes(mesh, grid)
    box = grid.coords.numpy()[:, 0] > 28
    assert box.sum() >= 4
    assert (values[box] == [10, 20, 30, 0, 255, 40]).all()


def test_unit_box_turns_y_up() -> None:
    mesh = scene.textured_mesh(trimesh.creation.box((1, 4, 2)))
    turned = scene.in_unit_box(mesh)
    np.testing.assert_allclose(np.ptp(turned.vertices, axis=0), np.array([0.25, 0.5, 1]) * 0.99999, rtol=1e-5)
    top = mesh.vertices[:, 1] > 0
    assert (turned.vertices[top, 2] > 0).all()
    assert np.ptp(scene.in_unit_box(mesh, up="z").vertices, axis=0)[1] == pytest.approx(0.99999)


def test_flat_and_textured_agree_on_one_colour_a_face() -> None:
    ball = trimesh.creation.icosphere(2, 0.4)
    ball.apply_transform(trimesh.transformations.rotation_matrix(0.3, (1, 2, 3)))  # no vertex on a voxel plane
    rng = np.random.default_rng(4)
    rgba = np.repeat(rng.integers(0, 256, (len(ball.faces), 1, 4)), 3, axis=1).astype(np.uint8)
    ball.visual.face_colors = rgba[:, 0]
    mesh = scene.textured_mesh(ball)
    grid = grid_on(mesh, 20)
    metal_rough = np.tile(np.array([[0, 255]], np.uint8), (len(rgba), 1))
    flat = flat_attributes(mesh.vertices, mesh.faces, rgba, metal_rough, grid)
    assert np.abs(flat.astype(int) - textured_mesh_to_attributes(mesh, grid)).max() <= 1


def test_files(tmp_path: Path) -> None:
    painted_ball(PBRMaterial(baseColorFactor=np.array([9, 9, 9, 255], np.uint8))).export(tmp_path / "ball.glb")
    mesh = scene.textured_mesh(scene.read_scene(tmp_path / "ball.glb"))
    assert np.abs(mesh.vertices).max() == pytest.approx(0.4)
    (tmp_path / "broken.glb").write_bytes(b"glTF nonsense")
    with pytest.raises(MeshError, match=r"broken\.glb"):
        scene.read_scene(tmp_path / "broken.glb")
