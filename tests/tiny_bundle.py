"""A bundle with the real classes, random weights and a 64³ grid: a second a run, for tests around the models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from trellis_app.models.registry import build_model

CHANNELS = 4  # of every latent
_SAMPLER = {"steps": 3, "guidance_strength": 2.0, "guidance_rescale": 0.5, "rescale_t": 3.0}
_FLOW = {
    "resolution": 4,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "model_channels": 32,
    "cond_channels": 32,
    "num_blocks": 1,
    "num_heads": 2,
}
_DECODER = {"model_channels": [32, 16, 16, 8, 8], "latent_channels": CHANNELS, "num_blocks": [1, 0, 0, 0, 0]}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "sparse_structure_flow_model": ("SparseStructureFlowModel", _FLOW),
    "sparse_structure_decoder": (
        "SparseStructureDecoder",
        {"latent_channels": CHANNELS, "num_res_blocks": 1, "num_res_blocks_middle": 1, "channels": [16]},
    ),
    "shape_slat_flow_model_64": ("SLatFlowModel", _FLOW),
    "shape_slat_decoder": ("FlexiDualGridVaeDecoder", _DECODER),
    "tex_slat_flow_model_64": ("SLatFlowModel", {**_FLOW, "in_channels": 2 * CHANNELS}),
    "tex_slat_decoder": ("SparseUnetVaeDecoder", {**_DECODER, "pred_subdiv": False}),
    "shape_slat_encoder": (
        "FlexiDualGridVaeEncoder",
        {"model_channels": [8, 8, 16, 16, 32], "latent_channels": CHANNELS, "num_blocks": [0, 0, 0, 0, 1]},
    ),
}
_PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "image_encoder": (
        "MiniImageEncoder",
        {"image_size": 64, "patch_size": 16, "width": 32, "depth": 1, "heads": 2},
    ),
    "matting": ("MattingUNet", {"image_size": 64, "widths": [8, 8]}),
}
_ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "shape_slat_encoder": (
        "FlexiDualGridVaeEncoder",
        {"model_channels": [8, 8, 16, 16, 32], "latent_channels": CHANNELS, "num_blocks": [0, 0, 0, 0, 1]},
    )
}


def write_tiny_bundle(folder: Path, *, seed: int = 0) -> Path:
    """Write pipeline.json and all checkpoints; the structure decoder fills about half of the cells."""
    torch.manual_seed(seed)
    for stem, (name, arguments) in {**MODELS, **_PARTS, **_ENCODERS}.items():
        _write_checkpoint(folder / "ckpts" / stem, name, arguments)
    part = {key: {"name": name, "args": {"model": f"ckpts/{key}"}} for key, (name, _) in _PARTS.items()}
    sampler = {"name": "FlowEulerGuidanceIntervalSampler", "args": {"sigma_min": 1e-5}, "params": _SAMPLER}
    normalization = {"mean": [0.0] * CHANNELS, "std": [1.0] * CHANNELS}
    document = {
        "name": "Trellis2ImageTo3DPipeline",
        "args": {
            "models": {key: f"ckpts/{key}" for key in (*MODELS, *_ENCODERS)},
            "sparse_structure_sampler": sampler,
            "shape_slat_sampler": sampler,
            "tex_slat_sampler": sampler,
            "shape_slat_normalization": normalization,
            "tex_slat_normalization": normalization,
            "image_cond_model": part["image_encoder"],
            "rembg_model": part["matting"],
            "default_pipeline_type": "64",
            "description": "Random weights, for tests.",
        },
    }
    (folder / "pipeline.json").write_text(json.dumps(document, indent=2))
    return folder


def _write_checkpoint(stem: Path, name: str, arguments: dict[str, Any]) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    module = build_model(name, arguments)
    for parameter in module.parameters():
        if not parameter.any():  # layers that training starts at zero would leave nothing to see
            torch.nn.init.normal_(parameter, std=0.2)
    weights = {key: value.detach().half().contiguous() for key, value in module.state_dict().items()}
    save_file(weights, stem.with_suffix(".safetensors"))
    stem.with_suffix(".json").write_text(json.dumps({"name": name, "args": arguments}))
