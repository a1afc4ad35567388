"""One stateless job, picture -> files: what the CLI runs, with the same preparation as the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from trellis_app.errors import EmptyAssetError
from trellis_app.export.files import check_folder
from trellis_app.export.formats import check_formats, write_all
from trellis_app.export.sidecar import RunLog, settings_record
from trellis_app.export.source import ExportSource
from trellis_app.image.cutout import CutoutOptions
from trellis_app.image.reading import read_picture
from trellis_app.pipeline import ImageTo3D
from trellis_app.settings import AppSettings, FileOptions, GenerationRequest
from trellis_app.types import FinishedAsset, OVoxel, StageEvent


@dataclass(frozen=True)
class JobOptions:
    """Which picture becomes which files."""

    picture: Path
    folder: Path
    formats: tuple[str, ...] = ("glb", "ply")
    files: FileOptions = field(default_factory=FileOptions)
    cutout: CutoutOptions = field(default_factory=CutoutOptions)


def run_job(
    settings: AppSettings, request: GenerationRequest, options: JobOptions, notify: Callable[[StageEvent], None]
) -> list[Path]:
    """Generate and write every format and `<stem>.json`, all or none; returns the paths written.

    Cheap checks come first: formats, folder, picture, then the bundle. Raises the errors of errors.py.
    """
    check_formats(options.formats, options.files)
    check_folder(options.folder)
    picture = read_picture(options.picture)
    pipeline = ImageTo3D.load(settings)
    request = pipeline.resolved(request)
    prepared = pipeline.prepare(picture, options.cutout)
    log = RunLog()
    asset, voxels = finished(pipeline.generate(prepared, request), log, notify)
    record = settings_record(request, pipeline.samplers(request), bundle=pipeline.bundle.name)
    source = ExportSource(asset, voxels, request.finish, options.files, record)
    sidecar = {**record, "warnings": prepared.warnings, "seconds": log.rounded()}
    written = write_all(source, options.folder, options.picture.stem, options.formats, sidecar=sidecar)
    return [path for paths in written.values() for path in paths]


def finished(
    events: Iterable[StageEvent], log: RunLog, notify: Callable[[StageEvent], None]
) -> tuple[FinishedAsset, OVoxel]:
    """Run to the end, noting every event; returns what the last stages made. Raises EmptyAssetError without it."""
    voxels: OVoxel | None = None
    asset: FinishedAsset | None = None
    for event in events:
        log.note(event)
        notify(event)
        if isinstance(event.result, OVoxel):
            voxels = event.result
        elif isinstance(event.result, FinishedAsset):
            asset = event.result
    if asset is None or voxels is None:
        raise EmptyAssetError("The run ended without an asset.", "Try another seed.")
    return asset, voxels
