"""What the networks of a pipeline take of a GPU's memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from trellis_app.weights import Bundle


def footprint(
    bundle: Bundle, tools: Mapping[str, object], device: torch.device, precision: str = "bf16"
) -> dict[str, int]:
    """Bytes of the weights of every model of a bundle, from their JSON alone, and of the tools' networks."""
    sizes = {key: bundle.weight_bytes(key, device, precision) for key in bundle.config.models}
    for key, tool in tools.items():
        network = network_of(tool)
        sizes[key] = sum(p.numel() * p.element_size() for p in network.parameters()) if network else 0
    return sizes


def network_of(tool: object) -> nn.Module | None:
    """The network that an image encoder or a background remover runs."""
    network = getattr(tool, "network", None)
    return network if isinstance(network, nn.Module) else None
