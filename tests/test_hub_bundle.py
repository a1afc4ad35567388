"""A bundle of the hub, through the real client and a mirror: only what a run needs, progress, then an asset."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.hub_mirror import COMMIT, Mirror, serving, use
from tests.tiny_bundle import write_tiny_bundle
from trellis_app.errors import BundleError
from trellis_app.fetching import fetching
from trellis_app.released import CHECKPOINTS, manifest
from trellis_app.settings import PROJECT_ROOT
from trellis_app.weights import load_bundle

STRUCTURE = "owner/structure"  # the repository of the structure decoder


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub with a tiny bundle whose structure decoder has a repository of its own, as the released one."""
    hub = tmp_path_factory.mktemp("hub")
    tiny = write_tiny_bundle(hub / "owner" / "tiny")
    elsewhere = hub / STRUCTURE / "ckpts"
    elsewhere.mkdir(parents=True)
    for path in (tiny / "ckpts").glob("sparse_structure_decoder.*"):
        shutil.move(path, elsewhere / path.name)
    document = json.loads((tiny / "pipeline.json").read_text())
    document["args"]["models"]["sparse_structure_decoder"] = f"{STRUCTURE}/ckpts/sparse_structure_decoder"
    (tiny / "pipeline.json").write_text(json.dumps(document))
    return hub


@pytest.fixture
def mirror(repositories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    with serving(repositories) as server:
        use(monkeypatch, server.address, tmp_path / "cache")
        yield server


def test_a_bundle_of_two_repositories(mirror: Mirror) -> None:
    bundle = load_bundle("owner/tiny")
    keys = bundle.presets["64"].models
    missing = bundle.missing(keys)
    assert {file.repository for file in missing} == {"owner/tiny", STRUCTURE}
    assert [Path(file.name).stem for file in missing] == list(keys)
    assert not any(name.endswith(".safetensors") for name in mirror.sent)
    list(fetching(missing))
    assert bundle.missing(keys) == []
    for key in keys:
        bundle.model(key)
    asked = [request.path for request in mirror.requests if request.path.startswith("owner/tiny/resolve/")]
    assert {path.split("/")[3] for path in asked[2:]} == {COMMIT}  # after the manifest all are of its commit


def test_a_file_is_looked_for_once(mirror: Mirror) -> None:
    bundle = load_bundle("owner/tiny")
    keys = bundle.presets["64"].models
    bundle.missing(keys)
    asked = len(mirror.requests)
    bundle.missing(keys)
    assert bundle.weight_bytes("sparse_structure_decoder", "cpu") > 0
    assert len(mirror.requests) == asked


def released(mirror: Mirror) -> None:
    """owner/big: the released layout with its descriptions, weights of a few bytes."""
    stems = {key: checkpoint.stem for key, checkpoint in CHECKPOINTS.items()}
    stems["sparse_structure_decoder"] = f"{STRUCTURE}/ckpts/ss_dec"
    for key, stem in stems.items():
        path = mirror.folder / (stem if stem.startswith(STRUCTURE) else f"owner/big/{stem}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f"{path.name}.json").write_text(json.dumps(CHECKPOINTS[key].description))
        path.with_name(f"{path.name}.safetensors").write_bytes(os.urandom(100))
    (mirror.folder / "owner" / "big" / "pipeline.json").write_text(json.dumps(manifest(stems)))


@pytest.mark.parametrize(("preset", "other"), [("512", "1024"), ("1024", "512"), ("1024_cascade", "tex_512")])
def test_only_the_weights_of_a_preset(mirror: Mirror, preset: str, other: str) -> None:
    released(mirror)
    bundle = load_bundle("owner/big")
    list(fetching(bundle.missing(bundle.presets[preset].models)))
    weights = sorted(name for name in mirror.sent if name.endswith(".safetensors"))
    assert len(weights) == (7 if "cascade" in preset else 6)
    assert "ss_dec.safetensors" in weights
    assert not any(other in name.replace("imgshape2tex_dit_1_3B", "tex") for name in weights)


def test_a_folder_without_the_structure_decoder_says_where_it_is(
    mirror: Mirror, repositories: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(repositories / "owner" / "tiny", tmp_path / "tiny")
    mirror.faults.refused[STRUCTURE] = (401, "RepoNotFound")
    with pytest.raises(BundleError) as caught:
        load_bundle(folder).missing(["sparse_structure_decoder"])
    assert caught.value.what.startswith(f"{folder} has no {STRUCTURE}/ckpts/sparse_structure_decoder.json.")
    assert caught.value.to_do == (
        f"Put it there: hf download {STRUCTURE} ckpts/sparse_structure_decoder.json "
        f"ckpts/sparse_structure_decoder.safetensors --local-dir {folder / STRUCTURE}"
    )
    mirror.faults.refused.clear()
    bundle = load_bundle(folder)
    assert [file.repository for file in bundle.missing(bundle.presets["64"].models)] == [STRUCTURE]
    shutil.copytree(repositories / STRUCTURE, folder / STRUCTURE)
    mirror.requests.clear()
    bundle = load_bundle(folder)
    assert bundle.missing(["sparse_structure_decoder"]) == []
    bundle.model("sparse_structure_decoder")
    assert not mirror.requests


def test_unknown_repository(mirror: Mirror) -> None:
    with pytest.raises(BundleError, match="no repository nobody/nothing"):
        load_bundle("nobody/nothing")


def test_the_command_downloads_and_makes_an_asset(mirror: Mirror, tmp_path: Path) -> None:
    """In a fresh process that knows the mirror from the environment alone; a second run asks nothing offline."""
    picture = Image.new("RGBA", (96, 96), (0, 0, 0, 0))
    picture.paste((200, 60, 20, 255), (20, 20, 76, 76))
    picture.save(tmp_path / "box.png")
    home = {"HF_ENDPOINT": mirror.address, "HF_HOME": str(tmp_path / "home")}

    def generate(out: str, **more: str) -> str:
        command = ["generate", str(tmp_path / "box.png"), "--out", str(tmp_path / out), "--bundle", "owner/tiny"]
        small = ["--device", "cpu", "--faces", "2000", "--texture-size", "128", "--formats", "glb"]
        done = subprocess.run(
            [sys.executable, "-m", "trellis_app", *command, *small],
            cwd=PROJECT_ROOT, env={**os.environ, **home, **more}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stderr

    told = generate("first")
    assert "Downloading the model, 0.0 of " in told
    assert "(file 6 of 6: tex_slat_flow_model_64.safetensors)" in told
    assert "%|" not in told  # the client's own bars stay away
    assert "shape_slat_encoder.safetensors" not in mirror.sent  # only texturing needs it
    asked = len(mirror.requests)
    assert "ownloading" not in generate("second", HF_HUB_OFFLINE="1")
    assert len(mirror.requests) == asked
    first, second = ((tmp_path / name / "box.glb").read_bytes() for name in ("first", "second"))
    assert first == second
