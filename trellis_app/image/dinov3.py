"""DINOv3 weights as timm publishes them, ungated, put into the model class of transformers.

timm stores the same network under other names: one matrix for queries, keys and values (whose biases are zero and left
out), `gamma_1` and `gamma_2` for the layer scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from trellis_app.errors import BundleError

_TOP = {
    "cls_token": "embeddings.cls_token",
    "reg_token": "embeddings.register_tokens",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.bias",
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
}
_LAYER = {
    "norm1": "norm1", "norm2": "norm2", "attn.proj": "attention.o_proj", "mlp.fc1": "mlp.up_proj",
    "mlp.fc2": "mlp.down_proj",
}  # fmt: skip


def load_timm_dinov3(weights: Path) -> nn.Module:
    """A float32 DINOv3ViTModel from the `model.safetensors` of a timm DINOv3 ViT with patches of 16.

    Raises BundleError where its keys or shapes are not those of such a network.
    """
    try:
        state = load_file(weights)
        network = empty_network(state)
        network.load_state_dict(renamed(state, network), strict=True, assign=True)
    except (KeyError, ValueError, RuntimeError, SafetensorError, OSError) as error:
        why = " ".join(str(error).split())
        raise BundleError(f"{weights} is no DINOv3 network as timm stores it ({why}).", "Download it again.") from error
    return network.eval()


def empty_network(state: Mapping[str, torch.Tensor]) -> nn.Module:
    """The network of transformers whose sizes follow from timm's tensors, on the meta device."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    width = state["cls_token"].shape[-1]
    config = DINOv3ViTConfig(
        hidden_size=width,
        num_hidden_layers=1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks.")),
        num_attention_heads=max(1, width // 64),
        intermediate_size=state["blocks.0.mlp.fc1.weight"].shape[0],
        num_register_tokens=state["reg_token"].shape[1],
    )
    network: nn.Module = DINOv3ViTModel(config)
    return network


def renamed(state: Mapping[str, torch.Tensor], network: nn.Module) -> dict[str, torch.Tensor]:
    """timm's tensors under the names of `network`; what timm leaves out because it is zero is zero."""
    kept = network.state_dict()
    layers = "layer." if any(key.startswith("layer.") for key in kept) else "model.layer."
    found: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        if key in _TOP:
            found[_TOP[key]] = value
            continue
        _, number, rest = key.split(".", 2)
        stem = f"{layers}{number}."
        if rest == "attn.qkv.weight":
            for name, part in zip("qkv", value.chunk(3), strict=True):
                found[f"{stem}attention.{name}_proj.weight"] = part.contiguous()
        elif rest.startswith("gamma_"):
            found[f"{stem}layer_scale{rest[-1]}.lambda1"] = value
        else:
            name, ending = rest.rsplit(".", 1)
            found[f"{stem}{_LAYER[name]}.{ending}"] = value
    zero = [key for key in kept if key.endswith(("q_proj.bias", "v_proj.bias", "mask_token"))]
    return {key: torch.zeros(kept[key].shape) for key in zero} | {key: value.float() for key, value in found.items()}
