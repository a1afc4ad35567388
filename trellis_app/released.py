"""The released 4B bundle (`microsoft/TRELLIS.2-4B`) as facts: its checkpoints, samplers and normalisation.

Nothing here is needed to run it: the bundle's own files say the same. The benchmark builds models of this size with
random weights, `doctor` compares sizes, and the tests compare keys and parameter counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STRUCTURE_REPOSITORY = "microsoft/TRELLIS-image-large"
_FLOW = {
    "model_channels": 1536, "cond_channels": 1024, "num_blocks": 30, "num_heads": 12, "mlp_ratio": 5.3334,
    "pe_mode": "rope", "share_mod": True, "initialization": "scaled", "qk_rms_norm": True, "qk_rms_norm_cross": True,
    "dtype": "bfloat16",
}  # fmt: skip
_DECODER = {
    "model_channels": [1024, 512, 256, 128, 64], "latent_channels": 32, "num_blocks": [4, 16, 8, 4, 0],
    "block_type": ["SparseConvNeXtBlock3d"] * 5, "up_block_type": ["SparseResBlockC2S3d"] * 4,
    "block_args": [{}] * 5, "use_fp16": True,
}  # fmt: skip
_ENCODER = {
    "model_channels": [64, 128, 256, 512, 1024], "latent_channels": 32, "num_blocks": [0, 4, 8, 16, 4],
    "block_type": ["SparseConvNeXtBlock3d"] * 5, "down_block_type": ["SparseResBlockS2C3d"] * 4,
    "block_args": [{"use_checkpoint": True}] * 5, "use_fp16": True,
}  # fmt: skip
_STRUCTURE = {"latent_channels": 8, "num_res_blocks": 2, "num_res_blocks_middle": 2, "use_fp16": True}


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint pair."""

    stem: str  # path without endings; beginning with owner/name where it lies in another repository
    name: str  # the class its JSON names
    args: Mapping[str, Any]
    keys: int
    parameters: int
    file_bytes: int | None  # of the .safetensors, where published

    @property
    def description(self) -> dict[str, Any]:
        """The content of its JSON."""
        return {"name": self.name, "args": dict(self.args)}


def _flow(stem: str, name: str, size: tuple[int, int, int], parameters: int, file_bytes: int) -> Checkpoint:
    side, inputs, outputs = size
    args = {**_FLOW, "resolution": side, "in_channels": inputs, "out_channels": outputs}
    return Checkpoint(f"ckpts/{stem}", name, args, 640, parameters, file_bytes)


_SHAPE, _MATERIAL = (1_292_253_728, 2_584_574_424), (1_292_302_880, 2_584_672_728)
CHECKPOINTS: Mapping[str, Checkpoint] = {
    "sparse_structure_decoder": Checkpoint(
        f"{STRUCTURE_REPOSITORY}/ckpts/ss_dec_conv3d_16l8_fp16", "SparseStructureDecoder",
        {**_STRUCTURE, "out_channels": 1, "channels": [512, 128, 32]}, 74, 73_671_201, 147_591_972,
    ),
    "sparse_structure_flow_model": _flow(
        "ss_flow_img_dit_1_3B_64_bf16", "SparseStructureFlowModel", (16, 8, 8), 1_292_179_976, 2_584_426_920
    ),
    "shape_slat_decoder": Checkpoint(
        "ckpts/shape_dec_next_dc_f16c32_fp16", "FlexiDualGridVaeDecoder",
        {**_DECODER, "resolution": 256}, 292, 474_231_463, 948_490_494,
    ),
    "shape_slat_flow_model_512": _flow("slat_flow_img2shape_dit_1_3B_512_bf16", "SLatFlowModel", (32, 32, 32), *_SHAPE),
    "shape_slat_flow_model_1024": _flow(
        "slat_flow_img2shape_dit_1_3B_1024_bf16", "SLatFlowModel", (64, 32, 32), *_SHAPE
    ),
    "tex_slat_decoder": Checkpoint(
        "ckpts/tex_dec_next_dc_f16c32_fp16", "SparseUnetVaeDecoder",
        {**_DECODER, "out_channels": 6, "pred_subdiv": False}, 284, 474_216_006, 948_458_812,
    ),
    "tex_slat_flow_model_512": _flow(
        "slat_flow_imgshape2tex_dit_1_3B_512_bf16", "SLatFlowModel", (32, 64, 32), *_MATERIAL
    ),
    "tex_slat_flow_model_1024": _flow(
        "slat_flow_imgshape2tex_dit_1_3B_1024_bf16", "SLatFlowModel", (64, 64, 32), *_MATERIAL
    ),
}  # fmt: skip
ENCODERS: Mapping[str, Checkpoint] = {  # not loaded to make assets from pictures
    "shape_slat_encoder": Checkpoint(
        "ckpts/shape_enc_next_dc_f16c32_fp16", "FlexiDualGridVaeEncoder", _ENCODER, 284, 354_385_392, None
    ),
    "tex_slat_encoder": Checkpoint(
        "ckpts/tex_enc_next_dc_f16c32_fp16", "SparseUnetVaeEncoder", {**_ENCODER, "in_channels": 6}, 284, 354_385_392,
        None,
    ),
    "sparse_structure_encoder": Checkpoint(
        f"{STRUCTURE_REPOSITORY}/ckpts/ss_enc_conv3d_16l8_fp16", "SparseStructureEncoder",
        {**_STRUCTURE, "in_channels": 1, "channels": [32, 128, 512]}, 74, 59_298_192, None,
    ),
}  # fmt: skip


def _sampler(strength: float, rescale: float, interval: tuple[float, float], rescale_t: float) -> dict[str, Any]:
    params = {
        "steps": 12, "guidance_strength": strength, "guidance_rescale": rescale, "guidance_interval": list(interval),
        "rescale_t": rescale_t,
    }  # fmt: skip
    return {"name": "FlowEulerGuidanceIntervalSampler", "args": {"sigma_min": 1e-5}, "params": params}


def manifest(models: Mapping[str, str]) -> dict[str, Any]:
    """The document of the released `pipeline.json` for models at these stems, normalisation by mean 0, spread 1."""
    plain = {"mean": [0.0] * 32, "std": [1.0] * 32}
    args = {
        "models": dict(models),
        "sparse_structure_sampler": _sampler(7.5, 0.7, (0.6, 1.0), 5.0),
        "shape_slat_sampler": _sampler(7.5, 0.5, (0.6, 1.0), 3.0),
        "tex_slat_sampler": _sampler(1.0, 0.0, (0.6, 0.9), 3.0),
        "shape_slat_normalization": plain,
        "tex_slat_normalization": plain,
        "image_cond_model": {
            "name": "DinoV3FeatureExtractor", "args": {"model_name": "facebook/dinov3-vitl16-pretrain-lvd1689m"}
        },
        "rembg_model": {"name": "BiRefNet", "args": {"model_name": "briaai/RMBG-2.0"}},
        "default_pipeline_type": "1024_cascade",
    }  # fmt: skip
    return {"name": "Trellis2ImageTo3DPipeline", "args": args}


def write_descriptions(folder: Path) -> None:
    """A folder with the released layout but without weights: `pipeline.json` and every checkpoint's JSON."""
    local = {key: f"ckpts/{checkpoint.stem.rsplit('/', 1)[1]}" for key, checkpoint in CHECKPOINTS.items()}
    (folder / "ckpts").mkdir(parents=True, exist_ok=True)
    for key, stem in local.items():
        (folder / f"{stem}.json").write_text(json.dumps(CHECKPOINTS[key].description))
    (folder / "pipeline.json").write_text(json.dumps(manifest(local)))
