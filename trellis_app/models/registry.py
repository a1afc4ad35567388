"""Which class a checkpoint's JSON means: `{"name": class, "args": constructor arguments}`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from trellis_app.models.flow_transformer import FlowParams
from trellis_app.models.image_encoder import MiniImageEncoder, MiniImageEncoderParams
from trellis_app.models.latent_flow import LatentFlow
from trellis_app.models.layers import read_params
from trellis_app.models.material_vae import MaterialDecoder, MaterialEncoder
from trellis_app.models.matting import MattingUNet, MattingUNetParams
from trellis_app.models.shape_vae import ShapeDecoder, ShapeDecoderParams, ShapeEncoder
from trellis_app.models.sparse_unet import DecoderParams, EncoderParams
from trellis_app.models.structure_flow import StructureFlow
from trellis_app.models.structure_vae import (
    StructureDecoder,
    StructureDecoderParams,
    StructureEncoder,
    StructureEncoderParams,
)


@dataclass(frozen=True)
class ModelClass:
    """A model and the params it is built from."""

    module: type[nn.Module]
    params: type[Any]
    ignore_unknown: bool = False  # the original class swallows arguments it does not know


MODELS: Mapping[str, ModelClass] = {
    "SparseStructureFlowModel": ModelClass(StructureFlow, FlowParams, ignore_unknown=True),
    "SLatFlowModel": ModelClass(LatentFlow, FlowParams),
    "ElasticSLatFlowModel": ModelClass(LatentFlow, FlowParams),
    "SparseStructureEncoder": ModelClass(StructureEncoder, StructureEncoderParams),
    "SparseStructureDecoder": ModelClass(StructureDecoder, StructureDecoderParams),
    "FlexiDualGridVaeEncoder": ModelClass(ShapeEncoder, EncoderParams),
    "FlexiDualGridVaeDecoder": ModelClass(ShapeDecoder, ShapeDecoderParams),
    "SparseUnetVaeEncoder": ModelClass(MaterialEncoder, EncoderParams),
    "SparseUnetVaeDecoder": ModelClass(MaterialDecoder, DecoderParams),
    "MiniImageEncoder": ModelClass(MiniImageEncoder, MiniImageEncoderParams),
    "MattingUNet": ModelClass(MattingUNet, MattingUNetParams),
}


def build_model(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """A model in float32 with fresh weights, in training mode; on the current default device (e.g. meta).

    Raises ValueError for an unknown class or unfitting arguments.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model class {name!r}, expected one of {', '.join(MODELS)}")
    entry = MODELS[name]
    return entry.module(read_params(entry.params, arguments, ignore_unknown=entry.ignore_unknown))
