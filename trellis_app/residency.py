"""Which model is on the GPU when.

All models of the 4B bundle together do not fit a small GPU, but one at a time does. `plan` decides once, from a memory
budget, which stay there; `with resident(model, device):` brings one in for as long as it is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)
GIB = 2**30
WORKSPACE_GB = 8.0  # activations of the largest stage


@contextmanager
def resident(model: Model, device: torch.device | str, *, stay: bool = False) -> Iterator[Model]:
    """The model on `device`; afterwards in main memory, unless it may `stay`."""
    device = torch.device(device)
    model.to(device)
    try:
        yield model
    finally:
        if not stay:
            model.to("cpu")


def plan(weight_bytes: Mapping[str, int], device: torch.device | str, budget_gb: float | None = None) -> frozenset[str]:
    """Keys of the models that may stay on the device.

    Largest first, as long as the staying ones, the largest of the others and the workspace fit the budget together.

    Args:
        weight_bytes: size of each model's weights there.
        device: all models stay on a CPU.
        budget_gb: memory to use; all of the GPU's where none is given.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return frozenset(weight_bytes)
    total = torch.cuda.get_device_properties(device).total_memory if budget_gb is None else budget_gb * GIB
    room = total - WORKSPACE_GB * GIB
    stay: set[str] = set()
    for key in sorted(weight_bytes, key=lambda name: (-weight_bytes[name], name)):
        chosen = stay | {key}
        visitors = (size for name, size in weight_bytes.items() if name not in chosen)
        if sum(weight_bytes[name] for name in chosen) + max(visitors, default=0) <= room:
            stay = chosen
    return frozenset(stay)
