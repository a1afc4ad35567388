"""Stateless jobs, pictures -> files: what the CLI runs, with the same preparation as the page."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from trellis_app.batch import Outcome, Sample, finishing_lead, finishing_workers, generate_batch
from trellis_app.beside import Beside, Notify
from trellis_app.errors import EmptyAssetError, PictureError, TrellisError
from trellis_app.export.files import check_folder
from trellis_app.export.formats import check_formats, write_all
from trellis_app.export.sidecar import RunLog, settings_record
from trellis_app.export.source import ExportSource
from trellis_app.image.cutout import CutoutOptions
from trellis_app.image.reading import read_picture
from trellis_app.pipeline import ImageTo3D
from trellis_app.progress import Check, RunClock
from trellis_app.settings import AppSettings, FileOptions, GenerationRequest
from trellis_app.types import FinishedAsset, OVoxel, PreparedImage, Stage, StageEvent


@dataclass(frozen=True)
class JobOptions:
    """Which pictures become which files, each with every seed."""

    pictures: tuple[Path, ...]
    folder: Path
    seeds: tuple[int, ...] = (0,)
    formats: tuple[str, ...] = ("glb", "ply")
    files: FileOptions = field(default_factory=FileOptions)
    cutout: CutoutOptions = field(default_factory=CutoutOptions)


@dataclass(frozen=True)
class Product:
    """What became of one picture and seed: files, or an error and none."""

    name: str  # stem of the files
    paths: tuple[Path, ...] = ()
    error: TrellisError | None = None


def run_job(
    settings: AppSettings,
    request: GenerationRequest,
    options: JobOptions,
    notify: Callable[[StageEvent | Product], None],
) -> list[Product]:
    """Generate and write every format and `<name>.json` of each picture and seed, all or none; tells each as it comes.

    The seed of `request` is not used. Cheap checks come first: formats, folder, seeds, pictures, then the bundle; they
    raise the errors of errors.py. What goes wrong with one asset later is its product's error and leaves the others.
    """
    check_formats(options.formats, options.files)
    check_folder(options.folder)
    requests = [replace(request, seed=seed) for seed in dict.fromkeys(options.seeds)]
    pictures = list(dict.fromkeys(options.pictures))
    for path in pictures:
        read_picture(path)
    pipeline = ImageTo3D.load(settings)
    requests = [pipeline.resolved(one) for one in requests]
    orders, products = [], []
    for path, stem in zip(pictures, stems(pictures), strict=True):
        names = [stem if len(requests) == 1 else f"{stem}-seed{one.seed}" for one in requests]
        try:
            prepared = pipeline.prepare(read_picture(path), options.cutout)
        except PictureError as error:
            products += [Product(name, error=error) for name in names]
        else:
            orders += [Order(name, prepared, one) for name, one in zip(names, requests, strict=True)]
    for product in products:
        notify(product)
    if orders:
        for beat in _produced(pipeline, orders, options):
            notify(beat)
            products += [beat] if isinstance(beat, Product) else []
    return products


@dataclass(frozen=True)
class Order:
    """One asset to be made."""

    name: str  # stem of its files
    picture: PreparedImage
    request: GenerationRequest  # resolved, with its own seed


def stems(pictures: Sequence[Path]) -> list[str]:
    """A name for each picture; where several have one name, numbers tell them apart: 'cup', 'cup-2'."""
    chosen: list[str] = []
    for picture in pictures:
        tries = itertools.chain([picture.stem], (f"{picture.stem}-{number}" for number in itertools.count(2)))
        chosen.append(next(name for name in tries if name not in chosen))
    return chosen


def _produced(
    pipeline: ImageTo3D, orders: Sequence[Order], options: JobOptions
) -> Generator[StageEvent | Product, None, None]:
    """The product of each order, finished and written while the next ones are sampled where a GPU has room for both."""
    lead = finishing_lead(pipeline)

    def work(outcome: Outcome, notify: Notify, check: Check) -> Product:
        assert outcome.voxels is not None
        order, log, asset = orders[outcome.index], RunLog(), None
        clock = RunClock({Stage.FINISH: 1.0})
        try:
            with closing(pipeline.finish(outcome.voxels, order.request.finish, clock, alone=not lead)) as events:
                for event in events:
                    check()
                    log.note(event)
                    notify(event)
                    asset = event.result
            assert isinstance(asset, FinishedAsset)
            made = replace(outcome, seconds=outcome.seconds | log.rounded())
            return Product(order.name, _written(pipeline, order, made, asset, options, check))
        except TrellisError as error:
            return Product(order.name, error=error)

    samples = [Sample(order.picture, order.request.seed) for order in orders]
    with (
        Beside(pipeline.device, work, lead=lead, workers=finishing_workers(pipeline)) as finishing,
        closing(generate_batch(pipeline, samples, orders[0].request)) as beats,
    ):
        for beat in beats:
            yield from finishing.ready()
            if not isinstance(beat, Outcome):
                yield beat
            elif beat.error is not None:
                yield Product(orders[beat.index].name, error=beat.error)
            else:
                yield from finishing.take(beat)
        yield from finishing.rest()


def _written(
    pipeline: ImageTo3D, order: Order, made: Outcome, asset: FinishedAsset, options: JobOptions, check: Check
) -> tuple[Path, ...]:
    """The files of a finished asset, all or none."""
    assert made.voxels is not None
    record = settings_record(order.request, pipeline.samplers(order.request), bundle=pipeline.bundle.name)
    source = ExportSource(asset, made.voxels, order.request.finish, options.files, record)
    sidecar = {**record, "warnings": order.picture.warnings, "seconds": made.seconds}
    if made.together > 1:
        sidecar["sampled_together"] = made.together  # so many assets shared the seconds of the sampling
    written = write_all(source, options.folder, order.name, options.formats, sidecar=sidecar, check=check)
    return tuple(path for paths in written.values() for path in paths)


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
