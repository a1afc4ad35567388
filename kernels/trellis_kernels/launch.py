"""Sizes of kernel launches in plain integers: Triton's own functions for them take several microseconds a call."""

from __future__ import annotations


def programs(count: int, block: int) -> int:
    """How many programs of `block` elements cover `count`."""
    return -(-count // block)


def power_of_two(count: int) -> int:
    """The least power of two that is not below `count`, which is positive."""
    return 1 << (count - 1).bit_length()
