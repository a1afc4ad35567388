"""Turn the sample stream into latents with the trained encoders, as shard files that `train flows` reads.

    Sample ──encoders──▶ structure [C,8,8,8], shape and material rows on the latent voxels ─┐
           ──premultiply──▶ pictures ───────────────────────────────────────────────────────┴▶ shard .npz

The first samples also give the normalisation of the latents, written once into the weights folder.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from torch import nn

from trellis_app.errors import BundleError
from trellis_app.training.checkpoints import load_network
from trellis_app.training.configs import MATERIAL, PARTS, SHAPE, STRUCTURE, Sizes
from trellis_app.training.distributed import Process
from trellis_app.training.samples import Sample
from trellis_app.training.sources import SampleSource
from trellis_app.training.voxel_batches import VoxelBatch, collate

LOG = logging.getLogger(__name__)
NORMALISATION_FILE = "normalisation.json"
HELD_OUT_FILE = "held_out.npz"
AT_ONCE = 16  # samples encoded together


@dataclass(frozen=True)
class LatentSettings:
    """How much is made and how it is filed."""

    samples: int = 100_000  # stop after so many, in all processes together
    shard: int = 128
    views: int = 3
    calibration: int = 512  # samples that give the normalisation; 0: another process writes it, and the held-out file
    ahead: int = 300  # wait while so many shards lie unread in the folder


@dataclass(frozen=True, eq=False)
class LatentShard:
    """Latents of several samples; rows of item i are offsets[i]:offsets[i + 1]."""

    offsets: np.ndarray  # int64 [B + 1]
    coords: np.ndarray  # uint8 [N, 3] latent voxels, lexicographic within an item
    structure: np.ndarray  # float16 [B, C, R, R, R]
    shape: np.ndarray  # float16 [N, C]
    material: np.ndarray  # float16 [N, C]
    views: np.ndarray  # uint8 [B, K, S, S, 3] premultiplied on black
    cameras: np.ndarray  # float32 [B, K, 2] pitch in radians, field of view in degrees

    def __len__(self) -> int:
        return len(self.structure)


ARRAYS = ("offsets", "coords", "structure", "shape", "material", "views", "cameras")


def write_latents(path: Path, shard: LatentShard) -> None:
    """Store a shard uncompressed; it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as stream:
        np.savez(stream, **{name: getattr(shard, name) for name in ARRAYS})
    partial.replace(path)


def read_latents(path: Path) -> LatentShard:
    """Read a shard of `write_latents`."""
    with np.load(path) as stored:
        return LatentShard(**{name: stored[name] for name in ARRAYS})


def premultiplied(views: np.ndarray) -> np.ndarray:
    """RGBA uint8 [.., 4] -> RGB uint8 [.., 3] on black, truncated as image/framing.py does."""
    return (views[..., :3].astype(np.uint16) * views[..., 3:] // 255).astype(np.uint8)


class Statistics:
    """Running mean and total variance of latent channels: variance of the means plus mean posterior variance."""

    def __init__(self) -> None:
        self.count = 0
        self.total: torch.Tensor | float = 0.0
        self.squares: torch.Tensor | float = 0.0
        self.noise: torch.Tensor | float = 0.0

    def add(self, mean: torch.Tensor, logvar: torch.Tensor) -> None:
        """Add rows [N, C]."""
        rows = mean.double()
        self.count += len(rows)
        self.total = self.total + rows.sum(0)
        self.squares = self.squares + rows.square().sum(0)
        self.noise = self.noise + logvar.double().exp().sum(0)

    def result(self) -> dict[str, list[float]]:
        """Mean and standard deviation a channel."""
        mean = torch.as_tensor(self.total) / self.count
        variance = torch.as_tensor(self.squares) / self.count - mean.square() + torch.as_tensor(self.noise) / self.count
        return {"mean": mean.tolist(), "std": variance.clamp_min(1e-8).sqrt().tolist()}


class Encoders:
    """The three frozen encoders, and the statistics of what they made."""

    def __init__(self, family: Sizes, weights: Path, device: torch.device) -> None:
        self.device = device
        self.networks: dict[str, nn.Module] = {
            part: load_network(family[f"{part}_encoder"], weights / f"{part}_encoder", device)
            for part in (STRUCTURE, SHAPE, MATERIAL)
        }
        self.statistics = {part: Statistics() for part in self.networks}

    @torch.no_grad()
    def encode(self, samples: Sequence[Sample]) -> LatentShard:
        """Latent means of samples, in their order."""
        parts = [self._encode(samples[i : i + AT_ONCE]) for i in range(0, len(samples), AT_ONCE)]
        lengths = np.concatenate([p[0] for p in parts])
        coords, structure, shape, material = (np.concatenate([p[k] for p in parts]) for k in range(1, 5))
        cameras = [[(c.pitch, c.fov) for c in s.cameras] for s in samples]
        return LatentShard(
            offsets=np.cumsum([0, *lengths]),
            coords=coords,
            structure=structure,
            shape=shape,
            material=material,
            views=np.stack([premultiplied(s.views) for s in samples]),
            cameras=np.array(cameras, np.float32),
        )

    def _encode(self, samples: Sequence[Sample]) -> tuple[np.ndarray, ...]:
        batch: VoxelBatch = collate(samples, self.device)
        cuda = self.device.type == "cuda"
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=cuda):
            entry = batch.shape_input()
            shape = self.networks[SHAPE](entry)
            material = self.networks[MATERIAL](entry.replace(batch.attributes))
            dense = self.networks[STRUCTURE](batch.occupancy())
        self.statistics[SHAPE].add(shape.mean.feats, shape.logvar)
        self.statistics[MATERIAL].add(material.mean.feats, material.logvar)
        self.statistics[STRUCTURE].add(
            dense.mean.transpose(0, 1).flatten(1).T, dense.logvar.transpose(0, 1).flatten(1).T
        )
        halves = (t.to("cpu", torch.float16).numpy() for t in (dense.mean, shape.mean.feats, material.mean.feats))
        coords = shape.mean.coords[:, 1:].to("cpu", torch.uint8).numpy()
        return (np.array(shape.mean.lengths), coords, *halves)

    def write_normalisation(self, path: Path) -> None:
        """Statistics of all that was encoded so far, as JSON; parts that the file already holds stay as they are."""
        partial = path.with_name(f".{path.name}.partial")
        statistics = {k: s.result() for k, s in self.statistics.items()} | normalised_parts(path)
        partial.write_text(json.dumps(statistics, indent=1) + "\n", "utf-8")
        partial.replace(path)
        LOG.info("wrote %s", path)


def make_latents(family: Sizes, source: SampleSource, process: Process, *, out: Path, settings: LatentSettings) -> None:
    """Fill `<out>/latents` with shards until `settings.samples` are made, using `<out>/weights`.

    The first samples are made while the encoders may still be in training: they are waited for.
    """
    folder, normalisation = out / "latents", out / "weights" / NORMALISATION_FILE
    folder.mkdir(parents=True, exist_ok=True)
    stream: Iterator[Sample] = source.stream(process, views=settings.views)
    leads = process.first and settings.calibration > 0
    first = list(islice(stream, settings.calibration if leads else settings.shard))
    held_out = source.held_out() if leads else []
    for part in PARTS:
        wait_for(out / "weights" / f"{part}_encoder.safetensors")
    encoders = Encoders(family, out / "weights", process.device)
    if leads and set(normalised_parts(normalisation)) < set(PARTS):
        shards = [encoders.encode(first[i : i + settings.shard]) for i in range(0, len(first), settings.shard)]
        encoders.write_normalisation(normalisation)
        for i, shard in enumerate(shards):
            write_latents(folder / f"calibration_{i:06d}.npz", shard)
        first = []
    process.barrier()
    if leads:
        write_latents(folder / HELD_OUT_FILE, encoders.encode(held_out))
    stream, made = chain(first, stream), 0
    while made < settings.samples // process.size:
        _wait_for_readers(folder, settings.ahead)
        samples = list(islice(stream, settings.shard))
        name = f"shard_{source.seed}_{process.rank}_{made:08d}.npz"
        write_latents(folder / name, encoders.encode(samples))
        made += len(samples)
        LOG.info("%d samples in latents", made)


def wait_for(path: Path, *, minutes: float = 6.0, ready: Callable[[Path], bool] = Path.is_file) -> Path:
    """The path once it is ready: what makes it may have been started at the same time. Raises BundleError at last."""
    deadline = time.monotonic() + 60 * minutes
    while not ready(path):
        if time.monotonic() > deadline:
            raise BundleError(f"There is no {path}.", "Start first what makes it: train latents, train autoencoders.")
        time.sleep(1.0)
    return path


def normalised_parts(path: Path) -> dict[str, dict[str, list[float]]]:
    """What a normalisation file holds by part; nothing where there is no such file."""
    stored: dict[str, dict[str, list[float]]] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return stored


def _wait_for_readers(folder: Path, ahead: int) -> None:
    """Pause while many shards wait unread (readers that consume delete what they read)."""
    while len(list(folder.glob("shard_*.npz"))) >= ahead:
        time.sleep(1.0)


def shard_files(folder: Path) -> Iterator[Path]:
    """Training shards in the folder, oldest first."""
    files = [p for p in folder.glob("*.npz") if p.name != HELD_OUT_FILE and not p.name.startswith(".")]
    return iter(sorted(files, key=lambda p: p.stat().st_mtime_ns))
