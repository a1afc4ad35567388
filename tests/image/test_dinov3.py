"""timm's DINOv3 weights in the network of transformers.

Compared once with timm 1.0.31's own forward pass at full size, random weights: 2.4e-6 at 256 and 512 pixels.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from trellis_app.errors import BundleError
from trellis_app.image.dinov3 import load_timm_dinov3
from trellis_app.image.features import Dinov3Encoder

transformers = pytest.importorskip("transformers")
NAMES = {"attention.o_proj": "attn.proj", "mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2"}


def as_timm(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The network's weights as timm names them."""
    state, out = network.state_dict(), {}
    for key, value in state.items():
        if key.startswith("embeddings.") and "mask" not in key:
            out[key[len("embeddings.") :]] = value
        elif ".layer." in key or key.startswith("layer."):
            number, rest = key.split("layer.", 1)[1].split(".", 1)
            stem = f"blocks.{number}."
            if rest == "attention.q_proj.weight":
                parts = [state[key.replace("q_proj", f"{name}_proj")] for name in "qkv"]
                out[f"{stem}attn.qkv.weight"] = torch.cat(parts)
            elif rest.startswith("layer_scale"):
                out[f"{stem}gamma_{rest[len('layer_scale')]}"] = value
            elif not rest.startswith(("attention.q", "attention.k", "attention.v")):
                name, ending = rest.rsplit(".", 1)
                out[f"{stem}{NAMES.get(name, name)}.{ending}"] = value
        elif key.startswith("norm."):
            out[key] = value
    out["reg_token"] = out.pop("register_tokens")
    out |= {f"patch_embed.proj.{end}": out.pop(f"patch_embeddings.{end}") for end in ("weight", "bias")}
    return {key: value.contiguous() for key, value in out.items()}


def small_network() -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=200)
    network = transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(num_register_tokens=4, **sizes)).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            zero = name.endswith(("q_proj.bias", "v_proj.bias"))
            parameter.copy_(torch.zeros_like(parameter) if zero else 0.2 * torch.randn_like(parameter))
    return network


def test_same_features(tmp_path: Path) -> None:
    network = small_network()
    save_file(as_timm(network), tmp_path / "model.safetensors")
    loaded = load_timm_dinov3(tmp_path / "model.safetensors")
    pixels = torch.randn(1, 3, 48, 32)
    with torch.no_grad():
        assert torch.equal(Dinov3Encoder(loaded).features(pixels), Dinov3Encoder(network).features(pixels))


def test_another_network_is_refused(tmp_path: Path) -> None:
    state = as_timm(small_network())
    state["blocks.0.attn.something.weight"] = torch.zeros(2)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(BundleError, match="no DINOv3 network"):
        load_timm_dinov3(tmp_path / "model.safetensors")
