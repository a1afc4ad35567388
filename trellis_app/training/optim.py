"""Optimiser, learning-rate schedule by fraction of a time budget, exponential moving average of weights."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic iteration of Muon (Jordan et al. 2024)


@dataclass(frozen=True)
class OptimSettings:
    """Peak rates and regularisation; the rates follow `learning_rate_factor`."""

    learning_rate: float = 1e-3  # of AdamW
    muon_factor: float = 2.0  # Muon's rate (its updates are scaled to AdamW's size) as a multiple of AdamW's
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0
    warmup: float = 0.03  # fraction of the budget
    final: float = 0.02  # the last rate as a fraction of the peak
    ema_decay: float = 0.999
    muon: bool = True  # orthogonalised momentum for matrices and convolutions; False trains all with AdamW


class Budget:
    """Progress of a run, measured by steps or by minutes, surviving interruption.

    Only the time between `start` and `pause` counts, so a resumed run continues its schedule where it was.
    """

    def __init__(self, *, minutes: float | None = None, steps: int | None = None, done: float = 0.0) -> None:
        if (minutes is None) == (steps is None):
            raise ValueError("give a budget either in minutes or in steps")
        self.minutes, self.steps = minutes, steps
        self.done = done  # fraction finished before this process started
        self._started = time.monotonic()
        self._steps = 0

    def start(self, *, until: float | None = None) -> None:
        """Begin to count from now; with `until` (seconds since the epoch) what is left fills the time up to then."""
        self._started = time.monotonic()
        if until is not None:
            left = max((until - time.time()) / 60, 1e-3)
            self.minutes, self.steps = left / max(1 - self.done, 1e-3), None

    def tick(self) -> None:
        """One more optimisation step is finished."""
        self._steps += 1

    @property
    def fraction(self) -> float:
        """Share of the whole schedule finished, 0 to 1."""
        if self.minutes is not None:
            now = (time.monotonic() - self._started) / (60 * self.minutes)
        else:
            now = self._steps / (self.steps or 1)
        return min(self.done + now, 1.0)


def learning_rate_factor(fraction: float, settings: OptimSettings) -> float:
    """Linear warm-up, then half a cosine down to `settings.final`, by fraction of the budget."""
    if fraction < settings.warmup:
        return max(fraction / settings.warmup, 0.01)
    x = (fraction - settings.warmup) / (1 - settings.warmup)
    return settings.final + (1 - settings.final) * 0.5 * (1 + math.cos(math.pi * x))


def orthogonalise(matrices: torch.Tensor, *, iterations: int = 5) -> torch.Tensor:
    """Nearest semi-orthogonal matrices, approximately: Newton-Schulz on a stack [K, m, n]."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    wide = x.shape[1] <= x.shape[2]
    if not wide:
        x = x.transpose(1, 2)
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(iterations):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide else x.transpose(1, 2)).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised per matrix (Jordan et al. 2024), updates scaled to AdamW's size (Moonshot 2025).

    Weights of equal shape are orthogonalised in one batched call. Convolution weights count as [Co, rest].
    """

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(tuple(p.shape), []).append(p)
            for same in shapes.values():
                self._step_stack(same, group)

    def _step_stack(self, params: Sequence[nn.Parameter], group: dict[str, float]) -> None:
        momentum = group["momentum"]
        for p in params:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum"] for p in params]
        grads = [p.grad for p in params if p.grad is not None]
        torch._foreach_lerp_(buffers, grads, 1 - momentum)
        looked_ahead = torch._foreach_lerp(grads, buffers, momentum)
        stack = torch.stack(list(looked_ahead)).flatten(2)
        update = orthogonalise(stack)
        scale = 0.2 * max(update.shape[1:]) ** 0.5
        torch._foreach_mul_(list(params), 1 - group["lr"] * group["weight_decay"])
        updates = [u.view_as(p) for u, p in zip(update, params, strict=True)]
        torch._foreach_add_(list(params), updates, alpha=-group["lr"] * scale)


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a hidden weight matrix or kernel: those Muon is meant for."""
    outside = (
        "input_layer",
        "out_layer",
        "output_layer",
        "to_latent",
        "from_latent",
        "t_embedder",
        "stem",
        "to_subdiv",
        "aux",
    )
    large = parameter.dim() >= 2 and len(parameter) >= 8 and parameter[0].numel() >= 8
    return large and "weight" in name and not any(part in name for part in outside)


def make_optimizers(module: nn.Module, settings: OptimSettings) -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices (if enabled), AdamW for the rest; vectors are not decayed."""
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    matrices = [p for n, p in named if settings.muon and is_matrix(n, p)]
    chosen = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    fused = bool(rest) and rest[0].is_cuda
    optimizers: list[torch.optim.Optimizer] = []
    if groups:
        optimizers.append(torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=fused))
    if matrices:
        rate = settings.learning_rate * settings.muon_factor
        optimizers.append(Muon(matrices, lr=rate, weight_decay=settings.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def set_learning_rate(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Scale every group's peak rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor


class Ema:
    """Exponential moving average of a module's parameters; the decay warms up so that early weights fade.

    The decay after k updates is min(decay, (1 + k) / (10 + k)).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.shadow = {n: p.detach().clone().float() for n, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module's parameters."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = [p.detach().float() for _, p in module.named_parameters()]
        torch._foreach_lerp_(list(self.shadow.values()), current, 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Write the average into the module."""
        for name, parameter in module.named_parameters():
            parameter.copy_(self.shadow[name])

    def state_dict(self) -> dict[str, object]:
        """What a resumed run needs."""
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue an average saved by `state_dict`."""
        self.updates = int(state["updates"])  # type: ignore[call-overload]
        saved: dict[str, torch.Tensor] = state["shadow"]  # type: ignore[assignment]
        for name, value in self.shadow.items():
            value.copy_(saved[name])
