"""What several models share: reading their JSON arguments, and the precision they run in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import nn

from trellis_app.sparse.layers import SparseConv3d

P = TypeVar("P")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_TRAINING_ONLY = frozenset({"use_checkpoint", "initialization", "block_args"})


def read_params(params_type: type[P], arguments: Mapping[str, Any], *, ignore_unknown: bool = False) -> P:
    """A params dataclass from the `args` of a checkpoint's JSON; lists become tuples.

    Arguments that only steer training are skipped. Raises ValueError naming any other argument that is not a field,
    unless `ignore_unknown`.
    """
    known = {field.name for field in fields(params_type)}  # type: ignore[arg-type]
    unknown = set(arguments) - known - _TRAINING_ONLY
    if unknown and not ignore_unknown:
        raise ValueError(f"{params_type.__name__} has no argument {', '.join(sorted(unknown))}")
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in arguments.items() if key in known}
    return params_type(**values)


def convert_torso(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert the linear layers and convolutions inside `module`; norms, gammas and modulations stay float32."""
    for child in module.modules():
        if isinstance(child, (nn.Linear, nn.Conv3d, SparseConv3d)):
            child.to(dtype)


def working_dtype(tensor: torch.Tensor, torso: torch.dtype) -> torch.dtype:
    """The dtype between a model's first and last layer: autocast's where it is active, else the torso's own."""
    device_type = tensor.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else torso


def full_precision(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    """A stretch without autocast on the tensor's device: first and last layers run in float32."""
    return torch.autocast(tensor.device.type, enabled=False)
