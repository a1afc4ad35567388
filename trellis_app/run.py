"""What the stages of one run share: the request, what is known of the picture, and where chance comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from trellis_app.manifest import Preset
from trellis_app.progress import RunClock
from trellis_app.settings import GenerationRequest
from trellis_app.types import ImageFeatures

STRUCTURE_IMAGE_SIZE = 512


@dataclass(frozen=True)
class Run:
    """What the stages of one run share."""

    request: GenerationRequest  # resolved: no None left
    preset: Preset
    features: Callable[[int], ImageFeatures]  # by picture side
    randoms: tuple[torch.Generator, ...]  # one for all samples, or one for each, which then equals its single run
    clock: RunClock

    def noise(self, lengths: Sequence[int], *shape: int) -> torch.Tensor:
        """Standard normal float32 [sum of lengths, *shape], so many rows for each sample.

        Drawn on the CPU so that a seed means the same on every device.
        """
        if len(self.randoms) == 1:
            return torch.randn(sum(lengths), *shape, generator=self.randoms[0])
        draws = zip(lengths, self.randoms, strict=True)
        return torch.cat([torch.randn(length, *shape, generator=random) for length, random in draws])


def image_side(resolution: int) -> int:
    """Side in pixels at which the picture is encoded for the flow models of a resolution."""
    return STRUCTURE_IMAGE_SIZE if resolution <= STRUCTURE_IMAGE_SIZE else 2 * STRUCTURE_IMAGE_SIZE
