"""Which device does the work, what moves between devices, and what is said when one is full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch

from trellis_app.errors import MachineError, SettingsError
from trellis_app.memory import out_of_memory
from trellis_app.types import DualGrid, Occupancy, OVoxel

Result = TypeVar("Result", Occupancy, DualGrid, OVoxel)


def choose_device(name: str) -> torch.device:
    """auto, cpu, cuda or cuda:N -> device; raises MachineError where it does not exist here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"There is no device {name!r}.", "Choose auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MachineError(f"This machine has no device {name}.", "Choose --device cpu or another number.")
    return device


def on_cpu(result: Result) -> Result:
    """A stage's result in main memory: it outlives the model's turn on the GPU and travels between processes."""
    return on_device(result, torch.device("cpu"))


def on_device(result: Result, device: torch.device) -> Result:
    """A stage's result with all its tensors on `device`."""
    values = {field.name: getattr(result, field.name) for field in fields(result)}
    moved: dict[str, Any] = {
        name: value.to(device) if isinstance(value, torch.Tensor) else on_device(value, device)
        for name, value in values.items()
        if isinstance(value, (torch.Tensor, DualGrid))
    }
    return replace(result, **moved)


@contextmanager
def memory_told() -> Iterator[None]:
    """Turns a GPU that ran out of memory into a MachineError."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        torch.cuda.empty_cache()
        raise MachineError(
            "The GPU ran out of memory.", "Choose a lower resolution or close other programs that use the GPU."
        ) from error
