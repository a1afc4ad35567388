"""Recipe of the image encoder and the three flow transformers, trained jointly on latents.

picture ▶ image encoder ─ tokens ─┬▶ structure flow ─ velocity error
                                  ├▶ shape flow ───── velocity error
                                  ├▶ material flow ── velocity error   (sees the clean shape latent)
                                  └▶ class token ▶ two linear heads: camera and coarse occupancy (training only)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from trellis_app.models.image_encoder import MiniImageEncoder
from trellis_app.models.registry import build_model
from trellis_app.sparse.tensor import SparseTensor
from trellis_app.training.checkpoints import load_if_saved, load_network, save_network
from trellis_app.training.configs import MATERIAL, PARTS, SHAPE, STRUCTURE, Sizes
from trellis_app.training.distributed import Process
from trellis_app.training.flow_batches import (
    DeviceShard,
    FlowBatch,
    LatentScale,
    LatentStore,
    assemble,
    jitter,
)
from trellis_app.training.generation import MINI_SAMPLERS, SIGMA_MIN, Stages, world_points
from trellis_app.training.journal import contact_sheet, voxel_front_view
from trellis_app.training.latents import HELD_OUT_FILE, NORMALISATION_FILE, normalised_parts, read_latents, wait_for
from trellis_app.training.metrics import f_scores, intersection_over_union
from trellis_app.training.optim import Budget
from trellis_app.training.voxel_batches import prefetch
from trellis_app.types import OVoxel

ROLES = ("image_encoder", "structure_flow", "shape_flow", "material_flow")


@dataclass(frozen=True)
class FlowSettings:
    """Batch, noise levels and the weights of the loss terms."""

    only: tuple[str, ...] = PARTS  # flows that are trained, always with the image encoder
    batch: int = 96  # pictures a step in each process
    drop_condition: float = 0.1
    structure_time: tuple[float, float] = (1.0, 1.0)  # mean and spread of the logit-normal time
    latent_time: tuple[float, float] = (0.4, 1.2)
    camera_weight: float = 0.1
    occupancy_weight: float = 0.2
    capacity: int = 800  # shards kept on the device
    warm_shards: int = 4  # to wait for before the first step
    consume: bool = False  # delete shards that were read
    jitter: bool = True
    generated: int = 12  # held-out pictures generated at a validation


class Flows(nn.Module):
    """Image encoder, flows and the two training-only heads; forward gives the loss terms of a batch."""

    def __init__(self, family: Sizes, settings: FlowSettings) -> None:
        super().__init__()
        self.settings = settings
        self.grid = family.resolution // 16
        specs = {role: family[role] for role in roles_of(settings)}
        self.networks = nn.ModuleDict({role: build_model(s.name, s.args) for role, s in specs.items()})
        encoder = self.networks["image_encoder"]
        assert isinstance(encoder, MiniImageEncoder)
        encoder.initialise()
        width = encoder.params.width
        self.networks["aux"] = nn.ModuleDict(
            {"camera": nn.Linear(width, 2), "occupancy": nn.Linear(width, self.grid**3)}
        )

    def forward(self, batch: FlowBatch) -> dict[str, torch.Tensor]:
        """Loss terms, weighted; "total" is their sum."""
        tokens = self.networks["image_encoder"](batch.pictures)
        losses = {STRUCTURE: self._structure, SHAPE: self._shape, MATERIAL: self._material}
        terms = {part: losses[part](batch, tokens) for part in self.settings.only}
        terms |= self._heads(batch, tokens)
        terms["total"] = torch.stack(list(terms.values())).sum()
        return terms

    def _dropped(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens with the whole condition of some items set to zero."""
        kept = torch.rand(len(tokens), 1, 1, device=tokens.device) >= self.settings.drop_condition
        return tokens * kept

    def _structure(self, batch: FlowBatch, tokens: torch.Tensor) -> torch.Tensor:
        t = logit_normal(batch.size, *self.settings.structure_time, device=tokens.device)
        x, target = noised(batch.structure, t.view(-1, 1, 1, 1, 1))
        velocity = self.networks["structure_flow"](x, 1000 * t, self._dropped(tokens))
        return F.mse_loss(velocity.float(), target)

    def _shape(self, batch: FlowBatch, tokens: torch.Tensor) -> torch.Tensor:
        t = logit_normal(batch.size, *self.settings.latent_time, device=tokens.device)
        x, target = noised(batch.shape.feats, batch.shape.packing.spread(t[:, None]))
        velocity = self.networks["shape_flow"](batch.shape.replace(x), 1000 * t, self._dropped(tokens))
        return F.mse_loss(velocity.feats.float(), target)

    def _material(self, batch: FlowBatch, tokens: torch.Tensor) -> torch.Tensor:
        t = logit_normal(batch.size, *self.settings.latent_time, device=tokens.device)
        x, target = noised(batch.material, batch.shape.packing.spread(t[:, None]))
        flow = self.networks["material_flow"]
        velocity = flow(batch.shape.replace(x), 1000 * t, self._dropped(tokens), batch.shape)
        return F.mse_loss(velocity.feats.float(), target)

    def _heads(self, batch: FlowBatch, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """Camera (pitch, field of view) and occupancy from the class token: they teach the encoder early."""
        heads = self.networks["aux"]
        token = tokens[:, 0]
        wanted = torch.stack([batch.cameras[:, 0], (batch.cameras[:, 1] - 35) / 15], dim=1)
        camera = F.smooth_l1_loss(heads["camera"](token).float(), wanted)  # type: ignore[index]
        logits = heads["occupancy"](token).float()  # type: ignore[index]
        occupancy = F.binary_cross_entropy_with_logits(logits, batch.occupancy(self.grid))
        settings = self.settings
        return {"camera": settings.camera_weight * camera, "coarse": settings.occupancy_weight * occupancy}


def logit_normal(count: int, mean: float, spread: float, *, device: torch.device) -> torch.Tensor:
    """Times [count] in (0, 1): the sigmoid of a normal variable (Esser et al. 2024, section 3.1)."""
    return torch.sigmoid(mean + spread * torch.randn(count, device=device))


def noised(x0: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Data at time t and the velocity there: (1 - t) x0 + (s + (1 - s) t) e and (1 - s) e - x0."""
    noise = torch.randn_like(x0)
    x = (1 - t) * x0 + (SIGMA_MIN + (1 - SIGMA_MIN) * t) * noise
    return x, (1 - SIGMA_MIN) * noise - x0


def roles_of(settings: FlowSettings) -> tuple[str, ...]:
    """The networks that are trained."""
    return ("image_encoder", *(f"{part}_flow" for part in settings.only))


class FlowRecipe:
    """Trains `Flows` (see trainer.Recipe) from `<out>/latents`; decoders come from `<out>/weights`."""

    name = "flows"

    def __init__(
        self, family: Sizes, settings: FlowSettings, process: Process, *, out: Path, warm_start: Path | None = None
    ) -> None:
        self.family, self.settings, self.process, self.out = family, settings, process, out
        flows = Flows(family, settings)
        self.module: nn.Module = flows
        path = wait_for(out / "weights" / NORMALISATION_FILE, ready=lambda p: set(normalised_parts(p)) >= set(PARTS))
        self.scale = LatentScale.read(path, process.device)
        if warm_start is not None:  # after the waiting: the weights may be those of a run that is about to end
            for role in roles_of(settings):
                load_if_saved(flows.networks[role], warm_start / role)
        self._store: LatentStore | None = None

    def batches(self, process: Process, budget: Budget) -> Iterator[FlowBatch]:
        """Endless batches from the newest shards."""
        settings = self.settings
        store = LatentStore(
            self.out / "latents", process, scale=self.scale, capacity=settings.capacity, consume=settings.consume
        )
        self._store = store
        store.wait(settings.warm_shards)

        def drawn() -> Iterator[FlowBatch]:
            while True:
                batch = store.draw(settings.batch)
                if settings.jitter:
                    batch = FlowBatch(
                        jitter(batch.pictures), batch.cameras, batch.structure, batch.shape, batch.material
                    )
                yield batch

        return prefetch(drawn())

    def close(self) -> None:
        """Stop the reader."""
        if self._store is not None:
            self._store.close()

    def save_weights(self, module: nn.Module, folder: Path) -> None:
        """Each network in float16; the training-only heads are left out."""
        networks: nn.ModuleDict = module.networks  # type: ignore[assignment]
        for role in roles_of(self.settings):
            save_network(networks[role], self.family[role], folder / role)

    @torch.no_grad()
    def validate(self, module: nn.Module, folder: Path) -> dict[str, float]:
        """Losses on held-out pictures, and how close generated assets come; pictures in `validation.png`.

        Each triple of pictures: the input, the true latent decoded, and the generated asset, both from the front.
        """
        shard = DeviceShard(read_latents(wait_for(self.out / "latents" / HELD_OUT_FILE)), self.process.device)
        items = np.arange(len(shard))
        batch = assemble([shard.take(items, np.zeros_like(items))], self.scale)
        cuda = self.process.device.type == "cuda"
        with torch.random.fork_rng(devices=[self.process.device] if cuda else []):
            torch.manual_seed(0)
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=cuda):
                terms = [module(batch) for _ in range(4)]
        losses = {f"held_out_{k}": float(torch.stack([t[k] for t in terms]).mean()) for k in terms[0]}
        if self.settings.only != PARTS:
            return losses
        few = items[: self.settings.generated]
        chosen = assemble([shard.take(few, np.zeros_like(few))], self.scale)
        return {**losses, **self._generate(module, chosen, folder)}

    def _generate(self, module: nn.Module, batch: FlowBatch, folder: Path) -> dict[str, float]:
        networks: nn.ModuleDict = module.networks  # type: ignore[assignment]
        stages = run_stages(self.family, self.out, networks, self.scale, self.process.device)
        cuda = self.process.device.type == "cuda"
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=cuda):
            tokens = networks["image_encoder"](batch.pictures)
            truths = list(stages.decode(batch.shape, batch.shape.replace(batch.material)))
            made = list(stages.generate(tokens, MINI_SAMPLERS, seed=0))
        cells = [set(map(tuple, (o.grid.coords // 16).tolist())) for o in made]
        scores, rows = [], []
        for i, (truth, asset) in enumerate(zip(truths, made, strict=True)):
            points = [world_points(o.grid).cpu().numpy()[::7] for o in (truth, asset)]
            near, far = f_scores(points[0], points[1], (0.02, 0.05))
            true_cells = set(map(tuple, (truth.grid.coords // 16).tolist()))
            overlap = len(cells[i] & true_cells) / max(len(cells[i] | true_cells), 1)
            fronts = [front(o) for o in (truth, asset)]
            silhouettes = intersection_over_union(fronts[0].max(axis=2) > 0, fronts[1].max(axis=2) > 0)
            scores.append((near, far, overlap, silhouettes))
            picture = (batch.pictures[i].permute(1, 2, 0).cpu().numpy() * 255).astype(np.uint8)
            rows.append([shrink(picture, fronts[0].shape[0]), *fronts])
        folder.mkdir(parents=True, exist_ok=True)
        contact_sheet([[p for row in rows[i : i + 3] for p in row] for i in range(0, len(rows), 3)]).save(
            folder / "validation.png"
        )
        mean = np.mean(scores, axis=0)
        return dict(zip(("f_002", "f_005", "cell_iou", "front_iou"), map(float, mean), strict=True))


def front(asset: OVoxel) -> np.ndarray:
    """Front view of an asset, uint8 [S, S, 3]."""
    coords, colours = asset.grid.coords.cpu().numpy(), asset.attributes[:, :3].cpu().numpy()
    return voxel_front_view(coords, colours, asset.grid.resolution)


def shrink(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture uint8 [S, S, 3] at another side."""
    return np.asarray(Image.fromarray(picture).resize((side, side)))


def run_stages(
    family: Sizes,
    out: Path,
    networks: Mapping[str, nn.Module] | nn.ModuleDict,
    scale: LatentScale,
    device: torch.device,
) -> Stages:
    """The flows in `networks` and the run's trained decoders, chained as the product does."""
    decoders = {
        part: load_network(family[f"{part}_decoder"], out / "weights" / f"{part}_decoder", device)
        for part in (STRUCTURE, SHAPE, MATERIAL)
    }

    def denormalise(part: str, latent: SparseTensor) -> SparseTensor:
        return latent.replace(latent.feats * scale.std[part] + scale.mean[part])

    return Stages(
        structure_flow=networks["structure_flow"],
        structure_decoder=decoders[STRUCTURE],
        shape_flow=networks["shape_flow"],
        shape_decoder=decoders[SHAPE],  # type: ignore[arg-type]
        material_flow=networks["material_flow"],
        material_decoder=decoders[MATERIAL],
        denormalise=denormalise,
        structure_scale=scale.std[STRUCTURE],
        resolution=family.resolution,
    )
