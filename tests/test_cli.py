"""The command line: files and their record, exit codes, sentences instead of tracebacks, nothing half-written."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from tests.tiny_bundle import write_tiny_bundle
from trellis_app import doctor
from trellis_app.__main__ import main
from trellis_app.errors import EmptyAssetError
from trellis_app.pipeline import ImageTo3D
from trellis_app.settings import AppSettings


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def picture(tmp_path) -> Path:
    image = Image.new("RGBA", (96, 96), (0, 0, 0, 0))
    image.paste((200, 60, 20, 255), (20, 20, 76, 76))
    path = tmp_path / "box.png"
    image.save(path)
    return path


def generate(pictures: Path | list[Path], out: Path, bundle: Path, *more: str) -> int:
    paths = map(str, pictures if isinstance(pictures, list) else [pictures])
    small = ("--faces", "2000", "--texture-size", "128")
    return main(["generate", *paths, "--out", str(out), "--bundle", str(bundle), "--device", "cpu", *small, *more])


def test_generate_writes_the_files_and_their_record(picture, tmp_path, bundle, capsys):
    assert generate(picture, tmp_path / "out", bundle, "--seed", "7") == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"box.glb", "box.ply", "box.json"}
    record = json.loads((tmp_path / "out/box.json").read_text())
    assert record["seed"] == 7
    assert record["preset"] == "64"
    assert record["samplers"]["shape"]["steps"] == 3
    assert record["counts"]["faces"] <= 2000
    assert {"structure", "shape", "material"} <= record["seconds"].keys()
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "out" / name) for name in ("box.glb", "box.ply", "box.json")
    ]


def test_every_format_and_every_flag(picture, tmp_path, bundle):
    every = "glb,ply,splat,npz,obj,stl,3mf,usdz,vxz,voxels-npz,voxels-ply"
    flags = ("--surface", "watertight", "--alpha", "opaque", "--texture-format", "webp", "--draco", "--size-mm", "50")
    assert generate(picture, tmp_path / "out", bundle, "--formats", every, "--no-normal-map", *flags) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    endings = ("glb", "ply", "splat.ply", "npz", "obj", "mtl", "stl", "3mf", "usdz", "vxz", "voxels.npz", "voxels.ply")
    maps = {f"box_{name}.png" for name in ("base_color", "roughness", "metallic")}
    assert names == {f"box.{ending}" for ending in endings} | maps | {"box.json"}
    glb = (tmp_path / "out/box.glb").read_bytes()
    assert b"KHR_draco_mesh_compression" in glb
    assert b"EXT_texture_webp" in glb
    assert b"normalTexture" not in glb
    solid = trimesh.load(tmp_path / "out/box.stl")
    assert solid.is_watertight
    assert solid.extents.max() == pytest.approx(50.0)


def test_the_same_run_gives_the_same_bytes_and_another_seed_another_asset(picture, tmp_path, bundle):
    for folder, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert generate(picture, tmp_path / folder, bundle, "--seed", seed) == 0
    first, again, other = ((tmp_path / folder / "box.glb").read_bytes() for folder in "abc")
    assert first == again
    assert first != other


def test_every_picture_with_every_seed(picture, tmp_path, bundle, capsys):
    other = tmp_path / "more" / picture.name
    other.parent.mkdir()
    Image.open(picture).rotate(20).save(other)
    assert generate([picture, other], tmp_path / "out", bundle, "--seeds", "1,2,1", "--formats", "glb") == 0
    names = [f"{stem}-seed{seed}" for stem in ("box", "box-2") for seed in (1, 2)]
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {f"{name}.{ending}" for name in names for ending in ("glb", "json")}
    assert len(capsys.readouterr().out.split()) == 8
    assert generate(other, tmp_path / "alone", bundle, "--seed", "2", "--formats", "glb") == 0
    assert (tmp_path / "alone/box.glb").read_bytes() == (tmp_path / "out/box-2-seed2.glb").read_bytes()
    record = json.loads((tmp_path / "out/box-2-seed2.json").read_text())
    assert record["seed"] == 2
    assert {"structure", "shape", "material", "finish: Bake the textures"} <= record["seconds"].keys()


def test_what_fails_leaves_the_others(picture, tmp_path, bundle, capsys, monkeypatch):
    """One picture has no object, one asset no surface, the disk refuses one file: the other two are written."""
    blank = write_bad("transparent", tmp_path)
    decode, opened, calls = ImageTo3D.decode_shape, Path.open, []

    def second_is_empty(pipeline, shape):
        calls.append(shape)
        if len(calls) == 2:
            raise EmptyAssetError("The shape stage produced no surface.", "Try another seed.")
        return decode(pipeline, shape)

    def full(path, *arguments, **options):
        if "box-seed4.json" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(ImageTo3D, "decode_shape", second_is_empty)
    monkeypatch.setattr(Path, "open", full)
    assert generate([picture, blank], tmp_path / "out", bundle, "--seeds", "2,3,4,5", "--formats", "glb") == 2
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {f"box-seed{seed}.{ending}" for seed in (2, 5) for ending in ("glb", "json")}
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 6
    assert sum("transparent-seed" in line for line in errors) == 4
    assert any("box-seed3: The shape stage produced no surface." in line for line in errors)
    assert any("box-seed4" in line and "is full" in line for line in errors)


def test_a_list_of_seeds_holds_numbers(picture, tmp_path, bundle, capsys):
    with pytest.raises(SystemExit, match="2"):
        generate(picture, tmp_path / "out", bundle, "--seeds", "1,two")
    assert generate(picture, tmp_path / "out", bundle, "--seeds", "1,-2") == 2
    assert "seed is -2" in capsys.readouterr().err


def write_bad(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.png"
    if kind == "text":
        path.write_text("hello")
    elif kind == "empty":
        path.touch()
    elif kind == "pixel":
        Image.new("RGB", (1, 1)).save(path)
    elif kind == "transparent":
        Image.new("RGBA", (64, 64), (9, 9, 9, 0)).save(path)
    elif kind == "corrupt":
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "huge":
        Image.new("L", (10_000, 10_000)).save(path)
    return path


@pytest.mark.parametrize("kind", ["text", "empty", "pixel", "transparent", "corrupt", "huge", "missing"])
def test_bad_pictures_end_with_code_2_and_two_sentences(kind, tmp_path, bundle, capsys):
    assert generate(write_bad(kind, tmp_path), tmp_path / "out", bundle) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("error: ")
    assert message.count(".") >= 2
    assert "Traceback" not in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--formats", "glb,doc"), "no format 'doc'"),
        (("--resolution", "9000"), "no resolution '9000'"),
        (("--seed", "-1"), "seed is -1"),
        (("--faces", "3"), "face budget is 3"),
    ],
)
def test_bad_settings_end_with_code_2(picture, tmp_path, bundle, capsys, more, sentence):
    assert generate(picture, tmp_path / "out", bundle, *more) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_told_before_anything_runs(picture, tmp_path, bundle, capsys):
    assert generate(picture, picture / "out", bundle) == 2
    error = capsys.readouterr().err
    assert "cannot be written" in error
    assert "Structure" not in error


def test_unknown_bundle(picture, tmp_path, capsys):
    assert generate(picture, tmp_path / "out", tmp_path / "nowhere") == 2
    assert "no model bundle" in capsys.readouterr().err


def test_truncated_checkpoint(picture, tmp_path, capsys):
    bundle = write_tiny_bundle(tmp_path / "cut")
    weights = bundle / "ckpts/shape_slat_decoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert generate(picture, tmp_path / "out", bundle) == 2
    error = capsys.readouterr().err
    assert "shape_slat_decoder.safetensors is damaged or incomplete" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ending", [".ply.", ".json."])
def test_full_disk_leaves_nothing_half_written(picture, tmp_path, bundle, capsys, monkeypatch, ending):
    opened = Path.open

    def full(path, *arguments, **options):
        if ending in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    assert generate(picture, tmp_path / "out", bundle) == 2
    assert "is full" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_doctor_tells_what_runs(bundle, capsys):
    assert main(["doctor", "--bundle", str(bundle), "--no-probe"]) == 0
    text = capsys.readouterr().out
    assert "This machine can run the app." in text
    assert "microsoft/TRELLIS.2-4B" in text


def test_doctor_names_a_broken_bundle(tmp_path, capsys):
    assert main(["doctor", "--bundle", str(tmp_path / "nowhere"), "--no-probe", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["usable"]
    assert any(f["status"] == doctor.PROBLEM and "no model bundle" in f["detail"] for f in report["findings"])


def test_doctor_looks_at_the_chosen_folder(bundle, tmp_path):
    report = doctor.examine(AppSettings(bundle=str(bundle), output_folder=tmp_path / "a/b"), probe=False)
    assert report.usable
    assert any(finding.subject == "disk" and str(tmp_path) in finding.detail for finding in report.findings)


def test_doctor_probes_the_shipped_bundle(capsys):
    assert main(["doctor", "--bundle", "mini", "--device", "cpu"]) == 0
    assert "as expected" in capsys.readouterr().out
