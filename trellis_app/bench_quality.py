"""What finishing keeps of a whole library of objects, in several processes: `bench quality`.

object ─finish_quality.measure▶ Quality ─┬▶ a JSON line each ▶ summary, and which object misses which wanted figure
                                         └▶ sheets of pictures of the worst
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from PIL import Image

from trellis_app.bench import commit, machine
from trellis_app.errors import TrellisError
from trellis_app.finish_quality import Quality, measure, voxels_of
from trellis_app.parallel import in_processes
from trellis_app.settings import FinishOptions
from trellis_app.training.library import LibraryObject, read_library

LEAST_PSNR, LEAST_USE = 32.0, 0.65  # wanted of every object: dB over covered pixels at full size; share of the atlas
_FIGURES = (
    "psnr", "psnr_mip1", "psnr_mip2", "psnr_picture", "psnr_surface", "charts", "use", "overlap", "stretch",
    "anisotropy95", "unwrap_seconds", "bake_seconds", "faces",
)  # fmt: skip


@dataclass(frozen=True)
class QualityOptions:
    """What is finished, and how."""

    library: Path
    resolution: int = 256
    finish: FinishOptions = field(default_factory=FinishOptions)
    limit: int | None = None  # so many objects, evenly spread
    names: tuple[str, ...] = ()  # only objects whose name holds one of these
    jobs: int = 1  # processes
    pictures: Path | None = None  # folder for a sheet of each of the worst objects: voxels, then mip 0, 1, 2
    worst: int = 12


def bench_quality(options: QualityOptions, note: Callable[[str], None]) -> dict[str, object]:
    """Measure every object; `note` gets a JSON line each as it is ready. Objects that are no voxels are named."""
    start = time.perf_counter()
    objects = chosen(options)
    found: list[Quality] = []
    left_out: list[str] = []
    for quality in in_processes(partial(examined, options=options), objects, options.jobs):
        if isinstance(quality, str):
            left_out.append(quality)
            continue
        found.append(quality)
        note(json.dumps(asdict(quality)))
    if options.pictures is not None:
        keep_worst(found, options.pictures, options.worst)
    return {
        **summary(found), "left_out": left_out, "misses": [miss for quality in found for miss in misses(quality)],
        "seconds": round(time.perf_counter() - start, 1), "jobs": options.jobs,
        "options": asdict(options.finish), "machine": machine("cpu"),
        "commit": commit(),
    }  # fmt: skip


def chosen(options: QualityOptions) -> list[LibraryObject]:
    """The objects of the library that are measured."""
    library = read_library(options.library)
    objects = [library[i] for i in range(len(library))]
    if options.names:
        objects = [obj for obj in objects if any(part in obj.name for part in options.names)]
    step = 1 if options.limit is None else max(1, math.ceil(len(objects) / options.limit))
    return objects[::step]


def examined(obj: LibraryObject, *, options: QualityOptions) -> Quality | str:
    """Measures of one object, or why it has none; writes its sheet. Runs in a worker process."""
    try:
        asset = voxels_of(obj, options.resolution)
    except TrellisError as error:
        return f"{obj.name}: {error}"
    quality, pictures = measure(obj.name, asset, options.finish)
    if options.pictures is not None:
        options.pictures.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures).save(sheet(options.pictures, quality))
    return quality


def sheet(folder: Path, quality: Quality) -> Path:
    """Where an object's pictures lie."""
    return folder / f"{quality.name.replace('/', '_')}.png"


def keep_worst(found: list[Quality], folder: Path, count: int) -> None:
    """Leave the sheets of the objects that come out worst, in turn by picture and by use of the atlas."""
    orders = sorted(found, key=lambda q: q.psnr), sorted(found, key=lambda q: q.use)
    by_turns = [quality.name for pair in zip(*orders, strict=True) for quality in pair]
    worst = set(list(dict.fromkeys(by_turns))[:count])
    for quality in found:
        if quality.name not in worst:
            sheet(folder, quality).unlink()


def misses(quality: Quality) -> list[str]:
    """What is wanted of an object and not so, in words."""
    wrong = []
    if quality.overlap:
        wrong.append(f"{quality.name}: {quality.overlap} texels in more than one face")
    if quality.use < LEAST_USE:
        wrong.append(f"{quality.name}: use {quality.use:.3f} below {LEAST_USE}")
    if quality.psnr < LEAST_PSNR:
        plain = f"{quality.psnr_surface:.2f} with the voxels' own colours"
        wrong.append(f"{quality.name}: {quality.psnr:.2f} dB below {LEAST_PSNR} ({plain})")
    return wrong


def summary(found: list[Quality]) -> dict[str, object]:
    """Least, median and largest of every figure."""
    table: dict[str, object] = {"objects": len(found)}
    for key in _FIGURES if found else ():
        values = [getattr(quality, key) for quality in found]
        table[key] = {"least": min(values), "median": statistics.median(values), "most": max(values)}
    return table
