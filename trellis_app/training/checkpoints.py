"""Networks of a run on disk: `<role>.safetensors` in float16 beside `<role>.json`, as in a bundle's `ckpts`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from trellis_app.errors import BundleError
from trellis_app.models.registry import build_model
from trellis_app.training.configs import NetworkSpec


def save_network(module: nn.Module, spec: NetworkSpec, stem: Path) -> None:
    """Write `<stem>.json` and `<stem>.safetensors` (float16); each file appears whole or not at all.

    Raises BundleError where a weight is not finite in float16.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in module.state_dict().items()}
    broken = [k for k, v in weights.items() if not torch.isfinite(v).all()]
    if broken:
        raise BundleError(
            f"{stem.name} has weights that are not finite: {broken[0]}.", "Resume from an older checkpoint."
        )
    partial = stem.with_name(f".{stem.name}.partial")
    save_file(weights, partial)
    partial.chmod(0o644)
    partial.replace(stem.with_name(f"{stem.name}.safetensors"))
    stem.with_name(f"{stem.name}.json").write_text(
        json.dumps({"name": spec.name, "args": dict(spec.args)}, indent=2) + "\n", encoding="utf-8"
    )


def load_network(spec: NetworkSpec, stem: Path, device: torch.device | str = "cpu") -> nn.Module:
    """The network in float32 with the saved weights, in evaluation mode.

    Raises BundleError where the file is missing or does not fit the arguments.
    """
    path = stem.with_name(f"{stem.name}.safetensors")
    if not path.is_file():
        raise BundleError(f"There is no {path}.", "Train that network first.")
    module = build_model(spec.name, spec.args)
    weights = {k: v.float() for k, v in load_file(path).items()}
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise BundleError(
            f"{path} does not fit its arguments ({error}).", "Use the sizes it was trained with."
        ) from error
    return module.to(device).eval()


def load_if_saved(module: nn.Module, stem: Path) -> bool:
    """Start a fresh module from saved weights of the same shape, if there are any; returns whether there were."""
    path = stem.with_name(f"{stem.name}.safetensors")
    if not path.is_file():
        return False
    module.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return True
