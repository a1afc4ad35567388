"""Turns steps into StageEvents with plain labels, elapsed seconds and an estimate of what is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import TypeVar, cast

from trellis_app.types import DualGrid, FinishedAsset, Occupancy, OVoxel, Stage, StageEvent

TITLES = {
    Stage.STRUCTURE: "Structure",
    Stage.SHAPE: "Shape",
    Stage.MATERIAL: "Material",
    Stage.FINISH: "Finishing",
}
T = TypeVar("T")
Check = Callable[[], None]  # long work calls it now and then (at least every half second); it raises to stop the work


def go_on() -> None:
    """The Check of work that nobody stops."""


# Share of a run's seconds before anything was measured (mini bundle on 2 cores).
FIRST_GUESS = {
    Stage.IMAGE: 0.05,
    Stage.STRUCTURE: 0.2,
    Stage.SHAPE: 0.3,
    Stage.MATERIAL: 0.2,
    Stage.FINISH: 0.25,
}


class RunClock:
    """Elapsed and remaining time of one run; learns each stage's share from the run before it."""

    def __init__(self, shares: dict[Stage, float] | None = None) -> None:
        self._shares = shares or FIRST_GUESS
        self._start = time.monotonic()
        self._stage_start = {Stage.IMAGE: 0.0}
        self._stage_seconds: dict[Stage, float] = {}

    def event(
        self,
        stage: Stage,
        what: str,
        step: int,
        steps: int,
        result: Occupancy | DualGrid | OVoxel | FinishedAsset | None = None,
    ) -> StageEvent:
        """One beat: `step` of `steps` of the stage is done. What comes before the stages speaks for itself."""
        elapsed = time.monotonic() - self._start
        begun = self._stage_start.setdefault(stage, elapsed)
        self._stage_seconds[stage] = elapsed - begun
        return StageEvent(
            stage=stage,
            label=f"{TITLES[stage]}: {what}" if stage in TITLES else what[:1].upper() + what[1:],
            step=step,
            steps=steps,
            elapsed=elapsed,
            remaining=self._remaining(stage, step / max(steps, 1), elapsed),
            result=result,
        )

    def beats(
        self, work: Generator[None, None, T], stage: Stage, what: str, step: int, steps: int
    ) -> Generator[StageEvent, None, T]:
        """An event for every beat of `work` (heartbeat.py), while `step` of `steps` are done; returns its result."""
        with closing(work):
            while True:
                try:
                    next(work)
                except StopIteration as end:
                    return cast(T, end.value)
                yield self.event(stage, what, step, steps)

    def shares(self) -> dict[Stage, float]:
        """Measured share of each stage, for the next run's estimate."""
        total = sum(self._stage_seconds.values())
        return {stage: seconds / total for stage, seconds in self._stage_seconds.items()} if total else self._shares

    def _remaining(self, stage: Stage, fraction: float, elapsed: float) -> float | None:
        order = list(Stage)
        before = sum(self._shares.get(s, 0.0) for s in order[: order.index(stage)])
        done = before + fraction * self._shares.get(stage, 0.0)
        if done < 0.02 or elapsed < 0.5:
            return None
        return elapsed * (1 - min(done, 1.0)) / done
