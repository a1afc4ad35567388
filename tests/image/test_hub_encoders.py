"""Image encoders and background removers of the hub, through the real clients and a mirror."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.hub_mirror import COMMIT, Mirror, serving, use
from tests.image.test_dinov3 import as_timm, small_network
from trellis_app.errors import BundleError, PictureError
from trellis_app.hub import PINNED
from trellis_app.image import background, features
from trellis_app.image.features import Dinov3Encoder
from trellis_app.manifest import Part

transformers = pytest.importorskip("transformers")
CPU = torch.device("cpu")
CONFIG = """
from transformers import PretrainedConfig

class MatteConfig(PretrainedConfig):
    def __init__(self, width=3, **more):
        self.width = width
        super().__init__(**more)
"""
CODE = """
import torch
from transformers import PreTrainedModel
from .matte_config import MatteConfig

class Matte(PreTrainedModel):
    config_class = MatteConfig

    def __init__(self, pretrained=True, config=MatteConfig()):
        super().__init__(config)
        assert torch.linspace(0, 1, 2)[1].item() == 1  # as BiRefNet does; fails on the meta device
        self.mix = torch.nn.Conv2d(config.width, 1, 1)
        self.register_buffer("place", torch.arange(4))

    def forward(self, x):
        return [x, self.mix(x)]
"""
MATTE_JSON = """{"auto_map": {"AutoConfig": "matte_config.MatteConfig", "AutoModelForImageSegmentation": "matte.Matte"},
"architectures": ["Matte"], "width": 3}"""


class Stub:
    """A bundle as the loaders see it."""

    name = "stub"

    class config:  # noqa: N801
        image_cond_model = Part("DinoV3FeatureExtractor", {"model_name": "owner/dino"})
        rembg_model = Part("BiRefNet", {"model_name": "owner/matte"})


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """owner/dino as the gated original stores it, owner/timm its open twin, owner/matte with code of its own."""
    network = small_network()
    network.save_pretrained(tmp_path / "hub" / "owner" / "dino")
    matte = {"mix.weight": torch.ones(1, 3, 1, 1), "mix.bias": torch.zeros(1), "place": torch.arange(4)}
    half = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in matte.items()}
    for name, tensors in (("timm", as_timm(network)), ("matte", half)):
        (tmp_path / "hub" / "owner" / name).mkdir(parents=True)
        save_file(tensors, tmp_path / "hub" / "owner" / name / "model.safetensors")
    for name, text in (("matte_config.py", CONFIG), ("matte.py", CODE), ("config.json", MATTE_JSON)):
        (tmp_path / "hub" / "owner" / "matte" / name).write_text(text)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(tmp_path / "cache"), raising=False)  # before 5
    monkeypatch.setattr(features, "UNGATED", {"owner/dino": "owner/timm"})
    monkeypatch.setitem(PINNED, "owner/timm", COMMIT)
    with serving(tmp_path / "hub") as server:
        use(monkeypatch, server.address, tmp_path / "cache")
        yield server


def test_original_and_twin_see_the_same(mirror: Mirror) -> None:
    pixels = torch.randn(1, 3, 48, 48)
    twin = features.load_image_encoder(Stub(), CPU)
    assert not any("owner/dino" in request.path for request in mirror.requests)
    assert mirror.requests[-1].path == f"owner/timm/resolve/{COMMIT}/model.safetensors"
    original = features.load_image_encoder(Stub(), CPU, original=True)
    assert isinstance(twin, Dinov3Encoder)
    assert isinstance(original, Dinov3Encoder)
    with torch.no_grad():
        assert torch.equal(twin.features(pixels), original.features(pixels))


@pytest.mark.parametrize("refusal", [(401, "GatedRepo"), (403, "GatedRepo")])
def test_the_gated_original_asks_for_its_licence(mirror: Mirror, refusal: tuple[int, str]) -> None:
    mirror.faults.refused["owner/dino"] = refusal
    with pytest.raises(BundleError, match=r"owner/dino asks you to accept its licence first.*hf auth login"):
        features.load_image_encoder(Stub(), CPU, original=True)
    features.load_image_encoder(Stub(), CPU)


def test_a_damaged_twin_is_refused(mirror: Mirror) -> None:
    path = mirror.folder / "owner" / "timm" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BundleError, match="no DINOv3 network"):
        features.load_image_encoder(Stub(), CPU)


def test_a_remover_with_code_of_its_own(mirror: Mirror) -> None:
    """All its files at one commit, float32, every weight where it belongs."""
    matte = background.load_matte(Stub(), CPU)
    assert isinstance(matte, background.BiRefNetMatte)
    assert {parameter.dtype for parameter in matte.network.parameters()} == {torch.float32}
    alpha = matte(Image.new("RGB", (40, 30), (255, 255, 255)))
    assert (alpha.size, alpha.mode) == ((40, 30), "L")
    white = sum((1 - mean) / std for mean, std in zip(features.MEAN, features.STD, strict=True))
    assert alpha.getpixel((20, 15)) == int(torch.sigmoid(torch.tensor(white)) * 255)
    code = {request.path for request in mirror.requests if request.path.endswith(".py")}
    assert code == {f"owner/matte/resolve/{COMMIT}/matte.py", f"owner/matte/resolve/{COMMIT}/matte_config.py"}


def test_a_remover_whose_weights_do_not_fit(mirror: Mirror) -> None:
    save_file({"mix.weight": torch.ones(1, 3, 1, 1)}, mirror.folder / "owner" / "matte" / "model.safetensors")
    with pytest.raises(BundleError, match=r"does not fit the code of owner/matte .*mix\.bias"):
        background.load_matte(Stub(), CPU)


def test_a_remover_that_needs_packages(mirror: Mirror) -> None:
    """The app starts, and pictures with transparency need no remover."""
    path = mirror.folder / "owner" / "matte" / "matte.py"
    path.write_text("import no_such_package\n" + path.read_text())
    matte = background.load_matte(Stub(), CPU)
    with pytest.raises(
        PictureError, match=r"no_such_package.*requirements-cuda\.txt, or use pictures with transparency"
    ):
        matte(Image.new("RGB", (4, 4)))
