"""What happens on each action: small functions from values to changed parts of the page."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from trellis_app.catalogue import Catalogue
from trellis_app.errors import MeshError, PictureError, TrellisError
from trellis_app.export.sidecar import settings_record
from trellis_app.image.cutout import CutoutOptions
from trellis_app.image.reading import read_picture
from trellis_app.mesh.user_mesh import Stance, UserMesh
from trellis_app.settings import MAX_SEED, FileOptions, FinishOptions, GenerationRequest
from trellis_app.texturing import TextureOptions, finish_texture
from trellis_app.types import OVoxel, PreparedImage, Stage, StageEvent
from trellis_app.ui import finishing, stages
from trellis_app.ui.controls import ranged_fields, with_values
from trellis_app.ui.cutout_card import cutout_card, example_pictures, refused_card
from trellis_app.ui.downloads import download_list, make
from trellis_app.ui.health_card import examined, health_card
from trellis_app.ui.mesh_card import ChosenMesh, mesh_card, read_upload, stand
from trellis_app.ui.page import FRONT_CAMERA, Page
from trellis_app.ui.recording import followed
from trellis_app.ui.session import Picture, Run, Visitor, new_run

LOGGER = logging.getLogger(__name__)
STAGES = (Stage.STRUCTURE, Stage.SHAPE, Stage.MATERIAL)
Changes = dict[Any, Any]
Events = Generator[StageEvent, None, None]


@dataclass(frozen=True)
class Work:
    """What can be asked for, and the calls that need a GPU: a Space borrows one for them, workers have their own."""

    catalogue: Catalogue
    prepare: Callable[[Image.Image, CutoutOptions], PreparedImage]
    generate: Callable[[PreparedImage, GenerationRequest], Events]
    finish: Callable[[OVoxel, FinishOptions], Events]
    texture: Callable[[UserMesh, PreparedImage, GenerationRequest, TextureOptions], Events]


class Handlers:
    """One method an event; each returns or yields the parts that change."""

    def __init__(self, work: Work, page: Page) -> None:
        self.work = work
        self.page = page

    def choose_mode(self, mode: str, picture: Picture | None, mesh: ChosenMesh | None) -> Changes:
        """Show what the kind of run needs. The asset on the page makes way; its files stay on disk."""
        panel, texturing = self.page.picture, mode == stages.MESH
        run = gr.update(value="Texture the mesh" if texturing else "Generate", interactive=_ready(mode, picture, mesh))
        return {
            panel.mesh.frame: gr.update(visible=texturing),
            panel.run.generate: run,
            panel.advanced.tabs: gr.Tabs(selected=(Stage.MATERIAL if texturing else Stage.STRUCTURE).value),
            **self._result(None),
            **self._clay(mesh if texturing else None, mode),
        }

    def choose_mesh(
        self, visitor: Visitor, path: str | None, side: int, up: str, uv: str, picture: Picture | None
    ) -> Changes:
        """Check the chosen mesh and show it in clay, the side in the picture to the front."""
        try:
            options = TextureOptions(Stance(up, float(side)), uv)
            chosen = stand(read_upload(path), options, visitor.folder) if path else None
            card = mesh_card(chosen)
        except TrellisError as error:
            chosen, card = None, refused_card(error)
        panel = self.page.picture
        return {
            self.page.mesh: chosen,
            panel.mesh.card: card,
            panel.run.generate: _enabled(_ready(stages.MESH, picture, chosen)),
            **self._result(None),
            **self._clay(chosen, stages.MESH),
        }

    def _clay(self, mesh: ChosenMesh | None, mode: str) -> Changes:
        """The stage row before a run; the viewer with the mesh in clay, empty without one."""
        view, stage = stages.idle(mode), self.page.stage
        if mesh is None:
            return {stage.stages: view.props(), stage.viewer: None, self.page.asset.rendering: None}
        return {
            stage.stages: stages.with_thumb(view, Stage.SHAPE, mesh.picture).props(),
            stage.viewer: gr.Model3D(value=str(mesh.model), camera_position=FRONT_CAMERA),
            self.page.asset.rendering: str(mesh.picture),
        }

    def choose_picture(
        self, path: str | None, keep_alpha: bool, room: float, mode: str, mesh: ChosenMesh | None
    ) -> Changes:
        """Check and cut out the chosen picture; a picture that cannot be used gets its sentence."""
        if path is None:
            return self._chosen(None, cutout_card(None), mode, mesh)
        try:
            options = CutoutOptions(keep_alpha=keep_alpha, foreground_ratio=room if room < 1 else None)
            prepared = self.work.prepare(read_picture(path), options)
        except TrellisError as error:
            return self._chosen(None, refused_card(error), mode, mesh)
        return self._chosen(Picture(Path(path), prepared), cutout_card(prepared), mode, mesh)

    def _chosen(self, picture: Picture | None, card: dict[str, object], mode: str, mesh: ChosenMesh | None) -> Changes:
        panel, ready = self.page.picture, _ready(mode, picture, mesh)
        return {self.page.chosen: picture, panel.cutout: card, panel.run.generate: _enabled(ready)}

    def pick_example(self, event: gr.EventData) -> str:
        """The file of the example that was clicked."""
        return str(example_pictures()[int(event.index)])

    def restore_samplers(self) -> list[float]:
        """Slider values of the model's own sampler settings, stage by stage."""
        samplers = self.work.catalogue.samplers()
        return [getattr(samplers[stage], name) for stage in STAGES for name in ranged_fields(samplers[stage])]

    def begin(self, visitor: Visitor, mode: str, randomise: bool, seed: float, *_: Any) -> Changes:
        """Show at once that the run is in line; draw a new seed if asked to."""
        chosen = secrets.randbelow(MAX_SEED + 1) if randomise else int(seed or 0)
        return {
            self.page.number: visitor.begin(),
            self.page.picture.run.seed: chosen,
            self.page.stage.stages: stages.waiting(stages.idle(mode)).props(),
            **self._result(None),
        }

    def generate(
        self,
        visitor: Visitor,
        number: int,
        mode: str,
        picture: Picture | None,
        mesh: ChosenMesh | None,
        seed: float,
        preset: str,
        *values: Any,
    ) -> Iterator[Changes]:
        """Run all stages; every beat changes the stage row, every result the viewer and the files."""
        if not visitor.wants(number):
            return
        try:
            if picture is None:
                raise PictureError("There is no picture yet.", "Choose one on the left.")
            request = self.request(preset, int(seed), values)
            run = new_run(visitor.folder, picture, request, _mesh_of(mode, mesh))
        except TrellisError as error:
            yield {self.page.stage.stages: stages.failed(stages.idle(mode), error).props()}
            return
        yield from self._follow(run, self._events(run, picture), visitor, number)

    def _events(self, run: Run, picture: Picture) -> Events:
        if run.mesh is not None:
            return self.work.texture(run.mesh.mesh, picture.prepared, run.request, run.mesh.options)
        return self.work.generate(picture.prepared, run.request)

    def examine(self, visitor: Visitor, run: Run | None) -> Any:
        """Look closer at the finished mesh, unless another run has begun."""
        number = visitor.begun
        card = health_card(examined(run.finished.source.asset) if run is not None and run.finished else None)
        return card if visitor.begun == number else gr.skip()

    def choose_purpose(self, run: Run | None, purpose: str) -> list[Any]:
        """Set every control of finishing to what serves the purpose."""
        options = finishing.PURPOSES[purpose]
        return [*finishing.values_of(options), _update_button(run, options)]

    def weigh(self, run: Run | None, *values: Any) -> tuple[Any, Any]:
        """Say which purpose the controls serve, and whether the files differ from them."""
        options = finishing.options_of(values)
        return finishing.purpose_of(options), _update_button(run, options)

    def make_file(
        self, visitor: Visitor, run: Run | None, print_size: float, event: gr.EventData
    ) -> Iterator[dict[str, object]]:
        """Make the file whose row was clicked, unless other files have begun to take their place."""
        number = visitor.begun
        if run is not None and run.finished is not None:
            yield from takewhile(lambda _: visitor.begun == number, make(run, str(event.value), print_size))

    def list_files(self, run: Run | None, print_size: float) -> dict[str, object]:
        """The list of downloads for another print size."""
        return download_list(run, print_size)

    def begin_again(self, visitor: Visitor, run: Run | None, *_: Any) -> Changes:
        """Show at once that new files are in line."""
        view = stages.waiting(run.view if run else None)
        return {self.page.number: visitor.begin(), self.page.stage.stages: view.props()}

    def finish_again(self, visitor: Visitor, number: int, run: Run | None, *values: Any) -> Iterator[Changes]:
        """Make the files again from the kept asset, without sampling anything."""
        if run is None or run.asset is None or not visitor.wants(number):
            return
        again = run.with_finish(finishing.options_of(values))
        if run.mesh is not None:
            events = finish_texture(run.mesh.mesh, run.asset, again.request.finish, run.mesh.options)
        else:
            events = self.work.finish(run.asset, again.request.finish)
        yield from self._follow(again, events, visitor, number)

    def stop(self, visitor: Visitor, run: Run | None, mode: str) -> Changes:
        """The run was stopped; what it finished stays."""
        visitor.stop()
        return self._halted(run, mode, stages.stopped)

    def unexpected(self, run: Run | None, mode: str) -> Changes:
        """An error that nobody foresaw ended the run; the server's log has it."""
        error = TrellisError("Something went wrong that was not foreseen.", "The server's log says what; try again.")
        return self._halted(run, mode, lambda view: stages.failed(view, error))

    def show(self, token: str, run: Run | None, viewer: gr.Model3D) -> tuple[Any, Any]:
        """Put the newest stage's model and picture on the page and keep the camera where the user turned it."""
        return _stage_outputs(token.partition(":")[2], run, viewer)

    def look_back(self, event: gr.EventData, run: Run | None, viewer: gr.Model3D) -> tuple[Any, Any]:
        """Show the stage whose card was clicked."""
        return _stage_outputs(str(event.value), run, viewer)

    def request(self, preset: str, seed: int, values: tuple[Any, ...]) -> GenerationRequest:
        """Control values in the order of the page -> request with nothing left open. Raises SettingsError."""
        cut = len(finishing.FIELDS)
        finish, samplers, left = finishing.options_of(values[:cut]), self.work.catalogue.samplers(), list(values[cut:])
        chosen = []
        for stage in STAGES:
            count = len(ranged_fields(samplers[stage]))
            chosen.append(with_values(samplers[stage], left[:count]))
            left = left[count:]
        structure, shape, material = chosen
        return self.work.catalogue.resolved(GenerationRequest(preset, seed, structure, shape, material, finish=finish))

    def _follow(self, run: Run, events: Events, visitor: Visitor, number: int) -> Iterator[Changes]:
        """Changes of each event while the run is wanted, then of its end; nothing any more once another run began."""
        try:
            for now in followed(run, events, self._record(run), lambda: visitor.wants(number)):
                yield self._beat(run, now)
                run = now
            view = stages.done(run.view, run.notes) if visitor.wants(number) else stages.stopped(run.view)
            run = replace(run, view=view)
        except TrellisError as error:
            LOGGER.info("run ended early: %s", error)
            run = replace(run, view=stages.failed(run.view, error))
        if visitor.begun == number:
            yield {self.page.stage.stages: run.view.props(), **self._result(run)}

    def _record(self, run: Run) -> dict[str, object]:
        """Settings for the files' metadata; of a textured mesh only what shaped it."""
        catalogue = self.work.catalogue
        samplers = catalogue.samplers(run.request)
        if run.mesh is None:
            return settings_record(run.request, samplers, bundle=catalogue.bundle.name)
        used = {Stage.MATERIAL: samplers[Stage.MATERIAL]}
        own = {"mesh": run.mesh.mesh.name, "texture": asdict(run.mesh.options)}
        return {**settings_record(run.request, used, bundle=catalogue.bundle.name), **own}

    def _beat(self, before: Run, now: Run) -> Changes:
        changes: Changes = {self.page.stage.stages: now.view.props(), self.page.run: now}
        if now.models is not before.models:
            newest = list(now.models)[-1]
            changes[self.page.stage.shown] = f"{secrets.token_hex(4)}:{newest.value}"
            changes[self.page.asset.facts] = _facts(now)
        return changes

    def _halted(self, run: Run | None, mode: str, ending: Callable[[stages.StageView], stages.StageView]) -> Changes:
        view = ending(run.view if run else stages.idle(mode))
        return {self.page.stage.stages: view.props(), **self._result(replace(run, view=view) if run else None)}

    def _result(self, run: Run | None) -> Changes:
        """What the asset panel shows of a run that is over, or of none."""
        finished, asset = (run.finished if run else None), self.page.asset
        return {
            self.page.run: run,
            asset.facts: _facts(run) if run else [],
            asset.health: health_card(finished.source.asset.health if finished else None),
            asset.downloads: download_list(run, FileOptions().size_mm),
        }


def _mesh_of(mode: str, mesh: ChosenMesh | None) -> ChosenMesh | None:
    """The mesh of a run of this kind; raises MeshError where it needs one."""
    if mode == stages.PICTURE:
        return None
    if mesh is None:
        raise MeshError("There is no mesh yet.", "Choose one on the left.")
    return mesh


def _ready(mode: str, picture: Picture | None, mesh: ChosenMesh | None) -> bool:
    """Whether a run of this kind has all it needs."""
    return picture is not None and (mode == stages.PICTURE or mesh is not None)


def _enabled(value: bool) -> dict[str, Any]:
    return gr.update(interactive=value)


def _update_button(run: Run | None, wanted: FinishOptions) -> dict[str, Any]:
    """The button under the controls: pressing it makes sense where there is an asset and its files are others."""
    if run is None or run.asset is None:
        return gr.update(value="Update the files", interactive=False, variant="secondary")
    if run.finished is not None and run.finished.source.finish == wanted:
        return gr.update(value="The files are up to date", interactive=False, variant="secondary")
    return gr.update(value="Update the files", interactive=True, variant="primary")


def _facts(run: Run) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in run.facts.items()]


def _stage_outputs(name: str, run: Run | None, viewer: gr.Model3D) -> tuple[Any, Any]:
    if run is None or name not in {stage.value for stage in run.models}:
        return gr.skip(), gr.skip()
    stage = Stage(name)
    return gr.Model3D(value=str(run.models[stage]), camera_position=viewer.camera_position), str(run.pictures[stage])
