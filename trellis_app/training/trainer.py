"""The loop that all recipes share: budget, schedule, autocast, clipping, EMA, journal, checkpoints, resume."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from trellis_app.errors import TrellisError
from trellis_app.training.distributed import Process
from trellis_app.training.journal import Journal, MeanOfTerms
from trellis_app.training.optim import (
    Budget,
    Ema,
    OptimSettings,
    learning_rate_factor,
    make_optimizers,
    set_learning_rate,
)

LOG = logging.getLogger(__name__)
AGREE_EVERY = 10  # steps between two looks at the shared clock


@dataclass(frozen=True)
class TrainSettings:
    """One run of a recipe. The schedule spans `minutes` (or `steps`); a call may end earlier and be resumed."""

    out: Path
    minutes: float | None = None
    steps: int | None = None
    until: float | None = None  # end of the schedule in seconds since the epoch, instead of minutes or steps
    call_minutes: float | None = None  # leave this call after so long, checkpointed
    save_seconds: float = math.inf  # checkpoint so often, besides the validations
    seed: int = 0
    log_every: int = 20
    validations: int = 5  # evenly spread over the schedule, and one at its end; -1: not even that
    resume: bool = True
    optim: OptimSettings = field(default_factory=OptimSettings)


class Recipe(Protocol):
    """What a kind of training brings to the loop."""

    name: str
    module: nn.Module  # forward(batch) -> {"total": loss, term: value, ...}

    def batches(self, process: Process, budget: Budget) -> Iterator[Any]:
        """Endless batches on the process's device."""

    def validate(self, module: nn.Module, folder: Path) -> dict[str, float]:
        """Metrics of the averaged module; pictures go to the folder. Called in the first process only."""

    def save_weights(self, module: nn.Module, folder: Path) -> None:
        """Write the averaged module's networks as safetensors files."""

    def close(self) -> None:
        """Stop what feeds the batches."""


class Trainer:
    """State of one run: optimisers, average, progress."""

    def __init__(self, recipe: Recipe, settings: TrainSettings, process: Process) -> None:
        self.recipe, self.settings, self.process = recipe, settings, process
        self.wrapped = process.wrap(recipe.module)
        self.optimizers = make_optimizers(recipe.module, settings.optim)
        self.ema = Ema(recipe.module, settings.optim.ema_decay)
        self.folder = settings.out / recipe.name
        self.step = 0
        done = self._resume() if settings.resume else 0.0
        minutes = 1.0 if settings.until is not None else settings.minutes
        self.budget = Budget(minutes=minutes, steps=settings.steps, done=done)
        self.journal = Journal(settings.out, recipe.name, active=process.first)

    def _resume(self) -> float:
        path = self.folder / "last.pt"
        if not path.is_file():
            return 0.0
        state = torch.load(path, map_location=self.process.device, weights_only=True)
        self.recipe.module.load_state_dict(state["module"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.ema.load_state_dict(state["ema"])
        self.step = int(state["step"])
        LOG.info("resumed %s at step %d, %.0f %% of its schedule", path, self.step, 100 * state["fraction"])
        return float(state["fraction"])

    def save(self) -> None:
        """Checkpoint for resuming and the averaged weights; the first process writes, all wait."""
        if self.process.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            state = {
                "module": self.recipe.module.state_dict(),
                "optimizers": [o.state_dict() for o in self.optimizers],
                "ema": self.ema.state_dict(),
                "step": self.step,
                "fraction": self.budget.fraction,
            }
            partial = self.folder / "last.pt.partial"
            torch.save(state, partial)
            partial.replace(self.folder / "last.pt")
            self.recipe.save_weights(self.averaged(), self.settings.out / "weights")
        self.process.barrier()

    def averaged(self) -> nn.Module:
        """A copy of the module that holds the averaged weights."""
        module = copy.deepcopy(self.recipe.module)
        self.ema.copy_to(module)
        return module.eval()

    def validate(self) -> None:
        """Metrics of the averaged weights into the journal."""
        if self.process.first:
            started = time.monotonic()
            metrics = self.recipe.validate(self.averaged(), self.folder)
            self.journal.write("validation", step=self.step, took=time.monotonic() - started, **metrics)
        self.process.barrier()

    def _optimise(self, batch: Any, fraction: float) -> dict[str, torch.Tensor]:
        set_learning_rate(self.optimizers, learning_rate_factor(fraction, self.settings.optim))
        cuda = self.process.device.type == "cuda"
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=cuda):
            terms: dict[str, torch.Tensor] = self.wrapped(batch)
        terms["total"].backward()
        norm = clip_gradients(self.recipe.module, self.settings.optim.clip_norm)
        broken = ~torch.isfinite(norm)
        for p in self.recipe.module.parameters():
            if p.grad is not None:
                p.grad.masked_fill_(broken, 0.0)  # a step that overflowed moves nothing
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.recipe.module)
        return {**terms, "gradient": torch.where(broken, 0.0, norm), "broken": broken.float()}

    def run(self) -> bool:
        """Train to the end of the call; returns whether the schedule is complete."""
        settings = self.settings
        means = MeanOfTerms()
        fraction = self.process.agree(self.budget.done)
        next_validation = (int(fraction * settings.validations) + 1) / max(settings.validations, 1)
        batches = self.recipe.batches(self.process, self.budget)
        batch = next(batches)
        self.budget.start(until=settings.until)  # making the first samples is not training
        started = logged = saved = time.monotonic()
        while fraction < 1:
            means.add(self._optimise(batch, fraction))  # the shared fraction: replicas must not drift apart
            batch = next(batches)
            self.step += 1
            self.budget.tick()
            if self.step % settings.log_every == 0:
                seconds = (time.monotonic() - logged) / settings.log_every
                self.journal.write(
                    "step", step=self.step, fraction=self.budget.fraction, step_seconds=seconds, **means.take()
                )
                logged = time.monotonic()
            if self.step % AGREE_EVERY == 0 or settings.steps is not None:
                fraction = self.process.agree(self.budget.fraction)
                minutes = self.process.agree((time.monotonic() - started) / 60)
                if settings.call_minutes is not None and minutes >= settings.call_minutes:
                    break
            if self.step % AGREE_EVERY == 0 and self.process.agree(time.monotonic() - saved) >= settings.save_seconds:
                self.save()
                saved = time.monotonic()
            if settings.validations > 0 and fraction >= next_validation and fraction < 1:
                self.validate()
                self.save()
                next_validation += 1 / settings.validations
        self.save()
        if settings.validations >= 0:
            self.validate()
        return fraction >= 1


def clip_gradients(module: nn.Module, limit: float) -> torch.Tensor:
    """Clip the gradient norm of each network (each child of `networks`, or the whole) on its own; the largest norm."""
    networks = getattr(module, "networks", None)
    parts = list(networks.values()) if networks is not None else [module]
    parts = [part for part in parts if any(p.requires_grad for p in part.parameters())]
    norms = [nn.utils.clip_grad_norm_(part.parameters(), limit, foreach=True) for part in parts]
    return torch.stack(norms).amax()


def require_budget(settings: TrainSettings) -> None:
    """Refuse settings without a length."""
    if [settings.minutes, settings.steps, settings.until].count(None) != 2:
        raise TrellisError("The length of the training is not given.", "Pass one of --minutes, --steps and --until.")
