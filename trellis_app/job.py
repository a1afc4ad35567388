"""One stateless job, picture -> files: what the CLI runs, with the same preparation as the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from trellis_app.errors import EmptyAssetError
from trellis_app.export.formats import check_formats, write_all
from trellis_app.export.sidecar import RunLog, settings_record, write_sidecar
from trellis_app.image.cutout import CutoutOptions
from trellis_app.image.reading import read_picture
from trellis_app.pipeline import ImageTo3D
from trellis_app.settings import AppSettings, GenerationRequest
from trellis_app.types import FinishedAsset, StageEvent


@dataclass(frozen=True)
class JobOptions:
    """Which picture becomes which files."""

    picture: Path
    folder: Path
    formats: tuple[str, ...] = ("glb", "ply")
    cutout: CutoutOptions = field(default_factory=CutoutOptions)


def run_job(
    settings: AppSettings, request: GenerationRequest, options: JobOptions, notify: Callable[[StageEvent], None]
) -> list[Path]:
    """Generate and write `<stem>.<format>` and `<stem>.json`; returns the paths written.

    Cheap checks come first: formats, picture, then the bundle. Raises the errors of errors.py and leaves nothing
    half-written.
    """
    check_formats(options.formats)
    picture = read_picture(options.picture)
    pipeline = ImageTo3D.load(settings)
    request = pipeline.resolved(request)
    prepared = pipeline.prepare(picture, options.cutout)
    log = RunLog()
    asset: FinishedAsset | None = None
    for event in pipeline.generate(prepared, request):
        log.note(event)
        notify(event)
        if isinstance(event.result, FinishedAsset):
            asset = event.result
    if asset is None:
        raise EmptyAssetError("The run ended without an asset.", "Try another seed.")
    record = settings_record(request, pipeline.samplers(request), bundle=pipeline.bundle.name)
    paths = write_all(asset, options.folder, options.picture.stem, options.formats, record)
    sidecar = options.folder / f"{options.picture.stem}.json"
    write_sidecar(sidecar, {**record, "warnings": prepared.warnings, "seconds": log.rounded(), "counts": asset.counts})
    return [*paths.values(), sidecar]
