"""Recipe of the three autoencoders, trained together from one stream of O-Voxel samples.

    coords ── occupancy ──▶ structure encoder ▶ decoder ── dice + cross-entropy
    dual, crossed ────────▶ shape encoder ▶ decoder ────── subdivisions, crossed edges, dual vertices, diagonals
    attributes ───────────▶ material encoder ▶ decoder ─── L1 + squared error

Decoders are teacher-forced: children come from the encoder's record. Validation decodes freely, as the product does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from trellis_app.models.registry import build_model
from trellis_app.models.shape_vae import dual_vertex
from trellis_app.sparse.tensor import SparseTensor
from trellis_app.training.checkpoints import load_if_saved, save_network
from trellis_app.training.configs import MATERIAL, PARTS, SHAPE, STRUCTURE, Sizes
from trellis_app.training.distributed import Process
from trellis_app.training.initial_values import initialise
from trellis_app.training.journal import contact_sheet, voxel_front_view
from trellis_app.training.losses import (
    attribute_loss,
    kl_to_normal,
    quad_rows,
    split_loss,
    structure_loss,
    subdivision_loss,
)
from trellis_app.training.metrics import f_scores, matched_rows, psnr
from trellis_app.training.optim import Budget
from trellis_app.training.recolour import recolour
from trellis_app.training.samples import Sample
from trellis_app.training.sources import SampleSource
from trellis_app.training.voxel_batches import ReplayBuffer, VoxelBatch, collate, prefetch

LEVELS = 4  # halvings from fine voxels to latent voxels


@dataclass(frozen=True)
class AutoencoderSettings:
    """Weights of the loss terms and how batches are formed."""

    only: tuple[str, ...] = PARTS
    voxels_per_step: int = 1_200_000
    max_voxels: int = 500_000  # larger samples are left out
    buffer: int = 2500  # samples kept for replay
    warm: int = 48  # samples to wait for before the first step
    kl_structure: float = 1e-3
    kl_shape: float = 3e-4
    kl_material: float = 3e-4
    initial_logvar: float = -4.0  # a latent that starts noisy teaches its decoder to ignore it
    vertex_weight: float = 1.0
    split_weight: float = 0.05
    attribute_weights: tuple[float, ...] = (0.23, 0.23, 0.23, 0.09, 0.09, 0.13)
    recolour_share: float = 0.6  # of the blocks of a batch
    latent_noise: float = 0.0  # most noise that a decoder has to live with, in spreads of each channel


class Autoencoders(nn.Module):
    """The chosen encoders and decoders; forward gives the loss terms of a batch."""

    weights: torch.Tensor  # [6] of the attributes

    def __init__(self, family: Sizes, settings: AutoencoderSettings) -> None:
        super().__init__()
        self.settings = settings
        roles = [f"{part}_{side}" for part in settings.only for side in ("encoder", "decoder")]
        specs = {role: family[role] for role in roles}
        self.networks = nn.ModuleDict({role: build_model(spec.name, spec.args) for role, spec in specs.items()})
        initialise(self.networks, settings.initial_logvar)
        self.register_buffer("weights", torch.tensor(settings.attribute_weights), persistent=False)

    def forward(self, batch: VoxelBatch) -> dict[str, torch.Tensor]:
        """Loss terms, weighted; "total" is their sum."""
        terms: dict[str, torch.Tensor] = {}
        entry = batch.shape_input()
        levels = [entry.cache]  # held here, so that both encoders share their voxels, neighbours and plans
        for _ in range(LEVELS):
            levels.append(levels[-1].coarsen())
        if STRUCTURE in self.settings.only:
            terms.update(self._structure(batch))
        if SHAPE in self.settings.only:
            terms.update(self._shape(batch, entry))
        if MATERIAL in self.settings.only:
            terms.update(self._material(batch, entry))
        terms["total"] = torch.stack(list(terms.values())).sum()
        return terms

    def _structure(self, batch: VoxelBatch) -> dict[str, torch.Tensor]:
        occupied = batch.occupancy()
        posterior = self.networks["structure_encoder"](occupied)
        logits = self.networks["structure_decoder"](posterior.sample())
        kl = kl_to_normal(posterior.mean, posterior.logvar)
        return {"occupancy": structure_loss(logits, occupied), "kl_structure": self.settings.kl_structure * kl}

    def _shape(self, batch: VoxelBatch, entry: SparseTensor) -> dict[str, torch.Tensor]:
        settings = self.settings
        posterior = self.networks["shape_encoder"](entry)
        decoding = self.networks["shape_decoder"](disturbed(posterior.sample(), settings.latent_noise))
        raw = decoding.raw.feats.float()
        logits = [level.feats for level in decoding.subdivisions]
        crossed = F.binary_cross_entropy_with_logits(raw[:, 3:6], batch.crossed.float())
        quads = quad_rows(entry.cache.convolution.neighbours, batch.crossed)
        positions = batch.coords[:, 1:] + batch.dual
        kl = kl_to_normal(posterior.mean.feats, posterior.logvar)
        return {
            "subdivision": subdivision_loss(logits, decoding.targets()),
            "crossed": crossed,
            "vertex": settings.vertex_weight * F.l1_loss(dual_vertex(raw), batch.dual),
            "split": settings.split_weight * split_loss(raw[:, 6:7], positions, quads),
            "kl_shape": settings.kl_shape * kl,
        }

    def _material(self, batch: VoxelBatch, entry: SparseTensor) -> dict[str, torch.Tensor]:
        attributes = recolour(batch.attributes, batch.coords, share=self.settings.recolour_share)
        posterior = self.networks["material_encoder"](entry.replace(attributes))
        latent = disturbed(posterior.sample(), self.settings.latent_noise)
        raw = self.networks["material_decoder"](latent).raw.feats
        kl = kl_to_normal(posterior.mean.feats, posterior.logvar)
        return {
            "attributes": attribute_loss(raw, attributes, weights=self.weights),
            "kl_material": self.settings.kl_material * kl,
        }


def disturbed(latent: SparseTensor, most: float) -> SparseTensor:
    """With Gaussian noise of a level drawn for each batch item from [0, most] spreads of each channel.

    What a flow samples is never quite what the encoder makes; a decoder trained like this is less easily upset by that.
    """
    if most == 0:
        return latent
    level = most * torch.rand(latent.batch_size, 1, device=latent.feats.device)
    spread = latent.feats.detach().std(0)
    return latent.replace(latent.feats + latent.packing.spread(level) * spread * torch.randn_like(latent.feats))


class AutoencoderRecipe:
    """Trains `Autoencoders` (see trainer.Recipe)."""

    name = "autoencoders"

    def __init__(
        self, family: Sizes, settings: AutoencoderSettings, source: SampleSource, weights: Path | None = None
    ) -> None:
        self.family, self.settings, self.source = family, settings, source
        autoencoders = Autoencoders(family, settings)
        self.module: nn.Module = autoencoders
        if weights is not None:
            for role, network in autoencoders.networks.items():
                load_if_saved(network, weights / role)

    def freeze_encoders(self) -> None:
        """Train the decoders only."""
        for role, network in self.module.networks.items():  # type: ignore[operator,union-attr]
            network.requires_grad_(not role.endswith("_encoder"))

    def batches(self, process: Process, budget: Budget) -> Iterator[VoxelBatch]:
        """Endless batches of about `voxels_per_step` fine voxels, drawn from the replay buffer."""
        settings = self.settings
        stream = self.source.stream(process, views=1, view_side=32)
        if process.first and process.device.type == "cuda":  # beside the training: validation need not wait
            threading.Thread(target=self.source.held_out, daemon=True).start()
        fitting = (s for s in stream if len(s.coords) <= settings.max_voxels)
        buffer = ReplayBuffer(
            fitting, capacity=settings.buffer, warm=settings.warm, seed=self.source.seed + process.rank
        )

        def drawn() -> Iterator[VoxelBatch]:
            while True:
                samples = buffer.draw(lambda s: len(s.coords), settings.voxels_per_step)
                yield collate(samples, process.device)

        return prefetch(drawn())

    def close(self) -> None:
        """Stop the sample workers."""
        self.source.close()

    def save_weights(self, module: nn.Module, folder: Path) -> None:
        """Each network in float16."""
        for role, network in module.networks.items():  # type: ignore[operator,union-attr]
            save_network(network, self.family[role], folder / role)

    @torch.no_grad()
    def validate(self, module: nn.Module, folder: Path) -> dict[str, float]:
        """Means over held-out objects, decoded freely; `validation.png` shows truth and reconstruction in pairs."""
        networks = module.networks
        device = next(module.parameters()).device
        rows: list[dict[str, float]] = []
        pictures: list[np.ndarray] = []
        for sample in self.source.held_out():
            metrics, sheet = reconstruct(networks, sample, device)  # type: ignore[arg-type]
            rows.append(metrics)
            pictures.extend(sheet)
        if pictures:
            folder.mkdir(parents=True, exist_ok=True)
            contact_sheet([pictures[i : i + 8] for i in range(0, len(pictures), 8)]).save(folder / "validation.png")
        keys = sorted({key for row in rows for key in row})
        return {key: float(np.nanmean([row[key] for row in rows if key in row])) for key in keys}


def reconstruct(
    networks: nn.ModuleDict, sample: Sample, device: torch.device
) -> tuple[dict[str, float], Sequence[np.ndarray]]:
    """Encode and freely decode one sample; metrics and front views of truth and reconstruction."""
    batch = collate([sample], device)
    metrics: dict[str, float] = {}
    if "structure_encoder" in networks:
        occupied = batch.occupancy() > 0
        logits = networks["structure_decoder"](networks["structure_encoder"](occupied.float()).mean)
        metrics["structure_wrong_cells"] = float(((logits > 0) != occupied).sum())
    coords, guides = sample.coords.astype(np.int64), None
    if "shape_encoder" in networks:
        posterior = networks["shape_encoder"](batch.shape_input())
        decoding = networks["shape_decoder"](posterior.mean.fresh())
        coords, guides = decoding.raw.coords[:, 1:].cpu().numpy(), decoding.subdivisions
        metrics |= shape_metrics(coords, dual_vertex(decoding.raw.feats).cpu().numpy(), sample)
        metrics["shape_std"] = float(posterior.mean.feats.std())
    attributes = np.full((len(coords), 6), 0.7)
    truth = sample.attributes / 255.0
    if "material_encoder" in networks:
        latent = networks["material_encoder"](batch.shape_input().replace(batch.attributes)).mean
        raw = networks["material_decoder"](latent if guides is None else latent.fresh(), guides).raw
        attributes = (raw.feats.float() * 0.5 + 0.5).clamp(0, 1).cpu().numpy()
        mine, theirs = matched_rows(coords, sample.coords)
        metrics["colour_psnr"] = psnr(attributes[mine, :3], truth[theirs, :3])
        metrics["other_psnr"] = psnr(attributes[mine, 3:], truth[theirs, 3:])
        metrics["material_std"] = float(latent.feats.std())
    sheet = [
        voxel_front_view(sample.coords.astype(np.int64), truth[:, :3], batch.resolution),
        voxel_front_view(coords, attributes[:, :3], batch.resolution),
    ]
    return metrics, sheet


def shape_metrics(coords: np.ndarray, dual: np.ndarray, sample: Sample) -> dict[str, float]:
    """F1 of voxels, F1 of dual vertices at one voxel, error of dual vertices of voxels in both (in voxels)."""
    truth, side = sample.dual / 255.0, sample.resolution
    mine, theirs = matched_rows(coords, sample.coords)
    (points,) = f_scores((coords + dual) / side, (sample.coords + truth) / side, (1 / side,))
    return {
        "voxel_f1": 2 * len(mine) / max(len(coords) + len(sample.coords), 1),
        "voxel_ratio": len(coords) / len(sample.coords),
        "point_f1": points,
        "dual_error": float(np.abs(dual[mine] - truth[theirs]).mean()) if len(mine) else float("nan"),
    }
