"""OBJ opens with its material; seams share positions; zips and text are exact."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from tests.export.kept import ring_source
from trellis_app.export.archive import zip_chunks
from trellis_app.export.deflate import STRIPE
from trellis_app.export.formats import write_all
from trellis_app.export.gltf import y_up
from trellis_app.export.source import Part
from trellis_app.export.text import text_rows


def test_trimesh_opens_the_obj_with_its_texture(tmp_path: Path) -> None:
    source = ring_source()
    paths = write_all(source, tmp_path, "my ring", ("obj",))["obj"]
    maps = [f"my_ring_{name}.png" for name in ("base_color", "roughness", "metallic", "normal")]
    assert [path.name for path in paths] == ["my ring.obj", "my_ring.mtl", *maps]
    mesh = trimesh.load(paths[0], force="mesh", process=False, maintain_order=True)
    corners = y_up(source.asset.vertices)[source.asset.faces]
    np.testing.assert_allclose(mesh.vertices[mesh.faces], corners, atol=1e-6)
    uvs = source.asset.uvs[source.asset.faces] * [1, -1] + [0, 1]
    np.testing.assert_allclose(mesh.visual.uv[mesh.faces], uvs, atol=1e-6)
    pixels = np.asarray(mesh.visual.material.image)
    np.testing.assert_array_equal(pixels, source.asset.textures.base_color[..., :3])
    roughness = np.asarray(Image.open(tmp_path / "my_ring_roughness.png"))
    np.testing.assert_array_equal(roughness, source.asset.textures.metallic_roughness[..., 1])


def test_positions_are_shared_across_seams(tmp_path: Path) -> None:
    source = ring_source()
    paths = write_all(source, tmp_path, "Stühle 椅", ("obj",))["obj"]
    lines = paths[0].read_text("ascii").splitlines()
    assert lines[1] == f"mtllib {paths[1].name}"
    assert f"map_Kd {paths[2].name}" in paths[1].read_text("ascii")
    assert sum(line.startswith("v ") for line in lines) == 48 * 24
    assert sum(line.startswith("vt ") for line in lines) == len(source.asset.vertices)
    assert sum(line.startswith("f ") for line in lines) == len(source.asset.faces)


@pytest.mark.parametrize(("mode", "translucent"), [("OPAQUE", 0), ("MASK", 0), ("BLEND", 700)])
def test_translucent_faces_get_a_material_of_their_own(tmp_path: Path, mode: str, translucent: int) -> None:
    source = ring_source(mode, translucent=translucent)
    folder = tmp_path / mode
    (archive,) = write_all(source, folder, "ring", ("obj",), packed=True)["obj"]
    assert archive.name == "ring.obj.zip"
    with zipfile.ZipFile(archive) as files:
        text, material = files.read("ring.obj").decode(), files.read("ring.mtl").decode()
        assert ("ring_opacity.png" in files.namelist()) == (mode != "OPAQUE")
    assert text.count("usemtl") == (2 if translucent else 1)
    after = text.partition("usemtl translucent")[2]
    assert after.count("\nf ") == translucent
    assert material.count("map_d") == {"OPAQUE": 0, "MASK": 2, "BLEND": 1}[mode]


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_text_is_what_python_writes(decimals: int) -> None:
    random = np.random.default_rng(1)
    values = random.normal(size=(70_001, 3)) * 10.0 ** random.integers(-4, 4, (70_001, 3))
    values[:3] = [[0, -0.0, 1], [-1, 0.5, -0.25], [999999, 1e-9, -1e-9]]
    rounded = np.rint(values * 10**decimals) / 10**decimals if decimals else np.trunc(values)
    text = b"".join(text_rows(values, ("a ", "/", " ", ";\n"), decimals=decimals)).decode()
    expected = "".join(f"a {x:.{decimals}f}/{y:.{decimals}f} {z:.{decimals}f};\n" for x, y, z in rounded + 0.0)
    assert text == expected
    assert text_rows(values[:0], ("a ", "/", " ", ";\n")) == []


@pytest.mark.parametrize("store", [False, True])
def test_zips_open_elsewhere_and_are_aligned(store: bool) -> None:
    random = np.random.default_rng(2)
    big = random.integers(0, 4, 2 * STRIPE + 77, dtype=np.uint8).tobytes()
    parts = [
        Part("empty.txt", []), Part("ü.txt", [b"a", b"", b"bc"]), Part("big.bin", [big[:STRIPE], big[STRIPE:]]),
        Part("noise.png", [random.bytes(333)]),
    ]  # fmt: skip
    data = b"".join(zip_chunks(parts, store=store, align=64))
    assert data == b"".join(zip_chunks(parts, store=store, align=64))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [part.name for part in parts]
        for part, entry in zip(parts, archive.infolist(), strict=True):
            assert archive.read(entry) == b"".join(part.chunks)
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            offset = entry.header_offset + 30 + len(entry.filename.encode()) + len(entry.extra)
            assert offset % 64 == 0
        assert archive.getinfo("noise.png").compress_type == zipfile.ZIP_STORED
        assert (archive.getinfo("big.bin").compress_size < len(big)) == (not store)
