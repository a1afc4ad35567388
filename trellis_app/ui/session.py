"""What one visitor has made: the prepared picture and the files of each run, on disk as soon as a stage ends."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from trellis_app.export.formats import disk_error
from trellis_app.settings import FinishOptions, GenerationRequest
from trellis_app.types import OVoxel, PreparedImage, Stage
from trellis_app.ui.stages import StageView, idle


@dataclass(frozen=True)
class Picture:
    """A chosen picture that passed the checks."""

    path: Path
    prepared: PreparedImage


@dataclass(frozen=True)
class Run:
    """One press of Generate: its folder and what has been made so far."""

    folder: Path
    name: str  # of the picture
    stem: str  # of the finished files
    request: GenerationRequest
    models: dict[Stage, Path] = field(default_factory=dict)  # GLB of each finished stage
    pictures: dict[Stage, Path] = field(default_factory=dict)  # its server-rendered PNG
    asset: OVoxel | None = None  # kept so that another face budget needs no new sampling
    files: dict[str, Path] = field(default_factory=dict)  # finished downloads by format
    facts: dict[str, str] = field(default_factory=dict)  # what the page lists about the asset
    view: StageView = field(default_factory=idle)

    def with_finish(self, finish: FinishOptions) -> Run:
        """The run with other finishing; its files get names of their own, so that the earlier ones stay."""
        stem = f"{self.name}-{finish.faces}-{finish.texture_size}px-{finish.alpha}"
        return replace(self, stem=stem, request=replace(self.request, finish=finish))


@dataclass
class Visitor:
    """One visitor's folder and the numbers of their runs, counted from 1.

    A run asks `wants` before each step and ends itself. (Gradio's own cancellation gets lost when the next run starts
    at once.)
    """

    folder: Path
    begun: int = 0
    stopped: int = 0

    def begin(self) -> int:
        """The number of a new run; runs before it are no longer wanted."""
        self.begun += 1
        return self.begun

    def stop(self) -> None:
        """No run that has begun is wanted any more."""
        self.stopped = self.begun

    def wants(self, number: int) -> bool:
        """Whether the run of this number is the newest one and was not stopped."""
        return self.stopped < number == self.begun


def new_visitor(output_folder: Path) -> Visitor:
    """A visitor whose folder's name cannot be guessed. The folder is made when something is first written."""
    return Visitor(output_folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(8)}")


def new_run(session_folder: Path, picture: Picture, request: GenerationRequest) -> Run:
    """Make the next numbered run folder and put the cut-out in it. Raises MachineError when the disk refuses."""
    name = re.sub(r"[^\w-]+", "-", picture.path.stem).strip("-")[:40] or "picture"
    try:
        session_folder.mkdir(parents=True, exist_ok=True)
        number = 1 + sum(entry.is_dir() for entry in session_folder.iterdir())
        folder = session_folder / f"{number:03d}-{name}-seed{request.seed}"
        folder.mkdir()
        picture.prepared.cutout.save(folder / "cutout.png")
    except OSError as error:
        raise disk_error(error, session_folder) from error
    return Run(folder=folder, name=name, stem=name, request=request)
