"""Turns each event of a run into the next state of the Run: previews, pictures, facts and files on disk."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from functools import partial

from trellis_app.export.files import write_atomically
from trellis_app.export.formats import write_all
from trellis_app.export.sidecar import RunLog
from trellis_app.export.source import ExportSource
from trellis_app.heartbeat import StopSignal, beating
from trellis_app.types import DualGrid, FinishedAsset, Occupancy, OVoxel, StageEvent
from trellis_app.ui import stages
from trellis_app.ui.downloads import MAIN
from trellis_app.ui.previews import render_preview, write_preview
from trellis_app.ui.session import Finished, Run


def followed(
    run: Run, events: Generator[StageEvent, None, None], record: dict[str, object], wanted: Callable[[], bool]
) -> Generator[Run, None, None]:
    """The run after each event, and while a result is being written, as long as it is wanted.

    A result is on disk before the run has it. record: settings for the files' metadata. Raises MachineError when the
    disk refuses, and what the events raise.
    """
    log = RunLog()
    with closing(events):
        for event in events:
            with closing(_recorded(run, event, log, record)) as states:
                for run in states:
                    if not wanted():
                        return
                    yield run


def _recorded(run: Run, event: StageEvent, log: RunLog, record: dict[str, object]) -> Generator[Run, None, None]:
    """The run after one more event, beating as it was while the event's result is written."""
    log.note(event)
    if event.result is None:
        yield replace(run, view=stages.after(run.view, event))
        return
    view = run.view
    with closing(beating(partial(_with_result, run, event, log, record), StopSignal())) as work:
        while True:
            try:
                next(work)
            except StopIteration as end:
                yield replace(end.value, view=stages.beaten(end.value.view, after=view))
                return
            view = stages.beaten(view, after=view)
            yield replace(run, view=view)


def _with_result(run: Run, event: StageEvent, log: RunLog, record: dict[str, object]) -> Run:
    assert event.result is not None
    if isinstance(event.result, FinishedAsset):
        run = _with_files(run, event.result, log, record)
    elif isinstance(event.result, OVoxel):
        run = replace(run, asset=event.result)
    return _with_preview(replace(run, view=stages.after(run.view, event)), event, event.result)


def _with_files(run: Run, asset: FinishedAsset, log: RunLog, record: dict[str, object]) -> Run:
    assert run.asset is not None
    source = ExportSource(asset, run.asset, run.request.finish, record=record)
    sidecar = {**record, "warnings": run.warnings, "seconds": log.rounded()}
    write_all(source, run.folder, run.stem, (MAIN,), sidecar=sidecar)
    facts = {
        **run.facts,
        "Triangles": f"{len(asset.faces):,}",
        "Texture": f"{asset.textures.base_color.shape[0]} px",
        "Seed": str(run.request.seed),
    }
    return replace(run, finished=Finished(source, run.stem), facts=facts)


def _with_preview(run: Run, event: StageEvent, result: Occupancy | DualGrid | OVoxel | FinishedAsset) -> Run:
    name = event.stage.value
    model = run.folder / f"{run.stem if isinstance(result, FinishedAsset) else name}.glb"
    if not isinstance(result, FinishedAsset):
        write_preview(result, model)
    picture = write_atomically(model.with_suffix(".png"), [render_preview(result)])
    facts = dict(run.facts)
    if isinstance(result, Occupancy):
        facts["Blocks"] = f"{len(result.coords):,} of {result.resolution}³"
    if isinstance(result, DualGrid):
        facts["Voxels"] = f"{len(result.coords):,} of {result.resolution}³"
    return replace(
        run,
        models={**run.models, event.stage: model},
        pictures={**run.pictures, event.stage: picture},
        facts=facts,
        view=stages.with_thumb(run.view, event.stage, picture),
    )
