"""Numba functions that neither make nor keep arrays, without reference counts.

Numba counts the references of every array argument at every call, with atomic additions that cost more than a short
function's own work. A leaf function only reads and writes arrays that its caller holds, so it needs none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "_nrt": False}  # _nrt is missing in numba's type stubs
_WITHIN: dict[str, Any] = {"forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
F = TypeVar("F", bound=Callable[..., object])


def leaf(function: F) -> F:
    """Compile a function that only uses its caller's arrays; making one inside is an error when it is compiled."""
    compiled: F = njit(**_OPTIONS)(function)
    return compiled


def inlined(function: F) -> F:
    """Compile a leaf into each of its callers, which alone can call it: where a call would pass arrays by the stack."""
    compiled: F = njit(**_OPTIONS, **_WITHIN)(function)
    return compiled
