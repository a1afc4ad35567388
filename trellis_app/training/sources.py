"""Where a recipe's samples come from: the training part of a library, and fixed samples of objects held out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from trellis_app.training.distributed import Process
from trellis_app.training.library import LibraryObject, read_library
from trellis_app.training.samples import Sample, SampleOptions, SampleStream, Task, produce

HOLD_OUT_EVERY = 45  # one object in so many validates the run


@dataclass(frozen=True)
class SampleSource:
    """A library (None: procedural objects only) and how samples are made of it."""

    library: Path | None
    resolution: int
    view_side: int
    workers: int
    seed: int = 0
    held_out_samples: int = 12
    procedural: float = 0.15
    streams: list[SampleStream] = field(default_factory=list, repr=False)

    @cached_property
    def objects(self) -> list[LibraryObject]:
        """Every object of the library."""
        return [] if self.library is None else list(read_library(self.library))

    def training_objects(self) -> list[LibraryObject]:
        """The objects that are trained on."""
        return [o for i, o in enumerate(self.objects) if i % HOLD_OUT_EVERY]

    def validation_objects(self) -> list[LibraryObject]:
        """The objects that are held out."""
        return self.objects[::HOLD_OUT_EVERY]

    def stream(self, process: Process, *, views: int, view_side: int | None = None) -> SampleStream:
        """An endless stream for this process, disjoint from those of the other processes; closed by `close`."""
        options = SampleOptions(
            resolution=self.resolution,
            views=views,
            view_side=view_side or self.view_side,
            procedural=1.0 if self.library is None else self.procedural,
        )
        stream = SampleStream(
            self.training_objects(), workers=self.workers, seed=self.seed, options=options,
            start=process.rank, stride=process.size,
        )  # fmt: skip
        self.streams.append(stream)
        return stream

    def held_out(self) -> list[Sample]:
        """Fixed samples of held-out objects with one view each, made here; the same in every run, whatever its seed."""
        return self._held_out

    @cached_property
    def _held_out(self) -> list[Sample]:
        objects = self.validation_objects()
        options = SampleOptions(
            resolution=self.resolution, views=1, view_side=self.view_side, procedural=0.0, pairs=0.0, augment=False
        )
        samples: list[Sample] = []
        order = np.random.default_rng(0).permutation(len(objects)) if objects else np.arange(1000)
        for index in order:
            obj = objects[int(index)] if objects else None
            made = produce(Task(int(index), 1, options, obj, None))
            if isinstance(made, Sample):
                samples.append(made)
            if len(samples) == self.held_out_samples:
                break
        return samples

    def close(self) -> None:
        """Stop the workers of all streams."""
        for stream in self.streams:
            stream.close()
        self.streams.clear()
