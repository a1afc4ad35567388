"""What doctor finds and advises, with the hub's real client and a mirror that must not be asked."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants

from tests.hub_mirror import Mirror, serving, use
from tests.tiny_bundle import write_tiny_bundle
from trellis_app import checks, doctor, weights
from trellis_app.checks import NOTE, OK, PROBLEM, Finding
from trellis_app.hub import FULL_BUNDLE
from trellis_app.settings import AppSettings
from trellis_app.weights import load_bundle, resolve_source


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    write_tiny_bundle(tmp_path / "hub" / "owner" / "tiny")
    monkeypatch.setattr(checks, "get_token", lambda: None)
    with serving(tmp_path / "hub") as server:
        use(monkeypatch, server.address, tmp_path / "cache")
        yield server


def report(**settings: object) -> dict[str, Finding]:
    found = doctor.examine(AppSettings(device="cpu", **settings), probe=False)
    assert all(finding.to_do for finding in found.findings if finding.status != OK)
    assert found.usable == all(finding.status != PROBLEM for finding in found.findings)
    return {finding.subject: finding for finding in found.findings}


def test_a_finding_must_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="does not say what to do"):
        Finding("disk", PROBLEM, "full")


def test_the_released_bundle_is_judged_without_a_request(mirror: Mirror) -> None:
    found = report(bundle=FULL_BUNDLE)
    assert found[FULL_BUNDLE].status == NOTE
    # The manifest, seven checkpoints, the open DINOv3 and BiRefNet.
    assert found[FULL_BUNDLE].detail.startswith("10 files are not here (14.0 GB): microsoft/TRELLIS.2-4B/pipeline.json")
    assert "for 14.0 GB from http://127.0.0.1" in found["hub"].detail
    assert "hours" in found["4B memory"].detail
    assert f"bundle {FULL_BUNDLE}" not in found
    assert not mirror.requests


def test_a_bundle_of_the_hub_before_and_after_its_download(mirror: Mirror) -> None:
    found = report(bundle="owner/tiny")
    assert "owner/tiny/pipeline.json" in found["owner/tiny"].detail
    assert not mirror.requests
    bundle = load_bundle("owner/tiny")
    found = report(bundle="owner/tiny")
    assert found["owner/tiny"].detail.startswith("12 files are not here")
    for key in bundle.config.models:
        bundle.model(key)
    for part in (bundle.config.image_cond_model, bundle.config.rembg_model):
        assert part is not None
        bundle.part(part)
    sent = dict(mirror.sent)
    found = report(bundle="owner/tiny")
    assert found["bundle owner/tiny"].status == OK
    assert mirror.sent == sent


def test_offline(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert report(bundle="mini")["hub"].status == NOTE
    found = report(bundle=FULL_BUNDLE)["hub"]
    assert (found.status, found.to_do) == (PROBLEM, "Unset it, or name a folder with --bundle.")


def test_a_small_disk(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=9 * 10**9))
    assert report(bundle="mini")["hub"].status == NOTE
    found = report(bundle=FULL_BUNDLE)["hub"]
    assert found.status == PROBLEM
    assert "9.0 GB free" in found.detail
    assert "HF_HOME" in found.to_do


def test_gated_originals_need_a_login(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    gated = "facebook/dinov3-vitl16-pretrain-lvd1689m", "briaai/RMBG-2.0"
    found = report(bundle=FULL_BUNDLE, original_encoders=True)
    for name in gated:
        assert found[name].status == PROBLEM
        assert f"https://huggingface.co/{name}" in found[name].to_do
    monkeypatch.setattr(checks, "get_token", lambda: "hf_x")
    assert not {*gated} & report(bundle=FULL_BUNDLE, original_encoders=True).keys()
    assert not mirror.requests


def test_a_folder_whose_structure_decoder_is_elsewhere(mirror: Mirror, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(mirror.folder / "owner" / "tiny", folder)
    manifest = folder / "pipeline.json"
    stem = "owner/structure/ckpts/sparse_structure_decoder"
    manifest.write_text(manifest.read_text().replace('"ckpts/sparse_structure_decoder"', f'"{stem}"'))
    found = report(bundle=str(folder))
    assert found[str(folder)].detail.startswith(f"2 files are not here: {stem}.json, {stem}.safetensors")
    assert not mirror.requests


def test_a_broken_folder(tmp_path: Path) -> None:
    (tmp_path / "pipeline.json").write_text("{")
    found = report(bundle=str(tmp_path))[f"bundle {tmp_path}"]
    assert (found.status, found.to_do) == (PROBLEM, "Download the bundle again.")


@pytest.mark.parametrize(
    ("budget", "free", "status", "words"),
    [
        (None, 140.0, OK, "all models stay on the GPU"),
        (12.0, 140.0, OK, "12.0 GB of memory budget: models take turns"),
        (None, 6.2, NOTE, "6.2 GB of free GPU memory: enough for 512"),
        (4.0, 140.0, PROBLEM, "too little for the 4B bundle"),
    ],
)
def test_memory_of_the_released_bundle(
    budget: float | None, free: float, status: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda *_: (int(free * 1e9), int(140e9)))
    monkeypatch.setattr(checks, "main_memory", lambda: 8 * 2**30)
    first, *more = checks.full_bundle_memory(AppSettings(memory_budget_gb=budget), needed=True)
    assert first.status == status
    assert words in first.detail
    assert bool(more) == ("all models" not in words and status != PROBLEM)
    assert all("main memory" in finding.subject for finding in more)


def test_an_old_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_version", lambda name: {"transformers": "4.1", "gradio": None}.get(name, "99"))
    found = {finding.subject: finding for finding in checks.packages()}
    assert "4.1, tested is" in found["transformers"].detail
    assert found["gradio"].detail == "not installed"
    assert "requirements.txt" in found["transformers"].to_do


def test_auto_takes_the_released_bundle_once_its_default_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_source("auto", torch.device("cuda")) == "mini"
    monkeypatch.setattr(weights, "missing_files", lambda source: [])
    assert resolve_source("auto", torch.device("cuda")) == FULL_BUNDLE
    assert resolve_source("auto", torch.device("cpu")) == "mini"
