"""Sampling by flow matching: a time grid, guidance, and Euler steps in one loop.

    x_t = (1 - t) x_0 + (sigma + (1 - sigma) t) noise,  t = 1 noise, t = 0 data
    v   = (1 - sigma) noise - x_0                        what the models predict

(Flow matching: Lipman et al. 2023; guidance interval: Kynkäänniemi et al. 2024; rescale: Lin et al. 2024, section 3.4.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

import torch

from trellis_app.settings import SamplerSettings
from trellis_app.sparse.tensor import SparseTensor

TIME_SCALE = 1000.0  # the models take times of 0 to 1000

State = TypeVar("State", torch.Tensor, SparseTensor)


class Velocity(Protocol[State]):
    """A flow model with its conditions bound.

    Args:
        x: dense [B, C, R, R, R] or sparse feats [N, C].
        t: float32 [B], the flow time times 1000.
        conditional: with the picture, or with the empty condition.
    """

    def __call__(self, x: State, t: torch.Tensor, conditional: bool, /) -> State: ...


@dataclass(frozen=True)
class SampleStep(Generic[State]):
    """The state after a step."""

    step: int  # k of n, from 1
    steps: int
    t: float  # the time of x_t
    x_t: State
    x_0: State  # what the step predicts the data to be


def schedule(steps: int, rescale_t: float) -> list[float]:
    """steps + 1 times from 1 to 0: r u / (1 + (r - 1) u) for even u; r > 1 spends more steps near the noise."""
    even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return (rescale_t * even / (1 + (rescale_t - 1) * even)).tolist()


def forward_passes(settings: SamplerSettings) -> int:
    """How often a run calls its flow model: guided steps call it twice."""
    low, high = settings.guidance_interval
    guided = settings.guidance_strength not in (0.0, 1.0)
    return sum(2 if guided and low <= t <= high else 1 for t in schedule(settings.steps, settings.rescale_t)[:-1])


def sample(velocity: Velocity[State], noise: State, settings: SamplerSettings) -> Iterator[SampleStep[State]]:
    """Integrate from noise to data; yields after every step, the last `x_t` is the result.

    Closing the iterator stops the run between two steps. `noise` is left as it is.
    """
    sigma, x = settings.sigma_min, _values(noise)
    for step, (t, t_next) in enumerate(pairwise(schedule(settings.steps, settings.rescale_t)), start=1):
        v = _guided(velocity, _with_values(noise, x), t, settings)
        x_0 = _data(x, v, t, sigma)
        x = x - (t - t_next) * v
        yield SampleStep(step, settings.steps, t_next, _with_values(noise, x), _with_values(noise, x_0))


def _guided(velocity: Velocity[State], x: State, t: float, settings: SamplerSettings) -> torch.Tensor:
    """Velocity values at x: guided inside the interval, purely conditional outside."""
    low, high = settings.guidance_interval
    weight = settings.guidance_strength if low <= t <= high else 1.0
    time = torch.full((_batch_size(x),), TIME_SCALE * t, dtype=torch.float32, device=_values(x).device)
    if weight == 0.0:
        return _values(velocity(x, time, False))
    positive = _values(velocity(x, time, True))
    if weight == 1.0:
        return positive
    guided = weight * positive + (1 - weight) * _values(velocity(x, time, False))
    if settings.guidance_rescale == 0.0:
        return guided
    return _rescaled(x, positive, guided, t, settings)


def _rescaled(
    x: State, positive: torch.Tensor, guided: torch.Tensor, t: float, settings: SamplerSettings
) -> torch.Tensor:
    """Pull the spread of the guided data prediction towards that of the conditional one, per batch item."""
    sigma, share, values = settings.sigma_min, settings.guidance_rescale, _values(x)
    data = _data(values, guided, t, sigma)
    ratio = item_std(_with_values(x, _data(values, positive, t, sigma))) / item_std(_with_values(x, data))
    data = share * data * ratio + (1 - share) * data
    return ((1 - sigma) * values - data) / (sigma + (1 - sigma) * t)


def _data(x: torch.Tensor, v: torch.Tensor, t: float, sigma: float) -> torch.Tensor:
    """The data that velocity v at time t points to."""
    return (1 - sigma) * x - (sigma + (1 - sigma) * t) * v


def item_std(x: State) -> torch.Tensor:
    """Standard deviation of each batch item, shaped to multiply the values of x.

    Dense: over all other axes, unbiased. Sparse: population estimate over the item's rows and channels.
    """
    if isinstance(x, torch.Tensor):
        return x.std(dim=tuple(range(1, x.ndim)), keepdim=True)
    first = x.packing.mean(x.feats.mean(dim=1, keepdim=True))
    second = x.packing.mean(x.feats.square().mean(dim=1, keepdim=True))
    return x.packing.spread((second - first.square()).sqrt())


def _values(x: torch.Tensor | SparseTensor) -> torch.Tensor:
    return x if isinstance(x, torch.Tensor) else x.feats


def _with_values(x: State, values: torch.Tensor) -> State:
    return values if isinstance(x, torch.Tensor) else x.replace(values)


def _batch_size(x: torch.Tensor | SparseTensor) -> int:
    return len(x) if isinstance(x, torch.Tensor) else x.batch_size
