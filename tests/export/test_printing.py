"""STL and 3MF are closed and in millimetres in other programs' readers (trimesh, the 3MF consortium's lib3mf)."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import lib3mf
import numpy as np
import pytest
import torch
import trimesh

from tests.export.kept import ring_source
from tests.voxel_shapes import voxel_asset
from trellis_app.export import printing
from trellis_app.export.formats import write_all
from trellis_app.export.printing import print_model
from trellis_app.export.source import ExportSource
from trellis_app.ovoxel.from_mesh import mesh_to_dual_grid
from trellis_app.settings import FileOptions, FinishOptions
from trellis_app.training.library import read_library
from trellis_app.types import DualGrid, Mesh, OVoxel

VOLUME = 2 * np.pi**2 * 0.3 * 0.12**2


def read_3mf(path: Path) -> tuple[trimesh.Trimesh, np.ndarray]:
    """(the mesh as lib3mf reads it, colours [F, 3, 3] of its corners); the reader must have no warning."""
    model = lib3mf.Wrapper().CreateModel()
    reader = model.QueryReader("3mf")
    reader.SetStrictModeActive(True)
    reader.ReadFromFile(str(path))
    assert [reader.GetWarning(k)[1] for k in range(reader.GetWarningCount())] == []
    assert model.GetUnit() == lib3mf.ModelUnit.MilliMeter
    assert model.GetBuildItems().Count() == 1
    meshes = model.GetMeshObjects()
    assert meshes.Count() == 1
    assert meshes.MoveNext()
    mesh = meshes.GetCurrentMeshObject()
    assert mesh.IsManifoldAndOriented()
    points = np.array([list(v.Coordinates) for v in mesh.GetVertices()])
    faces = np.array([list(t.Indices) for t in mesh.GetTriangleIndices()])
    group = model.GetColorGroupByID(mesh.GetTriangleProperties(0).ResourceID)
    colors = {k: group.GetColor(k) for k in group.GetAllPropertyIDs()}
    shown = {k: (c.Red, c.Green, c.Blue) for k, c in colors.items()}
    ids = [list(mesh.GetTriangleProperties(f).PropertyIDs) for f in range(len(faces))]
    return trimesh.Trimesh(points, faces, process=False), np.array([[shown[k] for k in row] for row in ids])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("print")
    write_all(ring_source(resolution=48, options=FileOptions(size_mm=84.0)), folder, "ring", ("stl", "3mf"))
    return folder


def test_3mf_is_closed_and_as_large_as_it_says(files: Path) -> None:
    mesh, _ = read_3mf(files / "ring.3mf")
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    np.testing.assert_allclose(mesh.bounds, [[0, 0, 0], [84, 84, 24]], atol=0.6)
    np.testing.assert_allclose(mesh.bounds[0], 0, atol=1e-4)
    assert mesh.volume == pytest.approx(VOLUME * 100**3, rel=0.05)
    assert len(mesh.faces) <= 2000


def test_3mf_has_the_colours_of_the_voxels(files: Path) -> None:
    mesh, colors = read_3mf(files / "ring.3mf")
    place = mesh.vertices[mesh.faces] / 100.0 - np.array([0.42, 0.42, 0.12]) + 0.5
    np.testing.assert_allclose(colors / 255.0, place, atol=0.045)


def test_trimesh_reads_the_same_closed_shape_from_stl(files: Path) -> None:
    stl = trimesh.load(files / "ring.stl")
    mesh, _ = read_3mf(files / "ring.3mf")
    assert stl.is_watertight
    assert len(stl.faces) == len(mesh.faces)
    assert stl.volume == pytest.approx(mesh.volume, rel=1e-4)
    header = (files / "ring.stl").read_bytes()[:80]
    assert header.startswith(b"trellis-app, millimetres, Z up, 84.00 x ")
    flat = trimesh.Trimesh(stl.vertices, stl.faces, process=False).face_normals
    stored = np.frombuffer((files / "ring.stl").read_bytes()[84:], printing._STL_ROW)["normal"]
    assert ((flat * stored).sum(axis=1) > 0.99).all()


@pytest.mark.parametrize("shape", ["sheet", "two boxes", "nested"])
def test_whatever_the_asset_is_the_print_is_closed(tmp_path: Path, shape: str) -> None:
    box = trimesh.creation.box
    mesh = {
        "sheet": trimesh.Trimesh([(-0.4, -0.4, 0.01), (0.4, -0.4, 0.03), (0.0, 0.4, 0.05)], [(0, 1, 2)]),
        "two boxes": trimesh.util.concatenate([box((0.3,) * 3), box((0.2,) * 3).apply_translation([0.3, 0.3, 0.3])]),
        "nested": trimesh.util.concatenate([box((0.8,) * 3), box((0.4,) * 3)]),
    }[shape]
    source = replace(ring_source(), voxels=voxel_asset(mesh, 40))
    write_all(source, tmp_path, "shape", ("stl", "3mf"))
    assert trimesh.load(tmp_path / "shape.stl").is_watertight
    mesh, _ = read_3mf(tmp_path / "shape.3mf")
    assert mesh.is_watertight
    assert mesh.volume > 0
    assert mesh.extents.max() == pytest.approx(100.0)


def test_a_tangle_that_few_faces_would_tear_gets_more(tmp_path: Path) -> None:
    random = np.random.default_rng(18)
    coords = np.argwhere(random.random((25, 25, 25)) < 0.65).astype(np.int32)
    crossed, dual = random.random((len(coords), 3)) < 0.5, random.random((len(coords), 3), dtype=np.float32)
    grid = DualGrid(torch.from_numpy(coords), torch.from_numpy(dual), torch.from_numpy(crossed), None, 25)
    voxels = OVoxel(grid, torch.ones(len(coords), 6))
    source = replace(ring_source(), voxels=voxels, finish=FinishOptions(faces=500))
    write_all(source, tmp_path, "tangle", ("stl", "3mf"))
    assert trimesh.load(tmp_path / "tangle.stl").is_watertight
    assert read_3mf(tmp_path / "tangle.3mf")[0].is_watertight


def test_a_watertight_asset_is_printed_as_it_is_and_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    source = replace(ring_source(), finish=FinishOptions(surface="watertight"))
    model = print_model(source)
    assert len(model.faces) == len(source.asset.faces)
    calls = []
    made = printing._closed
    monkeypatch.setattr(printing, "_closed", lambda *arguments: calls.append(1) or made(*arguments))
    single: ExportSource = ring_source()
    sizes = [print_model(replace(single, options=FileOptions(size_mm=mm))).vertices.max() for mm in (10.0, 50.0)]
    assert sizes == pytest.approx([10.0, 50.0])
    assert len(calls) == 1
    print_model(replace(single, finish=FinishOptions(faces=500)))
    assert len(calls) == 2


@pytest.mark.slow
def test_every_object_of_the_library_prints_closed(shared: Path, tmp_path: Path) -> None:
    for thing in read_library(shared / "data" / "dev.npz"):
        low, high = thing.vertices.min(axis=0), thing.vertices.max(axis=0)
        placed = (thing.vertices - (low + high) / 2) * (0.98 / (high - low).max())
        grid = mesh_to_dual_grid(Mesh(torch.from_numpy(placed), torch.from_numpy(thing.faces)), 96)
        voxels = OVoxel(grid, torch.full((len(grid.coords), 6), 0.5))
        write_all(
            replace(ring_source(), voxels=voxels, finish=FinishOptions(faces=5000)), tmp_path, "it", ("stl", "3mf")
        )
        assert trimesh.load(tmp_path / "it.stl").is_watertight, thing.name
        assert read_3mf(tmp_path / "it.3mf")[0].is_watertight, thing.name


def test_the_package_has_the_files_that_readers_look_for(files: Path) -> None:
    with zipfile.ZipFile(files / "ring.3mf") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["[Content_Types].xml", "_rels/.rels", "3D/3dmodel.model"]
        assert b'unit="millimeter"' in archive.read("3D/3dmodel.model")[:400]
