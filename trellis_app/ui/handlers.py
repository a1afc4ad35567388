"""What happens on each action: small functions from values to changed parts of the page."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from trellis_app.errors import PictureError, TrellisError
from trellis_app.export.sidecar import RunLog, settings_record
from trellis_app.image.cutout import CutoutOptions
from trellis_app.image.reading import read_picture
from trellis_app.pipeline import ImageTo3D
from trellis_app.progress import RunClock
from trellis_app.settings import MAX_SEED, FinishOptions, GenerationRequest
from trellis_app.types import PreparedImage, Stage, StageEvent
from trellis_app.ui import stages
from trellis_app.ui.controls import ranged_fields, with_values
from trellis_app.ui.cutout_card import cutout_card, example_pictures, refused_card
from trellis_app.ui.page import Page
from trellis_app.ui.recording import advance
from trellis_app.ui.session import Picture, Run, Visitor, new_run

LOGGER = logging.getLogger(__name__)
STAGES = (Stage.STRUCTURE, Stage.SHAPE, Stage.MATERIAL)
Changes = dict[Any, Any]
Events = Generator[StageEvent, None, None]


@dataclass(frozen=True)
class Work:
    """The pipeline, and its two calls that need the GPU (a Space wraps them to borrow one)."""

    pipeline: ImageTo3D
    prepare: Callable[[Image.Image, CutoutOptions], PreparedImage]
    generate: Callable[[PreparedImage, GenerationRequest], Events]


class Handlers:
    """One method an event; each returns or yields the parts that change."""

    def __init__(self, work: Work, page: Page) -> None:
        self.work = work
        self.page = page

    def choose_picture(self, path: str | None, keep_alpha: bool, room: float) -> Changes:
        """Check and cut out the chosen picture; a picture that cannot be used gets its sentence."""
        if path is None:
            return self._chosen(None, cutout_card(None))
        try:
            options = CutoutOptions(keep_alpha=keep_alpha, foreground_ratio=room if room < 1 else None)
            prepared = self.work.prepare(read_picture(path), options)
        except TrellisError as error:
            return self._chosen(None, refused_card(error))
        return self._chosen(Picture(Path(path), prepared), cutout_card(prepared))

    def _chosen(self, picture: Picture | None, card: dict[str, object]) -> Changes:
        panel = self.page.picture
        return {self.page.chosen: picture, panel.cutout: card, panel.run.generate: _enabled(picture is not None)}

    def pick_example(self, event: gr.EventData) -> str:
        """The file of the example that was clicked."""
        return str(example_pictures()[int(event.index)])

    def restore_samplers(self) -> list[float]:
        """Slider values of the model's own sampler settings, stage by stage."""
        samplers = self.work.pipeline.samplers()
        return [getattr(samplers[stage], name) for stage in STAGES for name in ranged_fields(samplers[stage])]

    def begin(self, visitor: Visitor, randomise: bool, seed: float, *_: Any) -> Changes:
        """Show at once that the run is in line; draw a new seed if asked to.

        Takes all settings, so that Gradio refuses one that is out of range before anything starts.
        """
        chosen = secrets.randbelow(MAX_SEED + 1) if randomise else int(seed or 0)
        return {
            self.page.number: visitor.begin(),
            self.page.picture.run.seed: chosen,
            self.page.stage.stages: stages.waiting().props(),
            **self._result(None),
        }

    def generate(
        self, visitor: Visitor, number: int, picture: Picture | None, seed: float, preset: str, *values: Any
    ) -> Iterator[Changes]:
        """Run all stages; every beat changes the stage row, every result the viewer and the files."""
        if not visitor.wants(number):
            return
        try:
            if picture is None:
                raise PictureError("There is no picture yet.", "Choose one on the left.")
            request = self.request(preset, int(seed), values)
            run = new_run(visitor.folder, picture, request)
        except TrellisError as error:
            yield {self.page.stage.stages: stages.failed(stages.idle(), error).props()}
            return
        yield from self._follow(run, self.work.generate(picture.prepared, request), visitor, number)

    def begin_again(self, visitor: Visitor, run: Run | None, *_: Any) -> Changes:
        """Show at once that new files are in line."""
        view = stages.waiting(run.view if run else None)
        return {self.page.number: visitor.begin(), self.page.stage.stages: view.props()}

    def finish_again(self, visitor: Visitor, number: int, run: Run | None, *values: Any) -> Iterator[Changes]:
        """Make the files again from the kept asset, without sampling anything."""
        if run is None or run.asset is None or not visitor.wants(number):
            return
        finish = _finish_options(values)
        again = run.with_finish(finish)
        events = self.work.pipeline.finish(run.asset, finish, RunClock({Stage.FINISH: 1.0}))
        yield from self._follow(again, events, visitor, number)

    def stop(self, visitor: Visitor, run: Run | None) -> Changes:
        """The run was stopped; what it finished stays."""
        visitor.stop()
        return self._halted(run, stages.stopped)

    def unexpected(self, run: Run | None) -> Changes:
        """An error that nobody foresaw ended the run; the server's log has it."""
        error = TrellisError("Something went wrong that was not foreseen.", "The server's log says what; try again.")
        return self._halted(run, lambda view: stages.failed(view, error))

    def show(self, token: str, run: Run | None, viewer: gr.Model3D) -> tuple[Any, Any]:
        """Put the newest stage's model and picture on the page and keep the camera where the user turned it."""
        return _stage_outputs(token.partition(":")[2], run, viewer)

    def look_back(self, event: gr.EventData, run: Run | None, viewer: gr.Model3D) -> tuple[Any, Any]:
        """Show the stage whose card was clicked."""
        return _stage_outputs(str(event.value), run, viewer)

    def request(self, preset: str, seed: int, values: tuple[Any, ...]) -> GenerationRequest:
        """Control values in the order of the page -> request with nothing left open. Raises SettingsError."""
        cut = len(self.page.asset.finish) + 1
        finish, samplers, left = _finish_options(values[:cut]), self.work.pipeline.samplers(), list(values[cut:])
        chosen = []
        for stage in STAGES:
            count = len(ranged_fields(samplers[stage]))
            chosen.append(with_values(samplers[stage], left[:count]))
            left = left[count:]
        structure, shape, material = chosen
        return self.work.pipeline.resolved(GenerationRequest(preset, seed, structure, shape, material, finish=finish))

    def _follow(self, run: Run, events: Events, visitor: Visitor, number: int) -> Iterator[Changes]:
        """Changes of each event while the run is wanted, then of its end; nothing any more once another run began."""
        pipeline, log = self.work.pipeline, RunLog()
        record = settings_record(run.request, pipeline.samplers(run.request), bundle=pipeline.bundle.name)
        try:
            with closing(events):
                for event in takewhile(lambda _: visitor.wants(number), events):
                    run = advance(run, event, log, record)
                    yield self._beat(run, event)
            ending = stages.done if visitor.wants(number) else stages.stopped
            run = replace(run, view=ending(run.view))
        except TrellisError as error:
            LOGGER.info("run ended early: %s", error)
            run = replace(run, view=stages.failed(run.view, error))
        if visitor.begun == number:
            yield {self.page.stage.stages: run.view.props(), **self._result(run)}

    def _beat(self, run: Run, event: StageEvent) -> Changes:
        changes: Changes = {self.page.stage.stages: run.view.props(), self.page.run: run}
        if event.result is not None:
            changes[self.page.stage.shown] = f"{secrets.token_hex(4)}:{event.stage.value}"
            changes[self.page.asset.facts] = _facts(run)
        return changes

    def _halted(self, run: Run | None, ending: Callable[[stages.StageView], stages.StageView]) -> Changes:
        view = ending(run.view if run else stages.idle())
        return {self.page.stage.stages: view.props(), **self._result(replace(run, view=view) if run else None)}

    def _result(self, run: Run | None) -> Changes:
        """What the asset panel shows of a run that is over, or of none."""
        files, asset = (run.files if run else {}), self.page.asset
        return {
            self.page.run: run,
            asset.facts: _facts(run) if run else [],
            asset.refinish: _enabled(run is not None and run.asset is not None),
            asset.glb: gr.DownloadButton(value=files.get("glb"), interactive="glb" in files),
            asset.ply: gr.DownloadButton(value=files.get("ply"), interactive="ply" in files),
        }


def _enabled(value: bool) -> dict[str, Any]:
    return gr.update(interactive=value)


def _finish_options(values: Sequence[Any]) -> FinishOptions:
    return with_values(FinishOptions(alpha=values[-1]), values[:-1])


def _facts(run: Run) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in run.facts.items()]


def _stage_outputs(name: str, run: Run | None, viewer: gr.Model3D) -> tuple[Any, Any]:
    if run is None or name not in {stage.value for stage in run.models}:
        return gr.skip(), gr.skip()
    stage = Stage(name)
    return gr.Model3D(value=str(run.models[stage]), camera_position=viewer.camera_position), str(run.pictures[stage])
