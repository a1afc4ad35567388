"""Measure the texturing of given meshes on a library: every object loses its colours and gets them back from a picture.

object ─▶ picture (one random view)                 ┐
       ─▶ mesh without colours ─▶ texturing.texture ─┴▶ texture ─▶ colours at points of the surface ─▶ PSNR
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import torch
from PIL import Image

from trellis_app.errors import TrellisError
from trellis_app.mesh.user_mesh import Stance, UserMesh
from trellis_app.ovoxel.attributes import flat_attributes
from trellis_app.pipeline import ImageTo3D
from trellis_app.settings import FinishOptions, GenerationRequest
from trellis_app.texturing import TextureOptions, finish_texture, texture
from trellis_app.training.augment import to_view_frame
from trellis_app.training.comparisons import AssetArrays, Framed, compare
from trellis_app.training.evaluate import spread
from trellis_app.training.latents import premultiplied
from trellis_app.training.library import LibraryObject, read_library
from trellis_app.training.metrics import psnr
from trellis_app.training.samples import Sample, SampleOptions, Skipped, Task, produce
from trellis_app.types import FinishedAsset, OVoxel, PreparedImage, StageEvent
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
    device: str = "cpu"
    workers: int = 2  # processes that make the pictures
    seed: int = 0
    texture_size: int = 1024


def evaluate_texturing(settings: TexturingSettings) -> dict[str, object]:
    """Measures of every object (`rows`) and their means.

    psnr: base colour at points spread evenly over the surface, read from the texture, against the truth (dB, as sRGB).
    psnr_view: as seen from the picture's camera, unlit. best: psnr of the true voxels baked the same way, which a
    perfect material stage would reach. plain: psnr of the one colour closest to the truth. seconds: of texturing.
    """
    pipeline = ImageTo3D(load_bundle(settings.bundle), torch.device(settings.device))
    rows = []
    for obj, sample in _samples(settings, pipeline):
        try:
            rows.append(_measured(pipeline, obj, sample, settings))
        except TrellisError as error:
            LOG.warning("left out %s: %s", obj.name, error)
            continue
        LOG.info("%s", "  ".join(f"{k} {v:.2f}" if isinstance(v, float) else v for k, v in rows[-1].items()))
    keys = [key for key in rows[0] if key != "name"] if rows else []
    means = {key: round(float(np.nanmean([row[key] for row in rows])), 3) for key in keys}
    return {"objects": len(rows), **means, "rows": rows}


def _samples(settings: TexturingSettings, pipeline: ImageTo3D) -> Iterator[tuple[LibraryObject, Sample]]:
    """The objects with their pictures, those of `evaluate`."""
    library = read_library(settings.library)
    resolution = pipeline.bundle.presets[pipeline.bundle.default_preset].resolution
    options = SampleOptions(resolution=resolution, views=1, procedural=0.0, pairs=0.0, augment=False)
    indices = spread(len(library), settings.limit or len(library))
    tasks = [Task(i, settings.seed, options, library[i], None) for i in indices]
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    with ProcessPoolExecutor(settings.workers, mp_context=context, initializer=_one_thread) as pool:
        for task, made in zip(tasks, pool.map(produce, tasks), strict=True):
            if isinstance(made, Skipped) or task.object is None:
                LOG.warning("left out %s", made)
            else:
                yield task.object, made


def _one_thread() -> None:
    numba.set_num_threads(1)
    torch.set_num_threads(1)


def _measured(pipeline: ImageTo3D, obj: LibraryObject, sample: Sample, settings: TexturingSettings) -> Row:
    view = sample.views[0]
    prepared = PreparedImage(Image.fromarray(view), Image.fromarray(premultiplied(view)))
    mesh = UserMesh(obj.name, obj.vertices, obj.faces)
    # Opaque, so that faces keep their order and alpha does not hide colours.
    finish = FinishOptions(texture_size=settings.texture_size, alpha="opaque")
    options = TextureOptions(Stance(yaw=float(np.degrees(sample.yaw))))
    request = GenerationRequest(seed=settings.seed, finish=finish)
    start = time.monotonic()
    voxels, asset = _results(texture(pipeline, mesh, prepared, request, options))
    seconds = time.monotonic() - start
    framed = to_view_frame(obj, sample.yaw)
    true = flat_attributes(framed.vertices, framed.faces, framed.corner_rgba, framed.metal_rough, voxels.grid)
    _, best = _results(finish_texture(mesh, _recoloured(voxels, true), finish, options))
    seen = compare(Framed(obj, sample.yaw), AssetArrays.of(voxels), sample.cameras[0], settings.seed)
    random = np.random.default_rng(settings.seed)
    face, share = surface_samples(obj.vertices, obj.faces, POINTS, random)
    truth = np.einsum("nk,nkc->nc", share, obj.corner_rgba[face, :, :3] / 255.0)
    return {
        "name": obj.name,
        "psnr": psnr(texture_at(asset, face, share), truth),
        "psnr_view": seen["psnr"],
        "best": psnr(texture_at(best, face, share), truth),
        "plain": psnr(np.broadcast_to(truth.mean(axis=0), truth.shape), truth),
        "seconds": round(seconds, 3),
    }


def _results(events: Iterator[StageEvent]) -> tuple[OVoxel, FinishedAsset]:
    """The voxels and the asset that a run leaves (the voxels are missing where it only finishes)."""
    found = {type(event.result): event.result for event in events if event.result is not None}
    return found.get(OVoxel), found[FinishedAsset]  # type: ignore[return-value]


def _recoloured(asset: OVoxel, attributes: np.ndarray) -> OVoxel:
    """The voxels with attributes uint8 [M, 6]."""
    return OVoxel(asset.grid, torch.from_numpy(attributes.astype(np.float32) / 255))


def surface_samples(
    vertices: np.ndarray, faces: np.ndarray, count: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points uniform over the triangles' area: their faces int [count] and barycentric coordinates [count, 3]."""
    corners = np.asarray(vertices, np.float64)[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    face = random.choice(len(area), count, p=area / area.sum())
    root, along = np.sqrt(random.random(count)), random.random(count)
    return face, np.stack([1 - root, root * (1 - along), root * along], axis=1)


def texture_at(asset: FinishedAsset, face: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Base colour [n, 3] in [0, 1] at points of an asset's triangles, bilinear between texel centres."""
    image = asset.textures.base_color[..., :3] / 255.0
    height, width = image.shape[:2]
    place = np.einsum("nk,nkc->nc", share, asset.uvs[asset.faces[face]]) * (width, height) - 0.5
    low = np.floor(place).astype(int)
    part = place - low
    total = np.zeros((len(face), 3))
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        weight = np.abs(1 - dx - part[:, 0]) * np.abs(1 - dy - part[:, 1])
        column, row = (low[:, 0] + dx).clip(0, width - 1), (low[:, 1] + dy).clip(0, height - 1)
        total += weight[:, None] * image[row, column]
    return total


def table(report: dict[str, object]) -> str:
    """A line an object and one of the means."""
    columns = ("psnr", "psnr_view", "best", "plain", "seconds")
    lines = [f"{'':44}" + "".join(f"{c:>10}" for c in columns)]
    rows: list[Row] = [*report["rows"], {"name": "mean", **{c: report[c] for c in columns}}]  # type: ignore[misc]
    lines += [f"{str(row['name'])[:43]:44}" + "".join(f"{row[c]:10.2f}" for c in columns) for row in rows]
    return "\n".join(lines)
