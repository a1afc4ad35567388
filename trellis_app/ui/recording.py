"""Turns each event of a run into the next state of the Run: previews, pictures, facts and files on disk."""

from __future__ import annotations

from dataclasses import replace

from trellis_app.export.files import write_atomically
from trellis_app.export.formats import FORMATS, write_all
from trellis_app.export.sidecar import RunLog, write_sidecar
from trellis_app.types import DualGrid, FinishedAsset, Occupancy, OVoxel, StageEvent
from trellis_app.ui import stages
from trellis_app.ui.previews import render_preview, write_preview
from trellis_app.ui.session import Run


def advance(run: Run, event: StageEvent, log: RunLog, record: dict[str, object]) -> Run:
    """The run after one more event; a stage's result is written before the page hears of it.

    record: settings for the files' metadata. Raises MachineError when the disk refuses.
    """
    log.note(event)
    run = replace(run, view=stages.after(run.view, event))
    if event.result is None:
        return run
    if isinstance(event.result, FinishedAsset):
        run = _with_files(run, event.result, log, record)
    elif isinstance(event.result, OVoxel):
        run = replace(run, asset=event.result)
    return _with_preview(run, event, event.result)


def _with_files(run: Run, asset: FinishedAsset, log: RunLog, record: dict[str, object]) -> Run:
    files = write_all(asset, run.folder, run.stem, tuple(FORMATS), record)
    write_sidecar(run.folder / f"{run.stem}.json", {**record, "seconds": log.rounded(), "counts": asset.counts})
    sizes = {f"{name.upper()} file": f"{path.stat().st_size / 1e6:.1f} MB" for name, path in files.items()}
    facts = {
        **run.facts,
        "Triangles": f"{len(asset.faces):,}",
        "Texture": f"{asset.textures.base_color.shape[0]} px",
        **sizes,
        "Seed": str(run.request.seed),
    }
    return replace(run, files=files, facts=facts)


def _with_preview(run: Run, event: StageEvent, result: Occupancy | DualGrid | OVoxel | FinishedAsset) -> Run:
    name = event.stage.value
    model = run.files["glb"] if isinstance(result, FinishedAsset) else write_preview(result, run.folder / f"{name}.glb")
    picture_name = run.stem if isinstance(result, FinishedAsset) else name
    picture = write_atomically(run.folder / f"{picture_name}.png", [render_preview(result)])
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
