"""Which implementation of an op runs: one rule for all doors."""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

REFERENCE, TORCH, CPU, TRITON = "reference", "torch", "cpu", "triton"


def choose(requested: str, device: torch.device, offered: tuple[str, ...]) -> str:
    """The implementation to run on `device`.

    `requested` is "auto" or one of `offered`. "auto" takes the compiled CPU path on a CPU (where numba is installed),
    Triton on CUDA (where Triton is installed), and the plain torch path (or the reference) otherwise.
    Raises ValueError if the op does not offer what was asked for.
    """
    if requested != "auto":
        if requested not in offered:
            raise ValueError(f"implementation must be auto or one of {', '.join(offered)}, got {requested!r}")
        return requested
    if device.type == "cpu" and CPU in offered and installed("numba"):
        return CPU
    if device.type == "cuda" and TRITON in offered and installed("triton"):
        return TRITON
    return TORCH if TORCH in offered else REFERENCE


@cache
def installed(package: str) -> bool:
    """Whether a package can be imported; asked once, since ops are called thousands of times."""
    return importlib.util.find_spec(package) is not None


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Makes a CUDA device the current one while a kernel is launched; does nothing where there is no other one."""
    return torch.cuda.device(device) if device.type == "cuda" and several_gpus() else nullcontext()


@cache
def several_gpus() -> bool:
    """Whether this process sees more than one GPU."""
    return torch.cuda.device_count() > 1
