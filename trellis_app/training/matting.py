"""Recipe of the background remover: a small network on cut-outs composited over random backgrounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from trellis_app.models.registry import build_model
from trellis_app.training.backgrounds import compose
from trellis_app.training.checkpoints import load_if_saved, save_network
from trellis_app.training.configs import Sizes
from trellis_app.training.distributed import Process
from trellis_app.training.journal import contact_sheet
from trellis_app.training.losses import matte_loss
from trellis_app.training.optim import Budget
from trellis_app.training.sources import SampleSource
from trellis_app.training.voxel_batches import ReplayBuffer, prefetch

COARSE_GRID = 32  # matting needs no voxels, so samples are made with few
BASELINE_DISTANCE = 0.12  # of a colour to the border's median, beyond which a pixel is the object


@dataclass(frozen=True)
class MattingSettings:
    """How batches are formed."""

    batch: int = 64
    views: int = 6  # pictures a rendered object
    buffer: int = 4000  # objects kept for replay
    warm: int = 64
    test_pictures: int = 96


class Matting(nn.Module):
    """The network; forward gives the loss of (pictures, alpha)."""

    def __init__(self, family: Sizes) -> None:
        super().__init__()
        spec = family["matting"]
        self.networks = nn.ModuleDict({"matting": build_model(spec.name, spec.args)})

    def forward(self, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
        pictures, alpha = batch
        return {"total": matte_loss(self.networks["matting"](pictures), alpha)}


class MattingRecipe:
    """Trains `Matting` (see trainer.Recipe)."""

    name = "matting"

    def __init__(
        self, family: Sizes, settings: MattingSettings, source: SampleSource, warm_start: Path | None = None
    ) -> None:
        self.family, self.settings = family, settings
        self.source = replace(source, resolution=COARSE_GRID)
        matting = Matting(family)
        self.module: nn.Module = matting
        self.size = int(family["matting"].args["image_size"])
        if warm_start is not None:
            load_if_saved(matting.networks["matting"], warm_start / "matting")

    def batches(self, process: Process, budget: Budget) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Endless (pictures, alpha)."""
        settings = self.settings
        stream = self.source.stream(process, views=settings.views, view_side=self.size)
        buffer = ReplayBuffer(
            (sample.views for sample in stream), capacity=settings.buffer, warm=settings.warm, seed=process.rank
        )
        random = np.random.default_rng(process.rank)

        def drawn() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            while True:
                objects = buffer.draw(lambda views: 1, settings.batch)
                views = np.stack([o[int(random.integers(len(o)))] for o in objects])
                yield compose(torch.from_numpy(views).to(process.device), self.size)

        return prefetch(drawn())

    def close(self) -> None:
        """Stop the sample workers."""
        self.source.close()

    def save_weights(self, module: nn.Module, folder: Path) -> None:
        """The network in float16."""
        networks: nn.ModuleDict = module.networks  # type: ignore[assignment]
        save_network(networks["matting"], self.family["matting"], folder / "matting")

    @torch.no_grad()
    def validate(self, module: nn.Module, folder: Path) -> dict[str, float]:
        """IoU and mean error of alpha on pictures of held-out objects, beside a threshold on the border's colour."""
        device = next(module.parameters()).device
        networks: nn.ModuleDict = module.networks  # type: ignore[assignment]
        pictures, alpha = self._test_pictures(device)
        found = torch.cat([torch.sigmoid(networks["matting"](p).float()) for p in pictures.split(32)])
        plain = border_threshold(pictures)
        metrics = {
            "iou": mean_iou(found, alpha),
            "mae": float((found - alpha).abs().mean()),
            "baseline_iou": mean_iou(plain, alpha),
            "baseline_mae": float((plain - alpha).abs().mean()),
        }
        rows = [[as_picture(x[i]) for x in (pictures, found, alpha)] for i in range(min(24, len(pictures)))]
        folder.mkdir(parents=True, exist_ok=True)
        contact_sheet([[p for row in rows[i : i + 4] for p in row] for i in range(0, len(rows), 4)]).save(
            folder / "validation.png"
        )
        return metrics

    def _test_pictures(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """The same composites at every call (made on the CPU, so that every machine makes them alike)."""
        held_out = [sample.views[0] for sample in self.source.held_out()]
        views = np.stack([held_out[i % len(held_out)] for i in range(self.settings.test_pictures)])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            parts = [compose(torch.from_numpy(v), self.size) for v in np.array_split(views, max(len(views) // 16, 1))]
        pictures, alpha = (torch.cat([part[k] for part in parts]).to(device) for k in range(2))
        return pictures, alpha


def border_threshold(pictures: torch.Tensor) -> torch.Tensor:
    """Baseline matte [B, 1, S, S]: 1 where the colour is far from the median colour of the border."""
    border = torch.cat([pictures[:, :, 0], pictures[:, :, -1], pictures[:, :, :, 0], pictures[:, :, :, -1]], dim=2)
    median = border.median(dim=2).values[:, :, None, None]
    return ((pictures - median).norm(dim=1, keepdim=True) > BASELINE_DISTANCE).float()


def mean_iou(found: torch.Tensor, alpha: torch.Tensor) -> float:
    """Intersection over union at one half, mean over pictures."""
    a, b = found > 0.5, alpha > 0.5
    union = (a | b).flatten(1).sum(1).clamp_min(1)
    return float(((a & b).flatten(1).sum(1) / union).mean())


def as_picture(values: torch.Tensor) -> np.ndarray:
    """[1 or 3, S, S] in [0, 1] -> uint8 [S, S, 3]."""
    rgb = values.expand(3, -1, -1).permute(1, 2, 0)
    return np.asarray((rgb.clamp(0, 1) * 255).byte().cpu().numpy())
