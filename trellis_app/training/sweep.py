"""Choose each stage's sampler on held-out training pictures, one setting after the other.

Stages are judged apart, the later ones on the true results of the earlier: structure by the overlap of cells, shape by
the F-score of decoded dual vertices, material by the PSNR of decoded colours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trellis_app.settings import SamplerSettings
from trellis_app.training.checkpoints import load_network
from trellis_app.training.configs import MATERIAL, PARTS, SHAPE, STRUCTURE, Sizes
from trellis_app.training.export_bundle import SAMPLERS_FILE, write_samplers
from trellis_app.training.flow_batches import DeviceShard, FlowBatch, LatentScale, assemble
from trellis_app.training.flows import run_stages
from trellis_app.training.generation import MINI_SAMPLERS, Samplers, Stages, world_points
from trellis_app.training.latents import HELD_OUT_FILE, NORMALISATION_FILE, read_latents
from trellis_app.training.metrics import f_scores, psnr
from trellis_app.types import DualGrid, OVoxel

LOG = logging.getLogger(__name__)
CHOICES: dict[str, tuple[Any, ...]] = {
    "guidance_strength": (1.0, 1.5, 2.0, 3.0, 4.5, 6.0),
    "rescale_t": (1.0, 2.0, 3.0, 5.0),
    "guidance_interval": ((0.0, 1.0), (0.3, 1.0), (0.6, 1.0)),
}
NEAR = 0.01  # distance of the shape's F-score, about 2.5 voxels of 256
SCORES = {STRUCTURE: "structure_iou", SHAPE: "shape_f", MATERIAL: "material_psnr"}
SEEDS = (0,)
DECODED = 16  # pictures whose assets are decoded to judge shape and material
Judge = Callable[[SamplerSettings, int], float]  # settings and seed -> score, higher is better


@dataclass(frozen=True)
class SweepSettings:
    """How thorough the sweep is."""

    pictures: int = 48
    steps: int = 12
    only: tuple[str, ...] = PARTS  # stages


def sweep(family: Sizes, out: Path, device: torch.device, settings: SweepSettings) -> dict[str, float]:
    """Write the best samplers to `<out>/samplers.json`; returns the score of each stage's choice.

    With some stages only, they go to `<out>/samplers_<stages>.json`, so that sweeps can run beside each other.
    """
    scale = LatentScale.read(out / "weights" / NORMALISATION_FILE, device)
    networks = {
        role: load_network(family[role], out / "weights" / role, device)
        for role in ("image_encoder", "structure_flow", "shape_flow", "material_flow")
    }
    stages = run_stages(family, out, networks, scale, device)
    shard = DeviceShard(read_latents(out / "latents" / HELD_OUT_FILE), device)
    items = np.arange(min(len(shard), settings.pictures))
    batch = assemble([shard.take(items, np.zeros_like(items))], scale)
    with torch.inference_mode(), torch.autocast("cuda", dtype=torch.bfloat16, enabled=device.type == "cuda"):
        encoder = networks["image_encoder"]
        bench = Bench(stages, batch, encoder(batch.pictures))
        few = assemble([shard.take(items[:DECODED], np.zeros_like(items[:DECODED]))], scale)
        decoded = DecodedBench(stages, few, encoder(few.pictures))
        start = replace_steps(MINI_SAMPLERS, settings.steps)
        judges: dict[str, Judge] = {STRUCTURE: bench.structure, SHAPE: decoded.shape, MATERIAL: decoded.material}
        name = SAMPLERS_FILE if settings.only == PARTS else f"samplers_{'_'.join(settings.only)}.json"
        found: dict[str, SamplerSettings] = {}
        scores: dict[str, float] = {}
        for stage in settings.only:
            for chosen, score in improved(stage, getattr(start, stage), judges[stage]):
                found[stage], scores[SCORES[stage]] = chosen, score
                write_samplers(out / name, found)  # after each field: a sweep that is cut short leaves its best
    return scores


def replace_steps(samplers: Samplers, steps: int) -> Samplers:
    """The samplers with another number of steps."""
    return Samplers(*(replace(s, steps=steps) for s in (samplers.structure, samplers.shape, samplers.material)))


def improved(name: str, start: SamplerSettings, judge: Judge) -> Iterator[tuple[SamplerSettings, float]]:
    """Vary one field after the other, keeping the best value of each; yields the best so far and its score."""
    known: dict[SamplerSettings, float] = {}

    def score(settings: SamplerSettings) -> float:
        if settings not in known:
            known[settings] = float(np.mean([judge(settings, seed) for seed in SEEDS]))
            LOG.info("%s %.4f %s", name, known[settings], settings)
        return known[settings]

    chosen = start
    for field, values in CHOICES.items():
        chosen = max((chosen, *(replace(chosen, **{field: value}) for value in values)), key=score)
        yield chosen, score(chosen)


@dataclass(frozen=True)
class Bench:
    """Held-out pictures, judged by the cells of the structure."""

    stages: Stages
    batch: FlowBatch
    tokens: torch.Tensor

    def structure(self, settings: SamplerSettings, seed: int) -> float:
        """Mean overlap (intersection over union) of the cells."""
        coords = self.stages.structure(self.tokens, settings, random(seed))
        found, true = as_sets(coords), as_sets(self.batch.shape.coords)
        return float(np.mean([len(a & b) / len(a | b) for a, b in zip(found, true, strict=True)]))


class DecodedBench:
    """Held-out pictures, judged by decoded assets."""

    def __init__(self, stages: Stages, batch: FlowBatch, tokens: torch.Tensor) -> None:
        self.stages, self.batch, self.tokens = stages, batch, tokens
        self.truth = list(stages.decode(batch.shape, batch.shape.replace(batch.material)))

    def shape(self, settings: SamplerSettings, seed: int) -> float:
        """Mean F-score of dual vertices, on the true cells."""
        latent = self.stages.shape(self.tokens, self.batch.shape.coords, settings, random(seed))
        made = [grid for grid, _ in self.stages.decode_shape(latent)]
        scores = [f_scores(points(a), points(b.grid), (NEAR,))[0] for a, b in zip(made, self.truth, strict=True)]
        return float(np.mean(scores))

    def material(self, settings: SamplerSettings, seed: int) -> float:
        """Mean PSNR of the colours, on the true shape."""
        latent = self.stages.material(self.tokens, self.batch.shape, settings, random(seed))
        made = self.stages.decode(self.batch.shape, latent)
        return float(np.mean([psnr(colours(a), colours(b)) for a, b in zip(made, self.truth, strict=True)]))


def random(seed: int) -> torch.Generator:
    """CPU noise of a seed."""
    return torch.Generator().manual_seed(seed)


def as_sets(coords: torch.Tensor) -> list[set[tuple[int, ...]]]:
    """Cells of each batch item, from int32 [N, 4]."""
    sets: list[set[tuple[int, ...]]] = [set() for _ in range(int(coords[-1, 0]) + 1)]
    for item, *cell in coords.tolist():
        sets[item].add(tuple(cell))
    return sets


def points(grid: DualGrid) -> np.ndarray:
    """Some of the dual vertices."""
    return world_points(grid).float().cpu().numpy()[::7]


def colours(asset: OVoxel) -> np.ndarray:
    """Base colours of all voxels, float [M, 3]."""
    return asset.attributes[:, :3].float().cpu().numpy()
