"""What one visitor has made: the prepared picture and the files of each run, on disk as soon as a stage ends."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from trellis_app.export.files import disk_error
from trellis_app.export.source import ExportSource
from trellis_app.settings import FinishOptions, GenerationRequest
from trellis_app.types import OVoxel, PreparedImage, Stage
from trellis_app.ui.mesh_card import ChosenMesh
from trellis_app.ui.stages import MESH, PICTURE, StageView, idle

TAKEN = {"cutout", *(stage.value for stage in Stage)}  # names of other files in a run's folder


@dataclass(frozen=True)
class Picture:
    """A chosen picture that passed the checks."""

    path: Path
    prepared: PreparedImage


@dataclass(frozen=True)
class Finished:
    """What files are made from, and the name they get."""

    source: ExportSource
    stem: str


@dataclass(frozen=True)
class Run:
    """One press of Generate: its folder and what has been made so far."""

    folder: Path
    name: str  # of the picture
    stem: str  # of the files to come
    request: GenerationRequest
    models: dict[Stage, Path] = field(default_factory=dict)  # GLB of each finished stage
    pictures: dict[Stage, Path] = field(default_factory=dict)  # its server-rendered PNG
    warnings: tuple[str, ...] = ()  # of the cut-out, in sentences
    mesh: ChosenMesh | None = None  # the user's own, where one is textured
    asset: OVoxel | None = None  # kept so that other finishing needs no new sampling
    finished: Finished | None = None  # kept so that another format needs no new finishing
    facts: dict[str, str] = field(default_factory=dict)  # what the page lists about the asset
    view: StageView = field(default_factory=idle)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing about the finished asset, in sentences."""
        return self.finished.source.asset.notes if self.finished else ()

    def with_finish(self, finish: FinishOptions) -> Run:
        """The run with other finishing; its files get names of their own, so that the earlier ones stay."""
        normals = "" if finish.normal_map else "-flat"
        stem = f"{self.name}-{finish.surface}-{finish.faces}-{finish.texture_size}px-{finish.alpha}{normals}"
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


def new_run(session_folder: Path, picture: Picture, request: GenerationRequest, mesh: ChosenMesh | None = None) -> Run:
    """Make the next numbered run folder and put the cut-out in it. Raises MachineError when the disk refuses."""
    name = re.sub(r"[^\w-]+", "-", mesh.mesh.name if mesh else picture.path.stem).strip("-")[:40]
    if mesh or not name or name in TAKEN:
        name = f"{name}-{'textured' if mesh else 'picture'}".strip("-")
    try:
        session_folder.mkdir(parents=True, exist_ok=True)
        number = 1 + sum(entry.is_dir() for entry in session_folder.iterdir())
        folder = session_folder / f"{number:03d}-{name}-seed{request.seed}"
        folder.mkdir()
        picture.prepared.cutout.save(folder / "cutout.png")
    except OSError as error:
        raise disk_error(error, session_folder) from error
    view = idle(MESH if mesh else PICTURE)
    warnings = picture.prepared.warnings
    return Run(folder=folder, name=name, stem=name, request=request, warnings=warnings, mesh=mesh, view=view)
