"""Every recipe at tiny size, end to end, from procedural objects to a measured bundle."""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from trellis_app.manifest import read_manifest
from trellis_app.training.commands import add_evaluate_parser, add_train_parser
from trellis_app.training.journal import read_journal
from trellis_app.training.latents import HELD_OUT_FILE, read_latents, shard_files
from trellis_app.training.library import Library, pack
from trellis_app.training.shapes import random_object
from trellis_app.weights import load_bundle

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    add_train_parser(commands)
    add_evaluate_parser(commands)
    options = parser.parse_args(list(arguments))
    return int(options.run(options))


def write_library(path: Path, count: int) -> Path:
    library: Library = pack([random_object(np.random.default_rng(i)) for i in range(count)])
    scaled = (np.clip(library.vertices, -0.5, 0.5) + 0.5) * 65535
    arrays = {k: getattr(library, k) for k in ("names", "vertex_offsets", "face_offsets", "corner_rgba", "metal_rough")}
    np.savez(path, **arrays, vertices=scaled.round().astype(np.uint16), faces=library.faces.astype(np.uint16))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder after all recipes; `library.npz` lies beside it."""
    out = tmp_path_factory.mktemp("run")
    library = str(write_library(out / "library.npz", 12))
    shared = ("--size", "tiny", "--out", str(out), "--device", "cpu")
    source = ("--library", library, "--workers", "1")
    steps = ("--log-every", "2", "--validations", "0")
    half = ("--steps", "4", "--voxels-per-step", "15000", *steps)
    assert command("train", "autoencoders", *shared, *source, *half) == 0
    assert command("train", "latents", *shared, *source, "--samples", "16", "--shard", "8", "--calibration", "8",
                   "--held-out", "4") == 0  # fmt: skip
    assert command("train", "flows", *shared, "--batch", "4", "--warm-shards", "1", "--steps", "4", *steps) == 0
    assert command("train", "matting", *shared, *source, "--batch", "4", "--steps", "4", *steps) == 0
    assert command("train", "sweep", "--size", "tiny", "--out", str(out), "--device", "cpu", "--pictures", "1",
                   "--steps", "1") == 0  # fmt: skip
    assert command("train", "export", "--size", "tiny", "--out", str(out), "--bundle", str(out / "bundle")) == 0
    return out


def test_journals_tell_every_step_and_the_last_validation(run: Path) -> None:
    for recipe, measure in (("autoencoders", "point_f1"), ("flows", "cell_iou"), ("matting", "baseline_iou")):
        lines = read_journal(run / f"{recipe}.jsonl")
        assert [line["step"] for line in lines if line["kind"] == "step"] == [2, 4]
        assert lines[-1]["kind"] == "validation"
        assert np.isfinite(lines[-1][measure])
        assert all(line["broken"] == 0 for line in lines if line["kind"] == "step")
        assert (run / recipe / "validation.png").is_file()


def test_latent_shards_hold_whole_samples(run: Path) -> None:
    shards = [read_latents(path) for path in shard_files(run / "latents")]
    assert [len(shard) for shard in shards] == [8, 8, 8]
    for shard in [*shards, read_latents(run / "latents" / HELD_OUT_FILE)]:
        assert shard.offsets[-1] == len(shard.coords) == len(shard.shape) == len(shard.material)
        assert shard.coords.max() < 4  # 64 voxels / 16
        assert np.isfinite(shard.shape.astype(np.float32)).all()
        for a, b in zip(shard.offsets[:-1], shard.offsets[1:], strict=True):
            rows = [tuple(c) for c in shard.coords[a:b].tolist()]
            assert rows == sorted(set(rows))


def test_resumed_training_continues_at_its_step(run: Path) -> None:
    before = read_journal(run / "flows.jsonl")
    arguments = ("--size", "tiny", "--out", str(run), "--device", "cpu", "--batch", "4", "--warm-shards", "1")
    command("train", "flows", *arguments, "--steps", "4", "--log-every", "1", "--validations", "0")
    after = read_journal(run / "flows.jsonl")[len(before) :]
    assert [line["kind"] for line in after] == ["validation"]  # the schedule was complete: only measured again
    assert after[0]["step"] == 4
    assert after[0]["held_out_total"] == pytest.approx(before[-1]["held_out_total"], rel=1e-4)


def test_bundle_opens_strictly_and_names_everything(run: Path) -> None:
    bundle = load_bundle(run / "bundle")
    manifest = read_manifest(run / "bundle" / "pipeline.json")
    assert manifest.default_preset == "64"
    for key in manifest.models:
        assert all(p.dtype == torch.float32 for p in bundle.model(key).parameters())
    assert manifest.rembg_model is not None
    bundle.part(manifest.image_cond_model)
    bundle.part(manifest.rembg_model)
    card = (run / "bundle" / "README.md").read_text(encoding="utf-8")
    assert "4 steps" in card
    assert "structure_flow" in card


def test_structure_scale_is_folded_into_the_exported_networks(run: Path) -> None:
    from trellis_app.training.checkpoints import load_network
    from trellis_app.training.configs import TINY

    bundle = load_bundle(run / "bundle")
    stored = json.loads((run / "weights" / "normalisation.json").read_text(encoding="utf-8"))
    scale = torch.tensor(stored["structure"]["std"]).view(-1, 1, 1, 1)
    encoder = load_network(TINY["structure_encoder"], run / "weights" / "structure_encoder")
    decoder = load_network(TINY["structure_decoder"], run / "weights" / "structure_decoder")
    occupied = (torch.rand(2, 1, 4, 4, 4) > 0.5).float()
    raw, folded = encoder(occupied), bundle.model("sparse_structure_encoder")(occupied)
    torch.testing.assert_close(folded.mean, raw.mean / scale, rtol=5e-3, atol=5e-3)
    torch.testing.assert_close(folded.logvar, raw.logvar - 2 * scale.log(), rtol=5e-3, atol=5e-3)
    logits = bundle.model("sparse_structure_decoder")(folded.mean)
    torch.testing.assert_close(logits, decoder(raw.mean), rtol=2e-2, atol=2e-2)


def test_an_unpacked_bundle_exports_to_the_same_bundle(run: Path, tmp_path: Path) -> None:
    shared = ("--size", "tiny", "--out", str(tmp_path))
    assert command("train", "unpack", *shared, "--bundle", str(run / "bundle")) == 0
    shutil.copy(run / "samplers.json", tmp_path)
    assert command("train", "export", *shared, "--bundle", str(tmp_path / "bundle")) == 0
    first, second = ((folder / "bundle") for folder in (run, tmp_path))
    assert (first / "pipeline.json").read_text() == (second / "pipeline.json").read_text()
    for path in sorted((first / "ckpts").iterdir()):
        assert path.read_bytes() == (second / "ckpts" / path.name).read_bytes(), path.name


def test_evaluation_prints_a_table_and_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    library = str(run / "library.npz")
    both = ("--library", library, "--train-library", library)
    command("evaluate", "--bundle", str(run / "bundle"), *both, "--limit", "2",
            "--views", "1", "--workers", "1", "--device", "cpu", "--sheet", str(run / "sheet.jpg"))  # fmt: skip
    measures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert measures["objects"] == 2
    for kind in ("generation", "nearest", "random"):
        assert 0 <= measures[f"{kind}_f_005"] <= 1
        assert 0 <= measures[f"{kind}_iou"] <= 1
    assert 0 <= measures["reconstruction_f1"] <= 1
    assert (run / "sheet.jpg").is_file()


def test_two_processes_train_together(run: Path, tmp_path: Path) -> None:
    for folder in ("weights", "latents"):
        shutil.copytree(run / folder, tmp_path / folder)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["train", "flows", "--size", "tiny", "--out", str(tmp_path), "--device", "cpu", "--batch", "2",
                 "--warm-shards", "1", "--steps", "2", "--log-every", "1", "--validations", "0"]  # fmt: skip
    done = subprocess.run(
        [*launcher, "-m", "trellis_app", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = read_journal(tmp_path / "flows.jsonl")  # written by the first process only
    assert [line["kind"] for line in lines] == ["step", "step", "validation"]
