"""The hub's real client against a mirror on this machine: what arrives, what is kept, what is said when it fails."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from tests.hub_mirror import CHUNK, COMMIT, Mirror, serving, use
from trellis_app import fetching as fetching_module
from trellis_app import hub
from trellis_app.errors import BundleError, MachineError, TrellisError
from trellis_app.fetching import Fetching, fetched, fetching
from trellis_app.hub import HubFile, cached, download
from trellis_app.settings import PROJECT_ROOT

SIZE = 20 * CHUNK + 17
FILE = HubFile("owner/name", "ckpts/a.safetensors")
SECOND = HubFile("owner/name", "ckpts/b.safetensors")


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """A mirror with one repository of two large files and one small, an empty cache, an impatient client."""
    folder = tmp_path / "hub" / "owner" / "name" / "ckpts"
    folder.mkdir(parents=True)
    for file in (FILE, SECOND):
        (folder.parent / file.name).write_bytes(os.urandom(SIZE))
    (folder / "a.json").write_text('{"name": "a"}')
    with serving(tmp_path / "hub") as server:
        use(monkeypatch, server.address, tmp_path / "cache")
        yield server


def original(mirror: Mirror, file: HubFile) -> bytes:
    return (mirror.folder / file.repository / file.name).read_bytes()


def starts(mirror: Mirror, file: HubFile) -> list[int]:
    """From which byte on the client asked for a large file, each time."""
    return [request.first_byte for request in mirror.asked(Path(file.name).name) if request.path.startswith("stored/")]


def test_progress_file_by_file(mirror: Mirror) -> None:
    mirror.faults.pause = {"a.safetensors": 0.02, "b.safetensors": 0.02}
    states = list(fetching([FILE, SECOND], every=0.02))
    done = [state.done_bytes for state in states]
    assert done == sorted(done)
    assert (done[0], done[-1], states[-1].total_bytes) == (0, 2 * SIZE, 2 * SIZE)
    assert any(0 < amount < SIZE for amount in done)
    assert any(SIZE < amount < 2 * SIZE for amount in done)
    assert states[0].sentence == "asking the hub for the model"
    assert any("(file 1 of 2: a.safetensors)" in state.sentence for state in states)
    assert "2.6 of 2.6 MB (file 2 of 2: b.safetensors)" in states[-1].sentence
    for file in (FILE, SECOND):
        assert download(file).read_bytes() == original(mirror, file)
    assert sum(mirror.sent.values()) == 2 * SIZE


def test_words_of_a_large_download() -> None:
    assert Fetching("ckpts/x", 3, 8, 1_240_000_000, 11_000_000_000).sentence == (
        "downloading the model, 1.2 of 11.0 GB (file 3 of 8: x)"
    )


def test_a_broken_connection_goes_on_where_it_was(mirror: Mirror) -> None:
    mirror.faults.cut_after["a.safetensors"] = 8 * CHUNK
    assert download(FILE).read_bytes() == original(mirror, FILE)
    assert len(starts(mirror, FILE)) == 3
    assert mirror.sent["a.safetensors"] < SIZE + 3 * CHUNK


LOADER = """
import sys
from huggingface_hub import constants
constants.DOWNLOAD_CHUNK_SIZE = int(sys.argv[1])
from trellis_app.hub import HubFile, download
print(download(HubFile(*sys.argv[2:])))
"""


def test_a_killed_process_leaves_what_arrived_for_the_next(mirror: Mirror, tmp_path: Path) -> None:
    """Without a chance to tidy up, in fresh processes that know the mirror from the environment alone."""
    home = {"HF_ENDPOINT": mirror.address, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", LOADER, str(CHUNK), FILE.repository, FILE.name]
    options = {"cwd": PROJECT_ROOT, "env": {**os.environ, **home}, "stdout": subprocess.PIPE}
    mirror.faults.pause["a.safetensors"] = 0.05
    first = subprocess.Popen(command, **options)
    wait_until(lambda: mirror.sent.get("a.safetensors", 0) > 6 * CHUNK)
    first.kill()
    first.communicate()
    sent = mirror.sent["a.safetensors"]
    assert sent < SIZE
    mirror.faults.pause.clear()
    second = subprocess.run(command, check=True, text=True, **options)
    assert Path(second.stdout.strip()).read_bytes() == original(mirror, FILE)
    assert starts(mirror, FILE)[0] == 0
    assert 3 * CHUNK <= starts(mirror, FILE)[1] <= sent


def wait_until(reached: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "nothing happened for too long"
        time.sleep(0.01)


def test_closing_ends_the_download_and_the_next_goes_on(mirror: Mirror) -> None:
    mirror.faults.pause["a.safetensors"] = 0.03
    states = fetching([FILE], every=0.02)
    while next(states).done_bytes < 4 * CHUNK:
        pass
    before = threading.active_count()
    states.close()
    wait_until(lambda: threading.active_count() < before)
    sent = mirror.sent["a.safetensors"]
    time.sleep(0.3)
    assert mirror.sent["a.safetensors"] <= sent + CHUNK < SIZE
    mirror.faults.pause.clear()
    first, *_, last = (state for state in fetching([FILE], every=0.02) if state.total_bytes)
    assert first.done_bytes >= 4 * CHUNK
    assert last.done_bytes == SIZE
    assert starts(mirror, FILE)[-1] == first.done_bytes
    assert download(FILE).read_bytes() == original(mirror, FILE)


def test_a_stalled_server_ends_in_a_sentence(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.faults.pause["a.safetensors"] = 60.0
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    with pytest.raises(
        BundleError, match=r"could not be downloaded \((ReadTimeout|ConnectionError)\)\. Try again: what arrived"
    ):
        download(FILE)


def test_a_server_without_ranges(mirror: Mirror) -> None:
    """The client begins anew; before its version 1 it noticed only in the end, and so does the hash."""
    unfinished = hub.remote(FILE).unfinished
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(original(mirror, FILE)[: 5 * CHUNK])
    mirror.faults.no_ranges = True
    with suppress(BundleError):
        download(FILE)
    assert download(FILE).read_bytes() == original(mirror, FILE)


def test_damaged_bytes_of_the_right_size_are_refused(mirror: Mirror) -> None:
    mirror.faults.damaged.add("a.safetensors")
    with pytest.raises(BundleError, match=r"arrived damaged\. Download it again"):
        download(FILE)
    assert cached(FILE) is None
    mirror.faults.damaged.clear()
    assert download(FILE).read_bytes() == original(mirror, FILE)


def test_another_size_than_published_is_refused_before_it_is_downloaded(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = HubFile(hub.OPEN_MATTE, hub.MODEL_FILE)
    assert pinned.known_bytes == 444_473_596
    path = mirror.folder / pinned.repository / pinned.name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"too short")
    monkeypatch.setitem(hub.PINNED, pinned.repository, COMMIT)
    with pytest.raises(BundleError, match="has 9 bytes instead of 444,473,596"):
        download(pinned)
    assert not mirror.sent


def test_released_files_are_pinned_and_have_sizes(mirror: Mirror) -> None:
    flow = HubFile(hub.FULL_BUNDLE, "ckpts/ss_flow_img_dit_1_3B_64_bf16.safetensors")
    assert flow.known_bytes == 2_584_426_920
    decoder = HubFile("microsoft/TRELLIS-image-large", "ckpts/ss_dec_conv3d_16l8_fp16.safetensors")
    assert (decoder.known_bytes, decoder.revision) == (147_591_972, "25e0d31ffbebe4b5a97464dd851910efc3002d96")
    assert replace(flow, commit=COMMIT).known_bytes is HubFile("owner/name", flow.name).known_bytes is None
    for repository, commit in hub.PINNED.items():
        with pytest.raises(TrellisError):
            download(HubFile(repository, "pipeline.json"))
        assert mirror.requests[-1].path == f"{repository}/resolve/{commit}/pipeline.json"


LARGE, SMALL = "ckpts/a.safetensors", "ckpts/a.json"
REFUSALS = [
    ((403, "GatedRepo"), "accept its licence.*https://huggingface.co/owner/name, log in with `hf auth login`"),
    ((401, "GatedRepo"), "accept its licence"),
    ((401, "RepoNotFound"), "no repository owner/name on the hub, or it is private"),
    ((404, "RevisionNotFound"), "no revision"),
    ((404, "EntryNotFound"), "owner/name has no file ckpts/a"),
    ((403, "Forbidden"), r"refuses this login for .*\(403\).*HF_TOKEN"),
    ((410, ""), r"it answered 410.*what arrived is kept"),
]


@pytest.mark.parametrize("name", [LARGE, SMALL])
@pytest.mark.parametrize(("answer", "sentence"), REFUSALS)
def test_refusals(mirror: Mirror, name: str, answer: tuple[int, str], sentence: str) -> None:
    mirror.faults.refused["owner/name"] = answer
    with pytest.raises(BundleError, match=sentence) as caught:
        download(HubFile("owner/name", name))
    assert str(caught.value).count(". ") >= 1
    assert not mirror.sent


@pytest.mark.parametrize("name", [LARGE, SMALL])
def test_a_mirror_that_is_none(mirror: Mirror, name: str) -> None:
    mirror.faults.no_hub = True
    with pytest.raises(BundleError, match=r"does not answer as the hub does\. Check HF_ENDPOINT"):
        download(HubFile("owner/name", name))


def test_a_hub_that_stays_busy(mirror: Mirror) -> None:
    mirror.faults.status["a.safetensors"] = 503
    with pytest.raises(BundleError, match=r"it answered 503.*Try again later"):
        download(FILE)
    assert len(mirror.asked("a.safetensors", "HEAD")) >= 3


def test_a_hub_that_is_busy_for_a_moment_is_asked_again(mirror: Mirror) -> None:
    mirror.faults.status["a.safetensors"] = 503
    threading.Timer(0.5, mirror.faults.status.clear).start()
    assert download(FILE).read_bytes() == original(mirror, FILE)


def test_no_hub_at_all(mirror: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    with pytest.raises(
        BundleError, match=r"the hub cannot be reached.*HF_ENDPOINT to a mirror, or choose the bundle mini"
    ):
        download(FILE)


def test_offline(mirror: Mirror, tmp_path: Path) -> None:
    """Said by the environment, as a user would: nothing is asked, and what is here is found."""
    home = {**os.environ, "HF_ENDPOINT": mirror.address, "HF_HOME": str(tmp_path / "home")}

    def run(name: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LOADER, str(CHUNK), FILE.repository, name]
        return subprocess.run(command, cwd=PROJECT_ROOT, env={**home, **more}, capture_output=True, text=True)

    for name in (LARGE, SMALL):
        sentence = run(name, HF_HUB_OFFLINE="1").stderr.strip().splitlines()[-1]
        assert f"{name} of owner/name is not on this machine, and HF_HUB_OFFLINE forbids" in sentence
        assert "Unset HF_HUB_OFFLINE" in sentence
        assert not mirror.requests
    path = run(LARGE).stdout
    asked = len(mirror.requests)
    assert run(LARGE, HF_HUB_OFFLINE="1").stdout == path
    assert len(mirror.requests) == asked


def test_a_disk_that_fills_up(mirror: Mirror) -> None:
    """The system's own answer: writing to /dev/full fails with ENOSPC."""
    unfinished = hub.remote(FILE).unfinished
    unfinished.parent.mkdir(parents=True)
    unfinished.symlink_to("/dev/full")
    with pytest.raises(MachineError, match=r"The disk is full: ckpts/a.safetensors of owner/name.*HF_HOME") as caught:
        download(FILE)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    unfinished.unlink()
    assert download(FILE).read_bytes() == original(mirror, FILE)


def test_a_disk_that_is_too_small_is_said_before(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=SIZE))
    with pytest.raises(MachineError, match=r"on the disk of .*Free some space"):
        list(fetching([FILE]))
    assert not mirror.sent


def test_a_login_is_shown_to_the_hub_alone(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    download(FILE)
    shown = {request.login for request in mirror.requests if "/resolve/" in request.path}
    assert shown == {"Bearer hf_secret"}
    assert {request.login for request in mirror.requests if request.path.startswith("stored/")} == {None}


def test_two_runs_at_once_download_once(mirror: Mirror) -> None:
    mirror.faults.pause["a.safetensors"] = 0.01
    found: list[Path] = []
    runs = [threading.Thread(target=lambda: found.append(download(FILE))) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert found[0] == found[1]
    assert mirror.sent["a.safetensors"] == SIZE


def test_progress_in_the_log(mirror: Mirror, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert fetched(FILE).read_bytes() == original(mirror, FILE)
    assert "owner/name: downloading the model, 0.0 of 1.3 MB (file 1 of 1: a.safetensors)" in caplog.text
