"""Measure the texturing of given meshes on a library: every object loses its colours and gets them back from a picture.

object ─▶ picture (one random view)                 ┐
       ─▶ mesh without colours ─▶ texturing.texture ─┴▶ texture ─▶ colours at points of the surface ─▶ PSNR
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import torch
from PIL import Image

from trellis_app.errors import TrellisError
from trellis_app.finish_quality import looked_up
from trellis_app.mesh.bake import Sampler, bake
from trellis_app.mesh.surface import Surface
from trellis_app.mesh.user_mesh import Stance, UserMesh
from trellis_app.ovoxel.attributes import flat_attributes
from trellis_app.pipeline import ImageTo3D
from trellis_app.settings import GenerationRequest
from trellis_app.texturing import TextureOptions, lay_out, texture
from trellis_app.training.augment import to_view_frame
from trellis_app.training.comparisons import AssetArrays, Framed, compare
from trellis_app.training.evaluate import spread
from trellis_app.training.latents import premultiplied
from trellis_app.training.library import LibraryObject, read_library
from trellis_app.training.metrics import psnr
from trellis_app.training.samples import Sample, SampleOptions, Skipped, Task, produce
from trellis_app.types import OVoxel, PreparedImage
from trellis_app.weights import load_bundle

LOG = logging.getLogger(__name__)
POINTS = 20_000
Row = dict[str, float | str]


@dataclass(frozen=True)
class TexturingSettings:
    """What is measured."""

    bundle: str
    library: Path
    limit: int | None = None  # so many objects of an even spread
    part: tuple[int, int] = (0, 1)  # every n-th object from the k-th on
    device: str = "cpu"
    workers: int = 2  # processes that make the pictures
    seed: int = 0
    texture_size: int = 1024


def evaluate_texturing(settings: TexturingSettings) -> dict[str, object]:
    """Measures of every object (`rows`), their means and medians.

    psnr: base colour at points spread evenly over the surface, read from the texture, against the truth (dB, as sRGB).
    psnr_view: as seen from the picture's camera, unlit. best: psnr of the true voxels baked the same way, which a
    perfect material stage would reach. flat: psnr of the picture's mean colour. plain: psnr of the one colour that is
    closest to the truth, which nothing but the truth tells (60 where that has but one). seconds: until the voxels have
    their colours.
    """
    pipeline = ImageTo3D(load_bundle(settings.bundle), torch.device(settings.device))
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    with ProcessPoolExecutor(settings.workers, mp_context=context, initializer=_one_thread) as pool:
        pending: deque[tuple[float, Future[Row]]] = deque()
        rows: list[Row] = []
        for obj, sample in _samples(settings, pipeline, pool):
            try:
                start = time.monotonic()
                voxels = coloured_from(pipeline, obj, sample, settings.seed)
            except TrellisError as error:
                LOG.warning("left out %s: %s", obj.name, error)
                continue
            seconds = round(time.monotonic() - start, 3)
            job = pool.submit(measured, obj, sample, AssetArrays.of(voxels), settings.texture_size)
            pending.append((seconds, job))
            while pending and pending[0][1].done():
                rows.append(_row(*pending.popleft()))
        rows += [_row(*waiting) for waiting in pending]
    keys = [key for key in rows[0] if key != "name"] if rows else []
    means = {key: round(float(np.nanmean([row[key] for row in rows])), 3) for key in keys}
    medians = {key: round(float(np.nanmedian([row[key] for row in rows])), 3) for key in keys}
    return {"objects": len(rows), **means, "medians": medians, "rows": rows}


def _row(seconds: float, job: Future[Row]) -> Row:
    """The measures of an object, logged as they come in, so that a run that is cut short has said what it found."""
    row: Row = {**job.result(), "seconds": seconds}
    LOG.info("%s", json.dumps(row))
    return row


def _samples(
    settings: TexturingSettings, pipeline: ImageTo3D, pool: ProcessPoolExecutor
) -> Iterator[tuple[LibraryObject, Sample]]:
    """The objects with their pictures, those of `evaluate`."""
    library = read_library(settings.library)
    resolution = pipeline.bundle.presets[pipeline.bundle.default_preset].resolution
    options = SampleOptions(resolution=resolution, views=1, procedural=0.0, pairs=0.0, augment=False)
    first, step = settings.part
    indices = spread(len(library), settings.limit or len(library))[first::step]
    tasks = [Task(i, settings.seed, options, library[i], None) for i in indices]
    for task, made in zip(tasks, pool.map(produce, tasks), strict=True):
        if isinstance(made, Skipped) or task.object is None:
            LOG.warning("left out %s", made)
        else:
            yield task.object, made


def _one_thread() -> None:
    numba.set_num_threads(1)
    torch.set_num_threads(1)


def coloured_from(pipeline: ImageTo3D, obj: LibraryObject, sample: Sample, seed: int) -> OVoxel:
    """The material of the sample's picture on the voxels of the object's bare mesh."""
    view = sample.views[0]
    prepared = PreparedImage(Image.fromarray(view), Image.fromarray(premultiplied(view)))
    request = GenerationRequest(seed=seed)
    events = texture(pipeline, bare(obj), prepared, request, turned(sample), finish=False)
    *_, last = (event.result for event in events)
    assert isinstance(last, OVoxel)
    return last


def bare(obj: LibraryObject) -> UserMesh:
    """The object without its colours."""
    return UserMesh(obj.name, obj.vertices, obj.faces)


def turned(sample: Sample) -> TextureOptions:
    """The turn that brings the object to the view of the sample."""
    return TextureOptions(Stance(yaw=float(np.degrees(sample.yaw))))


def measured(obj: LibraryObject, sample: Sample, made: AssetArrays, texture_size: int) -> Row:
    """Measures of one object; runs in a worker process."""
    framed, voxels = to_view_frame(obj, sample.yaw), made.asset()
    true = flat_attributes(framed.vertices, framed.faces, framed.corner_rgba, framed.metal_rough, voxels.grid)
    perfect = OVoxel(voxels.grid, torch.from_numpy(true.astype(np.float32) / 255))
    face, share = surface_samples(obj.vertices, obj.faces, POINTS, np.random.default_rng(0))
    truth = np.einsum("nk,nkc->nc", share, obj.corner_rgba[face, :, :3] / 255.0)
    surface = Surface(framed.vertices, framed.faces)
    atlas = lay_out(bare(obj), surface, "new", texture_size).atlas
    place = np.einsum("nk,nkc->nc", share, atlas.uvs[face])
    shown = []
    for asset in (voxels, perfect):
        # Opaque, so that alpha does not hide colours.
        baked = bake(surface, atlas, Sampler(asset), size=texture_size, alpha="opaque")
        shown.append(psnr(looked_up(baked.textures.base_color[:, :, :3] / 255.0, place), truth))
    return {
        "name": obj.name,
        "psnr": shown[0],
        "psnr_view": compare(Framed(obj, sample.yaw), made, sample.cameras[0], 0)["psnr"],
        "best": shown[1],
        "flat": psnr(np.broadcast_to(mean_colour(sample.views[0]), truth.shape), truth),
        "plain": psnr(np.broadcast_to(truth.mean(axis=0), truth.shape), truth),
    }


def mean_colour(view: np.ndarray) -> np.ndarray:
    """Mean colour [3] in [0, 1] of the pixels of a picture uint8 [S, S, 4], weighted by alpha."""
    weight = view[..., 3:].astype(np.float64)
    return np.asarray((view[..., :3] / 255.0 * weight).sum(axis=(0, 1)) / max(float(weight.sum()), 1.0))


def surface_samples(
    vertices: np.ndarray, faces: np.ndarray, count: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points uniform over the triangles' area: their faces int [count] and barycentric coordinates [count, 3]."""
    corners = np.asarray(vertices, np.float64)[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    face = random.choice(len(area), count, p=area / area.sum())
    root, along = np.sqrt(random.random(count)), random.random(count)
    return face, np.stack([1 - root, root * (1 - along), root * along], axis=1)


def table(report: dict[str, object]) -> str:
    """A line an object, one of the means and one of the medians."""
    columns = ("psnr", "psnr_view", "best", "flat", "plain", "seconds")
    lines = [f"{'':44}" + "".join(f"{c:>10}" for c in columns)]
    medians: Row = {"name": "median", **report["medians"]}  # type: ignore[dict-item]
    means: Row = {"name": "mean", **{c: report[c] for c in columns}}  # type: ignore[misc]
    rows: list[Row] = [*report["rows"], means, medians]  # type: ignore[misc]
    lines += [f"{str(row['name'])[:43]:44}" + "".join(f"{row[c]:10.2f}" for c in columns) for row in rows]
    return "\n".join(lines)
