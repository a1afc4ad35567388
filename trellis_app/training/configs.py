"""Sizes of the networks that the recipes train.

`mini` is shipped; `small` is mini with autoencoders wide enough for `initial_values.pass_through`, for the next run;
`tiny` is what tests train in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from trellis_app.errors import SettingsError

STRUCTURE, SHAPE, MATERIAL = "structure", "shape", "material"
PARTS = (STRUCTURE, SHAPE, MATERIAL)
LATENT_CHANNELS = 32
STRUCTURE_CHANNELS = 8


@dataclass(frozen=True)
class NetworkSpec:
    """A network as its checkpoint's JSON names it."""

    name: str
    args: Mapping[str, Any]


@dataclass(frozen=True)
class Sizes:
    """One family of networks, by role. The role is also the file stem in a run's `weights` folder."""

    name: str
    resolution: int  # fine voxels along a side
    view_size: int  # pixels along a side of the encoder's pictures
    networks: Mapping[str, NetworkSpec]

    def __getitem__(self, role: str) -> NetworkSpec:
        return self.networks[role]


def _flow(channels_in: int, *, width: int, blocks: int, side: int, channels_out: int) -> dict[str, Any]:
    return {
        "resolution": side, "in_channels": channels_in, "out_channels": channels_out, "model_channels": width,
        "cond_channels": width, "num_blocks": blocks, "num_heads": width // 64, "mlp_ratio": 3,
        "pe_mode": "rope+linear",
        "share_mod": True, "qk_rms_norm": True, "qk_rms_norm_cross": True, "dtype": "bfloat16",
    }  # fmt: skip


def _structure(channels: list[int], **ends: int) -> dict[str, Any]:
    return {
        **ends, "latent_channels": STRUCTURE_CHANNELS, "num_res_blocks": 1, "num_res_blocks_middle": 1,
        "channels": channels, "use_fp16": True,
    }  # fmt: skip


def _unet(widths: list[int], blocks: list[int], *, down: bool, **ends: Any) -> dict[str, Any]:
    resampler = (
        {"down_block_type": ["SparseResBlockS2C3d"] * 4} if down else {"up_block_type": ["SparseResBlockC2S3d"] * 4}
    )
    return {
        **ends, "model_channels": widths, "latent_channels": LATENT_CHANNELS, "num_blocks": blocks,
        "block_type": ["SparseConvNeXtBlock3d"] * 5, **resampler, "block_args": [{}] * 5, "use_fp16": True,
    }  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """The few numbers in which `mini` and `tiny` differ."""

    width: int
    flow_blocks: tuple[int, int, int]  # structure, shape, material
    encoder_depth: int
    encoder_image: int
    structure: tuple[int, ...]
    coarse_to_fine: tuple[int, ...]
    blocks: tuple[int, ...]
    matting_image: int
    matting: tuple[int, ...]


def networks(scale: Scale, resolution: int) -> dict[str, NetworkSpec]:
    """All networks of a family."""
    grid, c, s = resolution // 16, LATENT_CHANNELS, STRUCTURE_CHANNELS
    dense, wide, blocks = list(scale.structure), list(scale.coarse_to_fine), list(scale.blocks)

    def down(**ends: Any) -> dict[str, Any]:
        return _unet(wide[::-1], blocks[::-1], down=True, **ends)

    def up(**ends: Any) -> dict[str, Any]:
        return _unet(wide, blocks, down=False, **ends)

    def flow(channels_in: int, i: int) -> dict[str, Any]:
        return _flow(channels_in, width=scale.width, blocks=scale.flow_blocks[i], side=grid, channels_out=c)

    structure_flow = _flow(s, width=scale.width, blocks=scale.flow_blocks[0], side=grid // 2, channels_out=s)
    encoder = {
        "image_size": scale.encoder_image, "patch_size": 16, "width": scale.width, "depth": scale.encoder_depth,
        "heads": scale.width // 64, "mlp_ratio": 2.5,
    }  # fmt: skip
    matting = {"image_size": scale.matting_image, "widths": list(scale.matting)}
    return {
        "image_encoder": NetworkSpec("MiniImageEncoder", encoder),
        "structure_encoder": NetworkSpec("SparseStructureEncoder", _structure(dense[::-1], in_channels=1)),
        "structure_decoder": NetworkSpec("SparseStructureDecoder", _structure(dense, out_channels=1)),
        "shape_encoder": NetworkSpec("FlexiDualGridVaeEncoder", down()),
        "shape_decoder": NetworkSpec("FlexiDualGridVaeDecoder", up(resolution=resolution)),
        "material_encoder": NetworkSpec("SparseUnetVaeEncoder", down(in_channels=6)),
        "material_decoder": NetworkSpec("SparseUnetVaeDecoder", up(out_channels=6, pred_subdiv=False)),
        "structure_flow": NetworkSpec("SparseStructureFlowModel", structure_flow),
        "shape_flow": NetworkSpec("SLatFlowModel", flow(c, 1)),
        "material_flow": NetworkSpec("SLatFlowModel", flow(2 * c, 2)),
        "matting": NetworkSpec("MattingUNet", matting),
    }


MINI_SCALE = Scale(
    width=256, flow_blocks=(6, 5, 5), encoder_depth=6, encoder_image=256, structure=(48, 24),
    coarse_to_fine=(64, 64, 32, 32, 16), blocks=(2, 2, 2, 2, 0), matting_image=256, matting=(16, 24, 40, 64, 88, 88),
)  # fmt: skip
SMALL_SCALE = replace(MINI_SCALE, coarse_to_fine=(64, 64, 64, 64, 16), blocks=(2, 2, 2, 1, 0))
TINY_SCALE = Scale(
    width=64, flow_blocks=(1, 1, 1), encoder_depth=1, encoder_image=32, structure=(16, 8),
    coarse_to_fine=(16, 16, 8, 8, 8), blocks=(1, 0, 0, 0, 0), matting_image=32, matting=(8, 8, 16),
)  # fmt: skip
MINI = Sizes("mini", 256, MINI_SCALE.encoder_image, networks(MINI_SCALE, 256))
SMALL = Sizes("small", 256, SMALL_SCALE.encoder_image, networks(SMALL_SCALE, 256))
TINY = Sizes("tiny", 64, TINY_SCALE.encoder_image, networks(TINY_SCALE, 64))


def sizes(name: str) -> Sizes:
    """The family of that name; raises SettingsError for another."""
    known = {family.name: family for family in (MINI, SMALL, TINY)}
    if name not in known:
        raise SettingsError(f"There are no sizes named {name!r}.", f"Choose one of {', '.join(known)}.")
    return known[name]
