"""Latent shards in device memory, and batches drawn from them."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from trellis_app.sparse.tensor import SparseTensor
from trellis_app.training.configs import MATERIAL, SHAPE, STRUCTURE
from trellis_app.training.distributed import Process
from trellis_app.training.latents import LatentShard, read_latents, shard_files

LOG = logging.getLogger(__name__)
RESCAN_SECONDS = 2.0


@dataclass(frozen=True, eq=False)
class FlowBatch:
    """Normalised latents with the pictures they belong to."""

    pictures: torch.Tensor  # float32 [B, 3, S, S] in [0, 1]
    cameras: torch.Tensor  # float32 [B, 2] pitch in radians, field of view in degrees
    structure: torch.Tensor  # float32 [B, C, R, R, R]
    shape: SparseTensor  # feats float32 [N, C]
    material: torch.Tensor  # float32 [N, C]

    @property
    def size(self) -> int:
        """B."""
        return len(self.pictures)

    def occupancy(self, side: int) -> torch.Tensor:
        """Occupied latent cells, float32 [B, side^3]."""
        b, x, y, z = self.shape.coords.long().unbind(1)
        grid = torch.zeros(self.size, side**3, device=self.pictures.device)
        grid[b, (x * side + y) * side + z] = 1
        return grid


@dataclass(frozen=True, eq=False)
class LatentScale:
    """Mean and standard deviation of the latents' channels; the structure latent is only scaled."""

    mean: dict[str, torch.Tensor]
    std: dict[str, torch.Tensor]

    @classmethod
    def read(cls, path: Path, device: torch.device) -> LatentScale:
        """From the JSON that `train latents` wrote."""
        stored = json.loads(path.read_text(encoding="utf-8"))
        mean = {k: torch.tensor(v["mean"], dtype=torch.float32, device=device) for k, v in stored.items()}
        std = {k: torch.tensor(v["std"], dtype=torch.float32, device=device) for k, v in stored.items()}
        return cls(mean, std)

    def rows(self, part: str, rows: torch.Tensor) -> torch.Tensor:
        """Normalise [N, C] of the shape or material latent."""
        return (rows.float() - self.mean[part]) / self.std[part]

    def grid(self, latent: torch.Tensor) -> torch.Tensor:
        """Scale the structure latent [B, C, R, R, R]."""
        return latent.float() / self.std[STRUCTURE].view(-1, 1, 1, 1)


class DeviceShard:
    """A shard whose arrays lie on the device."""

    def __init__(self, shard: LatentShard, device: torch.device) -> None:
        self.offsets = shard.offsets
        self.views_each = shard.views.shape[1]
        arrays = (shard.coords, shard.structure, shard.shape, shard.material, shard.views, shard.cameras)
        self.tensors = [torch.from_numpy(array).to(device) for array in arrays]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, items: np.ndarray, views: np.ndarray) -> tuple[list[int], list[torch.Tensor]]:
        """Rows of each chosen item, and its (coords, structure, shape, material, views, cameras)."""
        starts, ends = self.offsets[items], self.offsets[items + 1]
        rows = np.concatenate([np.arange(a, b) for a, b in zip(starts, ends, strict=True)])
        coords, structure, shape, material, pictures, cameras = self.tensors
        device = coords.device
        index = torch.from_numpy(rows).to(device, non_blocking=True)
        item = torch.from_numpy(np.asarray(items)).to(device, non_blocking=True)
        view = torch.from_numpy(np.asarray(views)).to(device, non_blocking=True)
        taken = [
            coords.index_select(0, index),
            structure.index_select(0, item),
            shape.index_select(0, index),
            material.index_select(0, index),
            pictures[item, view],
            cameras[item, view],
        ]
        return (ends - starts).tolist(), taken


def assemble(parts: Sequence[tuple[list[int], list[torch.Tensor]]], scale: LatentScale) -> FlowBatch:
    """One batch from the pieces taken of several shards."""
    lengths = tuple(n for lengths, _ in parts for n in lengths)
    coords, structure, shape, material, views, cameras = (torch.cat([taken[k] for _, taken in parts]) for k in range(6))
    device = coords.device
    counts = torch.tensor(lengths).to(device, non_blocking=True)
    item = torch.repeat_interleave(torch.arange(len(lengths), device=device), counts, output_size=sum(lengths))
    full = torch.cat([item[:, None].int(), coords.int()], dim=1)
    return FlowBatch(
        pictures=views.permute(0, 3, 1, 2).float() / 255,
        cameras=cameras,
        structure=scale.grid(structure),
        shape=SparseTensor.packed(scale.rows(SHAPE, shape), full, lengths),
        material=scale.rows(MATERIAL, material),
    )


def jitter(pictures: torch.Tensor, *, strength: float = 0.04) -> torch.Tensor:
    """Shift and zoom half of the pictures by a few percent, as imperfect cut-outs are framed; outside is black."""
    count, device = len(pictures), pictures.device
    used = (torch.rand(count, device=device) < 0.5).float()
    zoom = 1 + used * strength * (2 * torch.rand(count, device=device) - 1)
    shift = used[:, None] * strength * (2 * torch.rand(count, 2, device=device) - 1)
    theta = torch.zeros(count, 2, 3, device=device)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, align_corners=False)


class LatentStore:
    """The newest shards of a folder on the device; a thread rescans it, `draw` mixes items of several shards.

    Rank r of n takes every n-th file. With `consume`, files are deleted once they are read.
    """

    def __init__(self, folder: Path, process: Process, *, scale: LatentScale, capacity: int, consume: bool) -> None:
        self._folder, self._process, self._consume = folder, process, consume
        self._scale = scale
        self._shards: deque[DeviceShard] = deque(maxlen=capacity)
        self._seen: set[str] = set()
        self._rng = np.random.default_rng(process.rank)
        self._stopped = threading.Event()
        self.samples = 0
        self._thread = threading.Thread(target=self._scan, daemon=True)
        self._thread.start()

    def _scan(self) -> None:
        while not self._stopped.is_set():
            for path in shard_files(self._folder):
                mine = hash_of(path.name) % self._process.size == self._process.rank
                if path.name in self._seen or not mine or self._stopped.is_set():
                    continue
                shard = DeviceShard(read_latents(path), self._process.device)
                self._seen.add(path.name)
                if len(shard):
                    self._shards.append(shard)
                    self.samples += len(shard)
                if self._consume:
                    path.unlink()
            self._stopped.wait(RESCAN_SECONDS)

    def wait(self, shards: int) -> None:
        """Until so many shards are loaded (or, for a folder that grows no more, one)."""
        seen, since = 0, time.monotonic()
        while len(self._shards) < shards:
            time.sleep(0.2)
            if len(self._shards) > seen:
                seen, since = len(self._shards), time.monotonic()
            if seen and time.monotonic() - since > 5 * RESCAN_SECONDS:
                return

    def draw(self, size: int, *, mixed: int = 8) -> FlowBatch:
        """A batch of `size` random items, each with one of its views, out of up to `mixed` shards."""
        shards = list(self._shards)
        mixed = min(mixed, size)
        parts = []
        for k in range(mixed):
            shard = shards[int(self._rng.integers(len(shards)))]
            count = size // mixed + (k < size % mixed)
            items = self._rng.integers(len(shard), size=count)
            views = self._rng.integers(shard.views_each, size=count)
            parts.append(shard.take(items, views))
        return assemble(parts, self._scale)

    def close(self) -> None:
        """Stop the thread."""
        self._stopped.set()
        self._thread.join(timeout=30)


def hash_of(name: str) -> int:
    """A number that is the same in every process."""
    return int.from_bytes(name.encode(), "little") % 1_000_003
