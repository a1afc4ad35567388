"""Measure a bundle on a library: reconstruction by the autoencoders, generation from pictures, and two baselines.

object ─▶ sample (O-Voxel, K views) ─┬▶ encode ▶ decode ───────────────▶ reconstruction
                                     ├▶ picture ▶ three stages ─────────▶ generation
                                     ├▶ nearest training picture ▶ its object ─▶ baseline "nearest"
                                     └▶ a random training object ──────▶ baseline "random"
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import torch
from PIL import Image

from trellis_app.batch import Outcome, generate_batch
from trellis_app.batch import Sample as Order
from trellis_app.image.background import NoMatte
from trellis_app.image.features import ImageEncoder, load_image_encoder
from trellis_app.models.material_vae import attributes
from trellis_app.pipeline import ImageTo3D
from trellis_app.settings import GenerationRequest
from trellis_app.training.comparisons import AssetArrays, Framed, compare, compare_round_trip, portraits
from trellis_app.training.journal import contact_sheet
from trellis_app.training.latents import premultiplied
from trellis_app.training.library import Library, LibraryObject, read_library
from trellis_app.training.samples import Sample, SampleOptions, Skipped, Task, produce
from trellis_app.training.voxel_batches import collate
from trellis_app.types import DualGrid, OVoxel, PreparedImage
from trellis_app.weights import load_bundle

LOG = logging.getLogger(__name__)
TRAINING_YAWS = 4  # pictures a training object for the nearest-object baseline
SHEET_OBJECTS = 24
SHEET_SIDE = 144
Scores = dict[str, float]


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured."""

    bundle: str
    library: Path
    views: int = 2
    train_library: Path | None = None
    limit: int | None = None  # the first so many objects of an even spread
    part: tuple[int, int] = (0, 1)  # (k, n): every n-th of these from the k-th on, for n processes side by side
    device: str = "cpu"
    workers: int = 2
    batch: int = 32
    seed: int = 0
    sheet: Path | None = None
    generate: bool = True
    reconstruct: bool = True


@dataclass(frozen=True, eq=False)
class Query:
    """One picture to answer."""

    truth: Framed
    sample: Sample
    view: int

    @property
    def picture(self) -> Image.Image:
        """Square RGB, premultiplied, as the product frames it."""
        return Image.fromarray(premultiplied(self.sample.views[self.view]))


def evaluate(settings: EvaluationSettings) -> dict[str, float]:
    """Mean measures over all objects and views; keys `<kind>_<measure>`."""
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    with ProcessPoolExecutor(settings.workers, mp_context=context, initializer=_one_thread) as pool:
        return Evaluation(settings, pool).run()


class Evaluation:
    """One run: the device works on the networks while worker processes make samples and measure."""

    def __init__(self, settings: EvaluationSettings, pool: ProcessPoolExecutor) -> None:
        self.settings, self.pool = settings, pool
        self.device = torch.device(settings.device)
        self.bundle = load_bundle(settings.bundle)
        self.encoder: ImageEncoder = load_image_encoder(self.bundle, self.device)
        self.resolution = self.bundle.presets[self.bundle.default_preset].resolution
        self.pipeline = ImageTo3D(self.bundle, self.device, encoder=self.encoder, matte=NoMatte())

    @torch.inference_mode()
    def run(self) -> dict[str, float]:
        """All measures; writes the contact sheet if asked."""
        library = read_library(self.settings.library)
        queries = self._queries(library)
        LOG.info("%d pictures of %d objects", len(queries), len({id(q.sample) for q in queries}))
        pending: dict[str, list[Future[Scores]]] = {}
        if self.settings.reconstruct:
            pending["reconstruction"] = list(self._reconstructions(queries))
        tokens = self._tokens([q.picture for q in queries])
        if self.settings.train_library is not None:
            pending.update(self._baselines(queries, tokens))
        sheet: list[Future[tuple[np.ndarray, np.ndarray]]] = []
        drawn: list[Query] = []
        chosen = spread(len(queries), -(-SHEET_OBJECTS // self.settings.part[1]))
        if self.settings.generate:
            pending["generation"] = []
            for made in self._generated(queries):
                i, query = made.index, queries[made.index]
                if made.voxels is None:
                    LOG.warning("picture %d came to nothing: %s", i, made.error)
                    pending["generation"].append(self.pool.submit(nothing_alike))
                    continue
                arrays, camera = AssetArrays.of(made.voxels), query.sample.cameras[query.view]
                pending["generation"].append(self.pool.submit(compare, query.truth, arrays, camera, i))
                if i in chosen:
                    drawn.append(query)
                    sheet.append(self.pool.submit(portraits, arrays, camera, SHEET_SIDE))
        means = {kind: mean_scores([f.result() for f in futures]) for kind, futures in pending.items()}
        if self.settings.sheet is not None and sheet:
            write_sheet(self.settings.sheet, drawn, [f.result() for f in sheet])
        counts = {"objects": float(len({id(q.sample) for q in queries})), "pictures": float(len(queries))}
        return {**counts, **{f"{kind}_{k}": v for kind, row in means.items() for k, v in row.items()}}

    def _queries(self, library: Library) -> list[Query]:
        settings = self.settings
        options = SampleOptions(
            resolution=self.resolution, views=settings.views, procedural=0.0, pairs=0.0, augment=False
        )
        first, step = settings.part
        indices = spread(len(library), settings.limit or len(library))[first::step]
        tasks = [Task(i, settings.seed, options, library[i], None) for i in indices]
        queries = []
        for task, made in zip(tasks, self.pool.map(produce, tasks), strict=True):
            if isinstance(made, Skipped) or task.object is None:
                LOG.warning("left out %s", made)
                continue
            queries += [Query(Framed(task.object, made.yaw), made, view) for view in range(settings.views)]
        return queries

    def _tokens(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """[B, L, C] on the device."""
        size = self.settings.batch
        batches = (pictures[i : i + size] for i in range(0, len(pictures), size))
        return torch.cat([self.encoder.encode(batch, 512).to(self.device) for batch in batches])

    def _generated(self, queries: Sequence[Query]) -> Iterator[Outcome]:
        """What the product makes of each picture, with seeds of their own."""
        samples = []
        for i, query in enumerate(queries):
            picture = query.picture
            samples.append(Order(PreparedImage(picture.convert("RGBA"), picture), self.settings.seed + i))
        for beat in generate_batch(self.pipeline, samples, GenerationRequest(), together=self.settings.batch):
            if isinstance(beat, Outcome):
                yield beat

    def _reconstructions(self, queries: Sequence[Query]) -> Iterator[Future[Scores]]:
        """Once an object, not once a view."""
        for i, query in enumerate(q for q in queries if q.view == 0):
            truth, decoded = self._round_trip(query.sample)
            yield self.pool.submit(compare_round_trip, query.truth, truth, decoded, i)

    def _round_trip(self, sample: Sample) -> tuple[AssetArrays, AssetArrays]:
        """The true O-Voxel asset, and what the autoencoders make of it, decoded as after generation."""
        batch = collate([sample], self.device)
        entry = batch.shape_input()
        shape = self.bundle.model("shape_slat_encoder", self.device)(entry).mean
        material = self.bundle.model("tex_slat_encoder", self.device)(entry.replace(batch.attributes)).mean
        decoder = self.bundle.model("shape_slat_decoder", self.device)
        decoding = decoder(shape.fresh())
        (grid,) = decoder.dual_grids(decoding.raw, self.resolution)  # type: ignore[operator]
        raw = self.bundle.model("tex_slat_decoder", self.device)(material.fresh(), decoding.subdivisions).raw
        truth = DualGrid(batch.coords[:, 1:], batch.dual, batch.crossed, None, self.resolution)
        return (
            AssetArrays.of(OVoxel(truth, batch.attributes / 2 + 0.5)),
            AssetArrays.of(OVoxel(grid, attributes(raw.feats.float()).clamp(0, 1))),
        )

    def _baselines(self, queries: Sequence[Query], tokens: torch.Tensor) -> dict[str, list[Future[Scores]]]:
        """Answers that are training objects: whose picture is nearest in the encoder's features, and any one."""
        objects = list(read_library(self.settings.train_library))  # type: ignore[arg-type]
        known = [made for made in self.pool.map(training_pictures, objects, chunksize=8) if made is not None]
        answers = [Framed(objects[i], yaw) for i, pictures in enumerate(known) for yaw, _ in pictures]
        pictures = [Image.fromarray(picture) for row in known for _, picture in row]
        keys, wanted = summary(self._tokens(pictures)), summary(tokens)
        nearest = (wanted @ keys.T).argmax(dim=1).tolist()
        anything = np.random.default_rng(self.settings.seed).integers(len(answers), size=len(queries))
        found: dict[str, list[Future[Scores]]] = {"nearest": [], "random": []}
        for i, query in enumerate(queries):
            camera = query.sample.cameras[query.view]
            for kind, index in (("nearest", nearest[i]), ("random", int(anything[i]))):
                found[kind].append(self.pool.submit(compare, query.truth, answers[index], camera, i))
        return found


def training_pictures(obj: LibraryObject) -> list[tuple[float, np.ndarray]] | None:
    """(yaw, premultiplied picture) of a training object from four sides; empty where it cannot be seen."""
    pictures = []
    options = SampleOptions(resolution=32, views=1, augment=False, procedural=0.0, pairs=0.0)
    for k in range(TRAINING_YAWS):
        made = produce(Task(k, 7, options, obj, None))
        if isinstance(made, Sample):
            pictures.append((made.yaw, premultiplied(made.views[0])))
    return pictures


def nothing_alike() -> Scores:
    """The scores of a picture of which nothing came; there are no colours to compare."""
    return {"f_005": 0.0, "f_002": 0.0, "iou": 0.0, "psnr": float("nan"), "open": float("nan")}


def summary(tokens: torch.Tensor) -> torch.Tensor:
    """Unit vectors [B, 2 C]: the class token beside the mean of all tokens."""
    both = torch.cat([tokens[:, 0], tokens.mean(dim=1)], dim=1).float()
    return torch.nn.functional.normalize(both, dim=1)


def spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` indices, evenly over range(count)."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(wanted, count))}) if count else []


def mean_scores(rows: Sequence[Scores]) -> Scores:
    """Means a key; values that are not numbers are left out, and so are keys without any other."""
    columns = {key: np.array([row[key] for row in rows]) for key in (rows[0] if rows else {})}
    return {key: float(np.nanmean(values)) for key, values in columns.items() if not np.isnan(values).all()}


def write_sheet(path: Path, queries: Sequence[Query], made: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Triples picture, result from the input view, result from behind; four triples a row, as JPEG or PNG."""
    size = (SHEET_SIDE, SHEET_SIDE)
    triples = [[np.asarray(query.picture.resize(size)), *views] for query, views in zip(queries, made, strict=True)]
    rows = [[p for triple in triples[i : i + 4] for p in triple] for i in range(0, len(triples), 4)]
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(rows).save(path, quality=90)


def table(measures: dict[str, float]) -> str:
    """A row a kind, a column a measure."""
    columns = ("f1", "f_005", "f_002", "iou", "psnr", "open")
    lines = [f"{'':16}" + "".join(f"{c:>9}" for c in columns)]
    for kind in ("reconstruction", "generation", "nearest", "random"):
        values = [measures.get(f"{kind}_{c}") for c in columns]
        if any(v is not None for v in values):
            lines.append(f"{kind:16}" + "".join(f"{v:9.3f}" if v is not None else f"{'':9}" for v in values))
    return "\n".join(lines)


def _one_thread() -> None:
    numba.set_num_threads(1)
    torch.set_num_threads(1)
