"""USDZ passes the checks that come with USD and holds what the asset holds."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pxr import Usd, UsdGeom, UsdShade, UsdValidation

from tests.export.kept import ring_source
from trellis_app.export.formats import write_all
from trellis_app.export.gltf import y_up
from trellis_app.settings import FileOptions

CASES = [
    ("OPAQUE", 0, True, "png"), ("OPAQUE", 0, False, "jpeg"), ("MASK", 0, True, "png"),
    ("BLEND", 900, True, "png"), ("BLEND", 2304, False, "png"), ("OPAQUE", 0, True, "webp"),
]  # fmt: skip


def problems(path: Path) -> list[str]:
    """What all validators that come with USD find, among them those of usdchecker --arkit."""
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    context = UsdValidation.ValidationContext(validators)
    return [error.GetMessage() for error in context.Validate(Usd.Stage.Open(str(path)))]


@pytest.mark.parametrize(("mode", "translucent", "normal", "kind"), CASES)
def test_usd_finds_nothing_wrong(tmp_path: Path, mode: str, translucent: int, normal: bool, kind: str) -> None:
    source = ring_source(mode, normal=normal, translucent=translucent, options=FileOptions(kind))
    (path,) = write_all(source, tmp_path, "my ring", ("usdz",))["usdz"]
    assert problems(path) == []
    stage = Usd.Stage.Open(str(path))
    meshes = [UsdGeom.Mesh(prim) for prim in stage.Traverse() if prim.IsA(UsdGeom.Mesh)]
    assert len(meshes) == (2 if 0 < translucent < len(source.asset.faces) else 1)
    assert sum(len(mesh.GetFaceVertexCountsAttr().Get()) for mesh in meshes) == len(source.asset.faces)
    for mesh in meshes:
        material, _ = UsdShade.MaterialBindingAPI(mesh).ComputeBoundMaterial()
        shader = material.ComputeSurfaceSource()[0]
        wired = {name for name in ("diffuseColor", "metallic", "roughness", "opacity", "normal")
                 if shader.GetInput(name) and shader.GetInput(name).HasConnectedSource()}  # fmt: skip
        see_through = mode == "MASK" or mesh.GetPrim().GetName() == "translucent"
        assert ("opacity" in wired) == see_through
        assert ("normal" in wired) == normal
        assert {"diffuseColor", "metallic", "roughness"} <= wired


def test_the_stage_holds_the_asset(tmp_path: Path) -> None:
    source = replace(ring_source(), record={"seed": 7, "who": 'é "quoted"'})
    (path,) = write_all(source, tmp_path, "ring", ("usdz",))["usdz"]
    stage = Usd.Stage.Open(str(path))
    assert UsdGeom.GetStageUpAxis(stage) == "Y"
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1.0
    assert json.loads(stage.GetRootLayer().customLayerData["settings"]) == {
        **source.record,
        "file_options": asdict(source.options),
    }
    mesh = UsdGeom.Mesh(stage.GetPrimAtPath("/asset/surface"))
    faces = np.array(mesh.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3)
    asset = source.asset
    np.testing.assert_array_equal(faces, asset.faces)
    np.testing.assert_allclose(mesh.GetPointsAttr().Get(), y_up(asset.vertices), atol=1e-6)
    np.testing.assert_allclose(mesh.GetNormalsAttr().Get(), y_up(asset.normals), atol=1e-4)
    uvs = UsdGeom.PrimvarsAPI(mesh).GetPrimvar("st").Get()
    np.testing.assert_allclose(uvs, asset.uvs * [1, -1] + [0, 1], atol=1e-6)
    assert mesh.GetDoubleSidedAttr().Get() == asset.double_sided


def test_the_package_is_stored_and_aligned(tmp_path: Path) -> None:
    source = ring_source()
    (path,) = write_all(source, tmp_path, "ring", ("usdz",))["usdz"]
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names[0].startswith("asset.usd")  # readers open the first file
        assert names[1:] == [f"textures/{name}.png" for name in ("base_color", "metallic_roughness", "normal")]
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
        with archive.open("textures/base_color.png") as picture:
            np.testing.assert_array_equal(np.asarray(Image.open(picture)), source.asset.textures.base_color[..., :3])
