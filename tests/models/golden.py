"""Reads a golden case: the class and arguments in its JSON, its tensors by prefix."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from trellis_app.models.registry import build_model


@dataclass(frozen=True)
class Golden:
    settings: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return {name[3:]: tensor for name, tensor in self.tensors.items() if name.startswith("sd.")}

    def model(self, **changed: Any) -> nn.Module:
        model = build_model(self.settings["name"], {**self.settings["args"], **changed})
        model.load_state_dict(self.weights, strict=True)
        return model.eval()


def read_golden(shared: Path, name: str) -> Golden:
    folder = shared / "golden" / "models"
    settings = json.loads((folder / f"{name}.json").read_text())
    return Golden(settings, load_file(folder / f"{name}.safetensors"))
