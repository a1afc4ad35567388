"""DINOv3 features against vectors of the original extractor at a tiny size; both encoders behind one interface."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.models.golden import read_golden
from trellis_app.errors import BundleError
from trellis_app.image.features import Dinov3Encoder, FixedSizeEncoder, load_image_encoder, normalised_pixels
from trellis_app.manifest import Part
from trellis_app.models.image_encoder import MiniImageEncoder, MiniImageEncoderParams

transformers = pytest.importorskip("transformers")


def pictures(image: torch.Tensor) -> list[Image.Image]:
    picture = Image.fromarray(image.numpy())
    return [picture, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]


def test_pixels(shared: Path) -> None:
    golden = read_golden(shared, "dinov3")
    pixels = normalised_pixels(pictures(golden["in.image_u8"]), golden.settings["image_size"])
    statistics = [torch.tensor(golden.settings[key]).view(3, 1, 1) for key in ("std", "mean")]
    resized = ((pixels * statistics[0] + statistics[1]) * 255).permute(0, 2, 3, 1)
    torch.testing.assert_close(resized, golden["mid.resized_u8"].float(), atol=1.01, rtol=0)
    one_step = 1 / 255 / 0.224  # resizing may round one 8-bit step differently
    torch.testing.assert_close(pixels, golden["mid.pixel_values"], atol=1.01 * one_step, rtol=0)
    assert (pixels - golden["mid.pixel_values"]).abs().mean() < 0.01 * one_step


def test_dinov3(shared: Path) -> None:
    golden = read_golden(shared, "dinov3")
    config = transformers.DINOv3ViTConfig(**golden.settings["config"])
    network = transformers.DINOv3ViTModel(config).eval()
    prefix = "" if hasattr(network, "layer") else "model."
    network.load_state_dict(
        {prefix + key if key.startswith("layer.") else key: tensor for key, tensor in golden.weights.items()}
    )
    encoder = Dinov3Encoder(network)
    with torch.no_grad():
        features = encoder.features(golden["mid.pixel_values"])
        turns = network.rope_embeddings(golden["mid.pixel_values"])
        learned = network(golden["mid.pixel_values"]).last_hidden_state
    for turn, name in zip(turns, ("cos", "sin"), strict=True):
        torch.testing.assert_close(turn, golden[f"mid.rope_{name}"], atol=2e-5, rtol=0)
    torch.testing.assert_close(learned, golden["out.last_hidden_state_not_used"], atol=2e-4, rtol=0)
    torch.testing.assert_close(features, golden["out.features"], atol=2e-4, rtol=0)
    tokens = encoder.encode(pictures(golden["in.image_u8"]), golden.settings["image_size"])
    assert tokens.shape == golden["out.features"].shape
    assert not tokens.requires_grad
    torch.testing.assert_close(tokens, golden["out.features"], atol=0.05, rtol=0)


def test_own_encoder_has_one_size() -> None:
    torch.manual_seed(0)
    params = MiniImageEncoderParams(image_size=32, patch_size=16, width=16, depth=1, heads=2)
    encoder = FixedSizeEncoder(MiniImageEncoder(params))
    picture = Image.new("RGB", (50, 40), (200, 10, 10))
    tokens = encoder.encode([picture, picture], 512)
    assert tokens.shape == (2, params.tokens, 16)
    assert tokens.dtype == torch.float32


def test_unknown_encoder() -> None:
    class Stub:
        name = "stub"

        class config:  # noqa: N801
            image_cond_model = Part("Clip", {})

    with pytest.raises(BundleError, match="unknown image encoder 'Clip'"):
        load_image_encoder(Stub(), torch.device("cpu"))
