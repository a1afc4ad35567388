"""Background removers: the bundle's own matting network, or BiRefNet / RMBG through transformers (spec 3.2)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import cast

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from trellis_app.errors import BundleError, PictureError
from trellis_app.fetching import fetched
from trellis_app.hub import MATTE, MODEL_FILE, OPEN_MATTE, HubFile, explained
from trellis_app.image.cutout import Matte
from trellis_app.image.features import normalised_pixels
from trellis_app.manifest import Part
from trellis_app.models.matting import MattingUNet
from trellis_app.weights import Bundle

LOG = logging.getLogger(__name__)
UNGATED = {MATTE: OPEN_MATTE}  # of the same architecture, MIT licence


@dataclass(frozen=True)
class NoMatte:
    """Stands in where there is no remover: only pictures with their own transparency pass."""

    what: str = "The picture has no transparency and this model bundle cannot remove backgrounds."
    to_do: str = "Use a PNG whose background is already transparent."

    def __call__(self, picture: Image.Image) -> Image.Image:
        raise PictureError(self.what, self.to_do)


class BiRefNetMatte:
    """A BiRefNet-type segmentation model (ZhengPeng7/BiRefNet, briaai/RMBG-2.0) as transformers loads it."""

    side = 1024

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network

    @torch.inference_mode()
    def __call__(self, picture: Image.Image) -> Image.Image:
        """RGB -> 8-bit grey alpha of the same size; the network sees 1024 x 1024, bilinear, ImageNet-normalised."""
        weight = next(self.network.parameters())
        pixels = normalised_pixels([picture], self.side, Image.Resampling.BILINEAR)
        logits = self.network(pixels.to(weight.device, weight.dtype))[-1]
        alpha = (torch.sigmoid(logits)[0, 0].float() * 255).to(torch.uint8).cpu().numpy()
        return Image.fromarray(alpha).resize(picture.size, Image.Resampling.BICUBIC)


def load_matte(bundle: Bundle, device: torch.device, *, original: bool = False) -> Matte:
    """The remover that the bundle's pipeline.json names (`rembg_model`).

    original: load RMBG-2.0, which is gated and not for commercial use, where that is named; otherwise its open twin.
    """
    spec = bundle.config.rembg_model
    if spec is None:
        return NoMatte()
    if spec.name == "MattingUNet":
        return cast(MattingUNet, bundle.part(spec, device)).alpha
    weights = matte_weights(spec, original=original)
    if weights is not None:
        try:
            return BiRefNetMatte(_from_hub(weights).to(device))
        except ImportError as error:
            return _packages_missing(weights.repository, error)
    raise BundleError(
        f"The bundle {bundle.name} names an unknown background remover {spec.name!r}.",
        "Use MattingUNet or BiRefNet in its pipeline.json.",
    )


def _packages_missing(name: str, error: ImportError) -> NoMatte:
    """The program starts without its remover and says so."""
    missing = NoMatte(
        f"The background remover {name} needs more packages ({' '.join(str(error).split())}).",
        "Run pip install -r requirements.txt -r requirements-cuda.txt, or use pictures with transparency.",
    )
    LOG.warning("%s %s", missing.what, missing.to_do)
    return missing


def matte_weights(part: Part | None, *, original: bool = False) -> HubFile | None:
    """Which weights `load_matte` takes from the hub, None where the bundle holds them itself or needs none."""
    if part is None or part.name != "BiRefNet":
        return None
    name = str(part.args["model_name"])
    return HubFile(name if original else UNGATED.get(name, name), MODEL_FILE)


def _from_hub(weights: HubFile) -> torch.nn.Module:
    """The network that the repository's own code describes, in float32, with its weights loaded strictly.

    `from_pretrained` of transformers 5 builds on the meta device, where this code cannot be built; so transformers only
    brings the code, from the commit of the weights. Raises BundleError, and ImportError where it needs more packages.
    """
    from transformers import AutoConfig
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    name, path = weights.repository, fetched(weights)
    commit = path.parent.name
    try:
        config = AutoConfig.from_pretrained(name, revision=commit, trust_remote_code=True)
        code = config.auto_map["AutoModelForImageSegmentation"]
        network: torch.nn.Module = get_class_from_dynamic_module(code, name, revision=commit)(config=config)
        network.float().load_state_dict(load_file(path), strict=True)
    except (SafetensorError, RuntimeError, KeyError, AttributeError) as error:
        why = " ".join(str(error).split())
        raise BundleError(f"{path} does not fit the code of {name} ({why}).", "Download both again.") from error
    except (OSError, ValueError) as error:
        raise explained(error.__cause__ or error, weights) from error
    return network.requires_grad_(False).eval()
