"""From a run folder to a bundle in the format of the released one: pipeline.json, ckpts/, and a model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trellis_app.errors import BundleError
from trellis_app.manifest import read_manifest
from trellis_app.settings import SamplerSettings
from trellis_app.training.checkpoints import load_network, save_network
from trellis_app.training.configs import MATERIAL, SHAPE, STRUCTURE, Sizes
from trellis_app.training.generation import MINI_SAMPLERS, Samplers
from trellis_app.training.latents import NORMALISATION_FILE
from trellis_app.training.model_card import model_card

MAX_FILE_BYTES = 16 * 2**20
SAMPLERS_FILE = "samplers.json"
PIPELINE_NAME = "Trellis2ImageTo3DPipeline"
SAMPLER_NAME = "FlowEulerGuidanceIntervalSampler"


def model_keys(resolution: int) -> dict[str, str]:
    """Key in pipeline.json of each role."""
    return {
        "sparse_structure_flow_model": "structure_flow",
        "sparse_structure_decoder": "structure_decoder",
        "sparse_structure_encoder": "structure_encoder",
        f"shape_slat_flow_model_{resolution}": "shape_flow",
        "shape_slat_decoder": "shape_decoder",
        "shape_slat_encoder": "shape_encoder",
        f"tex_slat_flow_model_{resolution}": "material_flow",
        "tex_slat_decoder": "material_decoder",
        "tex_slat_encoder": "material_encoder",
    }


def export_bundle(family: Sizes, out: Path, bundle: Path, *, credits_file: Path | None = None) -> None:
    """Write the bundle of the run in `out` to the folder `bundle`; an earlier bundle there is overwritten.

    Raises BundleError where a network is missing or a file is too large to ship.
    """
    weights, ckpts = out / "weights", bundle / "ckpts"
    normalisation = json.loads((weights / NORMALISATION_FILE).read_text(encoding="utf-8"))
    scale = torch.tensor(normalisation[STRUCTURE]["std"], dtype=torch.float32)
    counts: dict[str, int] = {}
    for role, spec in family.networks.items():
        if role == "matting" and not (weights / "matting.safetensors").is_file():
            continue
        network = load_network(spec, weights / role)
        if role == "structure_decoder":
            scale_decoder_input(network, scale)
        elif role == "structure_encoder":
            scale_encoder_output(network, scale)
        save_network(network, spec, ckpts / role)
        counts[role] = sum(p.numel() for p in network.parameters())
        size = (ckpts / f"{role}.safetensors").stat().st_size
        if size >= MAX_FILE_BYTES:
            raise BundleError(f"{role} takes {size} bytes.", f"Make it smaller than {MAX_FILE_BYTES} bytes.")
    samplers = read_samplers(out / SAMPLERS_FILE)
    document = pipeline_document(family, normalisation, samplers, matting="matting" in counts)
    (bundle / "pipeline.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (bundle / "README.md").write_text(model_card(family, counts, out, credits_file), encoding="utf-8")


def unpack_bundle(family: Sizes, bundle: Path, out: Path) -> None:
    """The reverse of `export_bundle`: a run folder whose training goes on from a bundle (`--warm-start <out>/weights`).

    The scale of the structure latent was folded into the exported networks, so it is 1 here.
    """
    weights = out / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    for role in family.networks:
        for ending in (".json", ".safetensors"):
            path = bundle / "ckpts" / f"{role}{ending}"
            if path.is_file():
                shutil.copyfile(path, weights / path.name)
    manifest = read_manifest(bundle / "pipeline.json")
    channels = family["structure_flow"].args["in_channels"]
    normalisation = {
        STRUCTURE: {"mean": [0.0] * channels, "std": [1.0] * channels},
        SHAPE: asdict(manifest.shape_normalization),
        MATERIAL: asdict(manifest.material_normalization),
    }
    (weights / NORMALISATION_FILE).write_text(json.dumps(normalisation, indent=1) + "\n", encoding="utf-8")


def pipeline_document(
    family: Sizes, normalisation: dict[str, Any], samplers: Samplers, *, matting: bool
) -> dict[str, Any]:
    """What pipeline.json says (spec/models.md 1.2)."""
    side = str(family.resolution)
    args: dict[str, Any] = {
        "models": {key: f"ckpts/{role}" for key, role in model_keys(family.resolution).items()},
        "sparse_structure_sampler": sampler_block(samplers.structure),
        "shape_slat_sampler": sampler_block(samplers.shape),
        "shape_slat_normalization": rounded(normalisation[SHAPE]),
        "tex_slat_sampler": sampler_block(samplers.material),
        "tex_slat_normalization": rounded(normalisation[MATERIAL]),
        "image_cond_model": {"name": "MiniImageEncoder", "args": {"model": "ckpts/image_encoder"}},
        "default_pipeline_type": side,
        "description": f"small bundle, {side}³ voxels, runs without a GPU",
    }
    if matting:
        args["rembg_model"] = {"name": "MattingUNet", "args": {"model": "ckpts/matting"}}
    return {"name": PIPELINE_NAME, "args": args}


def sampler_block(settings: SamplerSettings) -> dict[str, Any]:
    """One sampler as pipeline.json stores it."""
    params = asdict(settings)
    sigma = params.pop("sigma_min")
    params["guidance_interval"] = list(settings.guidance_interval)
    return {"name": SAMPLER_NAME, "args": {"sigma_min": sigma}, "params": params}


def rounded(statistics: dict[str, list[float]]) -> dict[str, list[float]]:
    """Mean and standard deviation with six decimals."""
    return {key: [round(value, 6) for value in statistics[key]] for key in ("mean", "std")}


def write_samplers(path: Path, samplers: Mapping[str, SamplerSettings]) -> None:
    """Store the samplers by stage that a sweep found best."""
    path.write_text(json.dumps({stage: asdict(s) for stage, s in samplers.items()}, indent=2) + "\n", encoding="utf-8")


def read_samplers(path: Path) -> Samplers:
    """Samplers of `write_samplers`; the defaults for stages it lacks, or where there is no such file."""
    if not path.is_file():
        return MINI_SAMPLERS
    stored = json.loads(path.read_text(encoding="utf-8"))
    for block in stored.values():
        block["guidance_interval"] = tuple(block["guidance_interval"])
    return replace(MINI_SAMPLERS, **{stage: SamplerSettings(**block) for stage, block in stored.items()})


@torch.no_grad()
def scale_decoder_input(decoder: nn.Module, scale: torch.Tensor) -> None:
    """Let a structure decoder take latents divided by `scale` [C]; exact, as zero padding stays zero."""
    decoder.input_layer.weight.mul_(scale.view(1, -1, 1, 1, 1))  # type: ignore[union-attr,operator]


@torch.no_grad()
def scale_encoder_output(encoder: nn.Module, scale: torch.Tensor) -> None:
    """Let a structure encoder give the mean and log variance of its latent divided by `scale` [C]."""
    layer: nn.Conv3d = encoder.out_layer[2]  # type: ignore[index,assignment]
    assert layer.bias is not None
    channels = len(scale)
    layer.weight[:channels].div_(scale.view(-1, 1, 1, 1, 1))
    layer.bias[:channels].div_(scale)
    layer.bias[channels:].sub_(2 * scale.log())
