"""The benchmark of loading at a tiny size, and at full size the bytes of the smallest released file."""

import json
import mmap
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trellis_app import bench_loading, released
from trellis_app.errors import MachineError, SettingsError

CPU = torch.device("cpu")
TINY = {"model_channels": 48, "cond_channels": 32, "num_blocks": 1, "num_heads": 3, "resolution": 8, "mlp_ratio": 2.0}
TINY_DECODER = {"model_channels": [32, 32, 16, 16, 16], "num_blocks": [0, 0, 0, 0, 0]}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, released.Checkpoint]:
    """The released bundle with narrow models of unpublished sizes."""

    def shrunk(checkpoint: released.Checkpoint) -> released.Checkpoint:
        if "Flow" in checkpoint.name:
            narrow = TINY
        elif checkpoint.name == "SparseStructureDecoder":
            narrow = {"channels": [8, 4, 4]}
        else:
            narrow = TINY_DECODER
        return replace(checkpoint, args={**checkpoint.args, **narrow}, file_bytes=None)

    found = {key: shrunk(checkpoint) for key, checkpoint in released.CHECKPOINTS.items()}
    for module in (released, bench_loading):
        monkeypatch.setattr(module, "CHECKPOINTS", found)
    return found


def test_cold_and_warm_loading(tiny: dict[str, released.Checkpoint], tmp_path: Path) -> None:
    report = bench_loading.bench_loading("512", CPU, tmp_path)
    assert not list(tmp_path.iterdir())
    assert "tex_slat_flow_model_512" in report["files"]
    assert not any("1024" in key for key in report["files"])
    assert set(report["seconds"]) == {"cold disk", "page cache"}
    for run in report["runs"]:
        assert set(run["seconds"]) == set(report["files"])
        assert run["device_gb"] > report["files_gb"] * 1.5  # float32 on a CPU, stored in half precision
        assert run["peak_private_gb"] is None or 0 <= run["peak_private_gb"] <= run["peak_memory_gb"] + 0.05
    assert "512:" in bench_loading.table(json.loads(json.dumps(report)))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_of_its_own_is_told_from_pages_of_files(tmp_path: Path) -> None:
    file, size = tmp_path / "pages", 64 << 20
    file.write_bytes(bytes(size))
    with (
        bench_loading.private_peak() as of_file,
        file.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as pages,
    ):
        assert pages.find(b"x") < 0  # reads them all
        time.sleep(4 * bench_loading.LOOK)
    fresh = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # what is freed may be kept and used again
    with bench_loading.private_peak() as own, fresh:
        fresh.write(b"x" * size)
        time.sleep(4 * bench_loading.LOOK)
    assert max(of_file) < size / 2
    assert max(own) > 0.9 * size


def test_only_some_models(tiny: dict[str, released.Checkpoint], tmp_path: Path) -> None:
    report = bench_loading.bench_loading("512", CPU, tmp_path, only=["sparse_structure_decoder"])
    assert list(report["files"]) == ["sparse_structure_decoder"]


def test_an_unknown_resolution() -> None:
    with pytest.raises(SettingsError, match="no resolution '7'"):
        bench_loading.models_of("7")


def test_another_size_than_published_is_refused(tiny: dict[str, released.Checkpoint], tmp_path: Path) -> None:
    tiny["shape_slat_decoder"] = replace(tiny["shape_slat_decoder"], file_bytes=7)
    with pytest.raises(MachineError, match="published are 7"):
        bench_loading.write_random_bundle(tmp_path, ["shape_slat_decoder"], CPU)


def test_size_of_a_released_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The structure decoder's file of mixed precision, to the byte."""
    released.write_descriptions(tmp_path)
    target = tmp_path / "decoder.safetensors"
    state = bench_loading.random_state(tmp_path / "ckpts" / "ss_dec_conv3d_16l8_fp16.json", CPU)
    bench_loading.save_file(state, target)
    assert target.stat().st_size == 147_591_972
