"""Image encoders: square RGB pictures become conditioning tokens.

The bundle names its encoder: DINOv3 through transformers (the 4B bundle), or the small one it holds itself (mini).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from trellis_app.errors import BundleError, MachineError
from trellis_app.fetching import fetched
from trellis_app.hub import DINOV3, MODEL_FILE, OPEN_DINOV3, HubFile, explained
from trellis_app.image.dinov3 import load_timm_dinov3
from trellis_app.manifest import Part
from trellis_app.models.image_encoder import MiniImageEncoder
from trellis_app.weights import Bundle

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
UNGATED = {DINOV3: OPEN_DINOV3}  # the same weights


class ImageEncoder(Protocol):
    """What the pipeline needs of an encoder."""

    def encode(self, pictures: Sequence[Image.Image], size: int) -> torch.Tensor:
        """Tokens float32 [B, L, C] of square RGB pictures seen at `size` x `size` pixels."""
        ...


class Dinov3Encoder:
    """A DINOv3 vision transformer of the transformers package; all tokens, normalised without learned parameters."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    @torch.no_grad()
    def encode(self, pictures: Sequence[Image.Image], size: int) -> torch.Tensor:
        """Tokens float32 [B, 5 + (size / 16)^2, C]: class, 4 registers, patches row-major."""
        return self.features(normalised_pixels(pictures, size))

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Tokens of normalised pixels [B, 3, S, S]. The network's own final norm, which has parameters, is not used."""
        network = self.network
        weight = network.embeddings.patch_embeddings.weight  # type: ignore[union-attr]
        pixels = pixels.to(weight.device, weight.dtype)  # type: ignore[arg-type]
        hidden = network.embeddings(pixels)  # type: ignore[operator]
        positions = network.rope_embeddings(pixels)  # type: ignore[operator]
        for layer in _layers(network):
            hidden = layer(hidden, position_embeddings=positions)
        return F.layer_norm(hidden.float(), hidden.shape[-1:], eps=1e-5)


class FixedSizeEncoder:
    """An encoder that always looks at its own picture size."""

    def __init__(self, network: MiniImageEncoder) -> None:
        self.network = network

    def encode(self, pictures: Sequence[Image.Image], size: int) -> torch.Tensor:
        """Tokens float32 [B, L, C]; `size` is ignored."""
        return self.network.encode(pictures)


def normalised_pixels(
    pictures: Sequence[Image.Image], size: int, resampling: Image.Resampling = Image.Resampling.LANCZOS
) -> torch.Tensor:
    """Pictures resized, in ImageNet statistics: float32 [B, 3, size, size]."""
    arrays = [np.asarray(picture.resize((size, size), resampling).convert("RGB")) for picture in pictures]
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def load_image_encoder(bundle: Bundle, device: torch.device, *, original: bool = False) -> ImageEncoder:
    """The encoder that the bundle's pipeline.json names (`image_cond_model`).

    original: load DINOv3 from the repository it names, which asks to accept its licence and to log in; otherwise the
    same weights come from where they are not gated.
    """
    part = bundle.config.image_cond_model
    if part.name == "MiniImageEncoder":
        return FixedSizeEncoder(cast(MiniImageEncoder, bundle.part(part, device)))
    if part.name == "DinoV3FeatureExtractor":
        weights = encoder_weights(part, original=original)
        assert weights is not None
        own = weights.repository == part.args["model_name"]
        network = _from_transformers(weights) if own else load_timm_dinov3(fetched(weights))
        return Dinov3Encoder(network.requires_grad_(False).to(device).eval())
    raise BundleError(
        f"The bundle {bundle.name} names an unknown image encoder {part.name!r}.",
        "Use MiniImageEncoder or DinoV3FeatureExtractor in its pipeline.json.",
    )


def encoder_weights(part: Part, *, original: bool = False) -> HubFile | None:
    """Which weights `load_image_encoder` takes from the hub, None where the bundle holds them itself."""
    if part.name != "DinoV3FeatureExtractor":
        return None
    name = str(part.args["model_name"])
    return HubFile(name if original else UNGATED.get(name, name), MODEL_FILE)


def _layers(network: nn.Module) -> nn.ModuleList:
    """The transformer layers: `layer` up to transformers 4, one module deeper since 5."""
    holder = network if hasattr(network, "layer") else network.model
    return holder.layer  # type: ignore[return-value,union-attr]


def _from_transformers(weights: HubFile) -> nn.Module:
    try:
        from transformers import AutoModel
    except ImportError as error:
        raise MachineError(
            f"The image encoder {weights.repository} needs the package transformers.", "Run pip install transformers."
        ) from error
    commit = fetched(weights).parent.name
    try:
        network: nn.Module = AutoModel.from_pretrained(weights.repository, revision=commit, dtype=torch.float32)
    except (OSError, ImportError, ValueError) as error:
        raise explained(error.__cause__ or error, weights) from error
    return network
