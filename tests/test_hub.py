"""What is said when a download fails, how far one is, and what is checked afterwards."""

import errno
import time
from pathlib import Path

import httpx
import pytest
from huggingface_hub import errors

from trellis_app import hub
from trellis_app.errors import BundleError, MachineError
from trellis_app.hub import HubFile, explained, fetching

FILE = HubFile("owner/name", "ckpts/a.safetensors")
ANSWER = httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co/owner/name"))
CASES = [
    (errors.GatedRepoError("gated", response=ANSWER), BundleError, "accept its licence.*https://huggingface.co/owner/name"),
    (errors.RepositoryNotFoundError("none", response=ANSWER), BundleError, "no repository owner/name"),
    (errors.RevisionNotFoundError("none", response=ANSWER), BundleError, "no revision"),
    (errors.LocalEntryNotFoundError("offline"), BundleError, "not on this machine.*HF_ENDPOINT"),
    (errors.OfflineModeIsEnabled("offline"), BundleError, "HF_HUB_OFFLINE"),
    (errors.EntryNotFoundError("none"), BundleError, "no file ckpts/a.safetensors"),
    (OSError(errno.ENOSPC, "full"), MachineError, "The disk is full"),
    (OSError("broken"), BundleError, "what arrived is kept"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "kind", "sentence"), CASES, ids=lambda value: type(value).__name__)
def test_sentences(error: Exception, kind: type[Exception], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_options: object) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(kind, match=sentence):
        hub.download(FILE)
    assert str(explained(error, FILE)).count(". ") >= 1


def test_released_files_are_pinned_and_have_sizes() -> None:
    flow = HubFile(hub.FULL_BUNDLE, "ckpts/ss_flow_img_dit_1_3B_64_bf16.safetensors")
    assert flow.known_bytes == 2_584_426_920
    decoder = HubFile("microsoft/TRELLIS-image-large", "ckpts/ss_dec_conv3d_16l8_fp16.safetensors")
    assert (decoder.known_bytes, decoder.revision) == (147_591_972, "25e0d31ffbebe4b5a97464dd851910efc3002d96")
    assert HubFile("owner/name", flow.name).known_bytes is None


def test_a_file_of_another_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cut").write_bytes(b"12")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_a, **_o: str(tmp_path / "cut"))
    assert hub.download(FILE) == tmp_path / "cut"
    with pytest.raises(BundleError, match="2 bytes instead of 2,584,426,920"):
        hub.download(HubFile(hub.FULL_BUNDLE, "ckpts/ss_flow_img_dit_1_3B_64_bf16.safetensors"))


def test_progress_of_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    blobs = tmp_path / "models--owner--name" / "blobs"
    blobs.mkdir(parents=True)

    def slow(file: HubFile) -> Path:
        (blobs / "x.incomplete").write_bytes(b"0" * 700)
        time.sleep(0.15)
        (blobs / "x.incomplete").unlink()
        (blobs / Path(file.name).name).write_bytes(b"0" * 1000)
        return blobs / Path(file.name).name

    monkeypatch.setattr(hub, "download", slow)
    states = list(fetching([FILE, HubFile("owner/name", "b")], every=0.02))
    done = [state.done_bytes for state in states]
    assert done == sorted(done)
    assert {700, 1000, 1700} <= set(done)
    assert "(file 2 of 2: b)" in states[-1].sentence


def test_a_full_disk_is_said_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "not" / "yet"))
    with pytest.raises(MachineError, match="needs 1000000"):
        hub.room_for([FILE], 10**15)
