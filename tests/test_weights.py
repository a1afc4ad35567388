"""Full-size checkpoints by count of keys and parameters, and every way a bundle can be wrong."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.released_keys import RELEASED
from trellis_app.errors import BundleError
from trellis_app.manifest import read_manifest
from trellis_app.models.registry import build_model
from trellis_app.released import CHECKPOINTS, ENCODERS
from trellis_app.settings import PROJECT_ROOT
from trellis_app.weights import load_bundle, load_checkpoint, resolve_source

ALL = {**CHECKPOINTS, **ENCODERS}


def full_size(key: str) -> nn.Module:
    with torch.device("meta"):
        return build_model(ALL[key].name, ALL[key].args)


@pytest.mark.parametrize("key", ALL)
def test_full_size(key: str) -> None:
    """Keys, shapes and parameters of spec/models.md; the file's size follows from them and the stored precision."""
    checkpoint, state = ALL[key], full_size(key).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == RELEASED[key]
    assert len(state) == checkpoint.keys
    assert sum(tensor.numel() for tensor in state.values()) == checkpoint.parameters
    if checkpoint.file_bytes is not None:
        header = checkpoint.file_bytes - 2 * checkpoint.parameters  # the structure decoder keeps some in float32
        assert 80 * checkpoint.keys < header < (300_000 if key == "sparse_structure_decoder" else 140 * checkpoint.keys)


@pytest.mark.parametrize(
    ("key", "half"), [("sparse_structure_flow_model", torch.bfloat16), ("sparse_structure_decoder", torch.float16)]
)
def test_precision_on_a_gpu(key: str, half: torch.dtype) -> None:
    model = full_size(key)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    model.set_precision(model.params.torso_dtype)
    kept = {name for name, tensor in model.state_dict().items() if tensor.dtype == torch.float32}
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32, half}
    torso = ("blocks.", "middle_block.")
    assert all(not name.startswith(torso) or "norm" in name or name.endswith("modulation") for name in kept)


def write_checkpoint(stem: Path, model: nn.Module, name: str, args: Mapping[str, Any], dtype: torch.dtype) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_name(stem.name + ".json").write_text(json.dumps({"name": name, "args": dict(args)}))
    state = {key: tensor.detach().to(dtype).contiguous() for key, tensor in model.state_dict().items()}
    save_file(state, stem.with_name(stem.name + ".safetensors"))


SMALL = {
    "resolution": 4, "in_channels": 4, "out_channels": 4, "model_channels": 24, "cond_channels": 8, "num_blocks": 1,
    "num_heads": 2, "mlp_ratio": 2.0, "dtype": "bfloat16",
}  # fmt: skip


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    torch.manual_seed(0)
    write_checkpoint(tmp_path / "flow", build_model("SLatFlowModel", SMALL), "SLatFlowModel", SMALL, torch.float16)
    return tmp_path / "flow.json", tmp_path / "flow.safetensors"


def test_loading_on_a_cpu_is_float32(pair: tuple[Path, Path]) -> None:
    model = load_checkpoint(*pair)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    torch.manual_seed(0)
    source = build_model("SLatFlowModel", SMALL).state_dict()
    assert all(torch.equal(tensor, source[key].half().float()) for key, tensor in model.state_dict().items())


MEASURED = """
import json, sys
from pathlib import Path
from trellis_app.bench_loading import fresh_peak, peak_bytes
from trellis_app.settings import PROJECT_ROOT
from trellis_app.weights import load_checkpoint
before = fresh_peak()
model = load_checkpoint(Path(sys.argv[1] + ".json"), Path(sys.argv[1] + ".safetensors"), device=sys.argv[2], home="cpu")
for parameter in model.parameters():
    parameter.view(-1).sum()
sizes = {str(parameter.dtype): 0 for parameter in model.parameters()}
for parameter in model.parameters():
    sizes[str(parameter.dtype)] += parameter.nbytes
print(json.dumps([peak_bytes() - before, sizes]))
"""


@pytest.mark.parametrize(("stored", "device"), [(torch.float32, "cpu"), (torch.bfloat16, "cuda")])
def test_loading_makes_no_second_copy(stored: torch.dtype, device: str, tmp_path: Path) -> None:
    """A large checkpoint takes its own size of main memory, mapped, until it goes to a GPU in its own precision."""
    large = {**SMALL, "model_channels": 1024, "cond_channels": 512, "num_blocks": 16, "num_heads": 8, "mlp_ratio": 4.0}
    with torch.device("meta"):
        model = build_model("SLatFlowModel", large)
    write_checkpoint(tmp_path / "flow", model.to_empty(device="cpu"), "SLatFlowModel", large, stored)
    file_bytes = (tmp_path / "flow.safetensors").stat().st_size
    assert file_bytes > 400e6
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "flow"), device]
    peak, sizes = json.loads(subprocess.run(command, cwd=PROJECT_ROOT, check=True, capture_output=True).stdout)
    assert peak < 1.3 * file_bytes
    assert sizes.get("torch.float32", 0) < (1.01 if stored == torch.float32 else 0.2) * file_bytes
    if device == "cuda":
        assert sizes["torch.bfloat16"] > 0.85 * file_bytes


def rewrite(path: Path, change: Any) -> None:
    from safetensors.torch import load_file

    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_every_misfit_is_named(pair: tuple[Path, Path]) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["out_layer.bias"], tensors["blocks.0.modulation"]
        tensors["blocks.9.modulation"] = torch.zeros(3)
        tensors["input_layer.bias"] = torch.zeros(23)

    rewrite(pair[1], change)
    with pytest.raises(BundleError) as caught:
        load_checkpoint(*pair)
    message = str(caught.value)
    assert "missing: blocks.0.modulation, out_layer.bias" in message
    assert "not expected: blocks.9.modulation" in message
    assert "input_layer.bias [23] instead of [24]" in message


def test_recomputed_buffer_is_tolerated(pair: tuple[Path, Path]) -> None:
    rewrite(pair[1], lambda tensors: tensors.update(rope_phases=torch.zeros(64, 6)))
    load_checkpoint(*pair)


@pytest.mark.parametrize("keep", [0, 4, 200, -10])
def test_truncated_file(pair: tuple[Path, Path], keep: int) -> None:
    pair[1].write_bytes(pair[1].read_bytes()[:keep])
    with pytest.raises(BundleError, match="damaged or incomplete"):
        load_checkpoint(*pair)


@pytest.mark.parametrize(
    "text", ["", "{", '{"name": "Nothing", "args": {}}', '{"args": {}}', '{"name": "SLatFlowModel", "args": {"x": 1}}']
)
def test_broken_description(pair: tuple[Path, Path], text: str) -> None:
    pair[0].write_text(text)
    with pytest.raises(BundleError, match="does not describe a model"):
        load_checkpoint(*pair)


def pipeline_json(models: Mapping[str, str], default: str) -> dict[str, Any]:
    sampler = {
        "name": "FlowEulerGuidanceIntervalSampler",
        "args": {"sigma_min": 1e-5},
        "params": {"steps": 12, "guidance_strength": 7.5, "guidance_rescale": 0.7, "guidance_interval": [0.6, 1.0],
                   "rescale_t": 5.0},
    }  # fmt: skip
    channels = {"mean": [0.5, -1.0], "std": [2.0, 4.0]}
    args = {
        "models": dict(models),
        "sparse_structure_sampler": sampler, "shape_slat_sampler": sampler, "tex_slat_sampler": sampler,
        "shape_slat_normalization": channels, "tex_slat_normalization": channels,
        "image_cond_model": {"name": "DinoV3FeatureExtractor", "args": {"model_name": "facebook/dinov3"}},
        "rembg_model": {"name": "BiRefNet", "args": {"model_name": "briaai/RMBG-2.0"}},
        "default_pipeline_type": default,
    }  # fmt: skip
    return {"name": "Trellis2ImageTo3DPipeline", "args": args}


def model_keys(*sides: int) -> dict[str, str]:
    keys = ["sparse_structure_flow_model", "sparse_structure_decoder", "shape_slat_decoder", "tex_slat_decoder"]
    keys += [f"{stage}_slat_flow_model_{side}" for stage in ("shape", "tex") for side in sides]
    return {key: f"ckpts/{key}" for key in keys}


def write_manifest(folder: Path, document: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "pipeline.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_manifest_of_the_released_bundle(tmp_path: Path) -> None:
    manifest = read_manifest(write_manifest(tmp_path, pipeline_json(model_keys(512, 1024), "1024_cascade")))
    assert list(manifest.presets) == ["512", "1024", "1024_cascade", "1536_cascade"]
    cells = {name: (p.structure_cells, p.resolution, p.material) for name, p in manifest.presets.items()}
    assert cells == {
        "512": (32, 512, 512), "1024": (64, 1024, 1024),
        "1024_cascade": (32, 1024, 1024), "1536_cascade": (32, 1536, 1024),
    }  # fmt: skip
    assert {name: len(preset.models) for name, preset in manifest.presets.items()} == {
        "512": 6, "1024": 6, "1024_cascade": 7, "1536_cascade": 7,
    }  # fmt: skip
    assert "tex_slat_flow_model_512" not in manifest.presets["1024_cascade"].models
    assert manifest.structure_sampler.guidance_interval == (0.6, 1.0)
    assert manifest.structure_sampler.sigma_min == 1e-5
    assert manifest.image_cond_model.args["model_name"] == "facebook/dinov3"


def test_manifest_of_a_small_bundle(tmp_path: Path) -> None:
    document = pipeline_json(model_keys(256), "256")
    del document["args"]["rembg_model"]
    manifest = read_manifest(write_manifest(tmp_path, document))
    assert list(manifest.presets) == ["256"]
    assert manifest.presets["256"].structure_cells == 16
    assert manifest.rembg_model is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda args: args.pop("tex_slat_sampler"), "tex_slat_sampler"),
        (lambda args: args["models"].pop("shape_slat_decoder"), "shape_slat_decoder"),
        (lambda args: args.update(default_pipeline_type="2048"), "2048"),
        (lambda args: args["shape_slat_normalization"].update(std=[1.0]), "2 means, 1 standard"),
        (lambda args: args["shape_slat_sampler"]["params"].update(stepps=4), "stepps"),
        (lambda args: args["models"].pop("tex_slat_flow_model_256"), "256"),
    ],
)
def test_broken_manifest(tmp_path: Path, change: Any, message: str) -> None:
    document = pipeline_json(model_keys(256), "256")
    change(document["args"])
    with pytest.raises(BundleError, match=message):
        read_manifest(write_manifest(tmp_path, document))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"args": 3}'])
def test_manifest_that_is_no_manifest(tmp_path: Path, text: str) -> None:
    with pytest.raises(BundleError):
        read_manifest(write_manifest(tmp_path, text))


def test_bundle_of_a_folder(tmp_path: Path) -> None:
    document = pipeline_json({**model_keys(256), "shape_slat_flow_model_256": "ckpts/flow"}, "256")
    document["args"]["image_cond_model"] = {"name": "MiniImageEncoder", "args": {"model": "ckpts/flow"}}
    write_manifest(tmp_path / "small", document)
    flow = build_model("SLatFlowModel", SMALL)
    write_checkpoint(tmp_path / "small" / "ckpts" / "flow", flow, "SLatFlowModel", SMALL, torch.float16)
    bundle = load_bundle(tmp_path / "small")
    assert bundle.name == bundle.description == "small"
    model = bundle.model("shape_slat_flow_model_256")
    assert bundle.model("shape_slat_flow_model_256") is model
    assert bundle.part(bundle.config.image_cond_model) is model
    assert bundle.weight_bytes("shape_slat_flow_model_256", "cpu") == 4 * sum(p.numel() for p in flow.parameters())
    with pytest.raises(BundleError, match="no model shape_slat_encoder"):
        bundle.model("shape_slat_encoder")
    with pytest.raises(BundleError, match="no file"):
        bundle.model("tex_slat_decoder")


@pytest.mark.parametrize("name", ["nothing-here", "a/b/c", "", "/no/such/folder"])
def test_unknown_bundle(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError):
        load_bundle(name or tmp_path / "missing")


def test_auto_without_a_gpu_is_mini() -> None:
    assert resolve_source("auto", torch.device("cpu")) == "mini"
    assert resolve_source("some/where", torch.device("cpu")) == "some/where"
