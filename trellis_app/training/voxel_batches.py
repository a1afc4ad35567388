"""From a stream of samples to O-Voxel batches on the device: a replay buffer, collation, prefetching."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch

from trellis_app.sparse.tensor import SparseTensor
from trellis_app.training.samples import Sample

LATENT_FACTOR = 16  # fine voxels along a latent voxel
T = TypeVar("T")


@dataclass(frozen=True)
class VoxelBatch:
    """O-Voxel data of several objects on the device; rows of an item are contiguous."""

    coords: torch.Tensor  # int32 [M, 4]
    dual: torch.Tensor  # float32 [M, 3] in [0, 1], relative to the voxel corner
    crossed: torch.Tensor  # bool [M, 3]
    attributes: torch.Tensor  # float32 [M, 6] in [-1, 1]
    lengths: tuple[int, ...]
    resolution: int  # fine voxels along a side

    @property
    def size(self) -> int:
        """B."""
        return len(self.lengths)

    def shape_input(self) -> SparseTensor:
        """What the shape encoder takes: dual vertex and flags around zero, feats [M, 6]."""
        feats = torch.cat([self.dual - 0.5, self.crossed.float() - 0.5], dim=1)
        return SparseTensor.packed(feats, self.coords, self.lengths)

    def occupancy(self) -> torch.Tensor:
        """Occupied latent cells as float32 [B, 1, R, R, R]."""
        side = self.resolution // LATENT_FACTOR
        grid = torch.zeros(self.size, 1, side, side, side, device=self.coords.device)
        b, x, y, z = self.coords.long().unbind(1)
        grid[b, 0, x // LATENT_FACTOR, y // LATENT_FACTOR, z // LATENT_FACTOR] = 1
        return grid


def collate(samples: Sequence[Sample], device: torch.device) -> VoxelBatch:
    """Concatenate samples and move them as bytes; unpacking happens on the device."""
    lengths = tuple(len(s.coords) for s in samples)
    items = np.repeat(np.arange(len(samples), dtype=np.int16), lengths)
    coords = np.concatenate([items[:, None], np.concatenate([s.coords for s in samples])], axis=1)
    packed = [
        coords.astype(np.int16),
        np.concatenate([s.dual for s in samples]),
        np.concatenate([s.crossed for s in samples]).reshape(-1, 1),
        np.concatenate([s.attributes for s in samples]),
    ]
    tensors = [torch.from_numpy(a) for a in packed]
    if device.type == "cuda":
        tensors = [t.pin_memory().to(device, non_blocking=True) for t in tensors]
    voxels, dual, crossed, attributes = tensors
    bits = torch.tensor([1, 2, 4], dtype=torch.uint8, device=device)
    return VoxelBatch(
        coords=voxels.int(),
        dual=dual.float() / 255,
        crossed=(crossed & bits) > 0,
        attributes=attributes.float() / 127.5 - 1,
        lengths=lengths,
        resolution=samples[0].resolution,
    )


class ReplayBuffer(Generic[T]):
    """Keeps the latest samples of a stream, so that a step never waits for the producers once it is warm.

    A thread reads the stream; `draw` picks uniformly among what is kept.
    """

    def __init__(self, stream: Iterable[T], *, capacity: int, warm: int, seed: int) -> None:
        self._kept: list[T] = []
        self._capacity, self._warm = capacity, warm
        self._rng = np.random.default_rng(seed)
        self._filled = threading.Event()
        self._failure: list[BaseException] = []
        self.received = 0
        threading.Thread(target=self._read, args=(iter(stream),), daemon=True).start()

    def _read(self, stream: Iterator[T]) -> None:
        try:
            for sample in stream:
                if len(self._kept) < self._capacity:
                    self._kept.append(sample)
                else:
                    self._kept[self.received % self._capacity] = sample
                self.received += 1
                if self.received >= self._warm:
                    self._filled.set()
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            self._failure.append(error)
        self._filled.set()

    def draw(self, weight: Callable[[T], int], budget: int) -> list[T]:
        """Random samples whose weights add up to about `budget`; at least one. Waits until the buffer is warm."""
        self._filled.wait()
        if self._failure:
            raise RuntimeError("the sample stream failed") from self._failure[0]
        if not self._kept:
            raise RuntimeError("the sample stream ended without a sample")
        drawn: list[T] = []
        total = 0
        while total < budget:
            sample = self._kept[int(self._rng.integers(len(self._kept)))]
            if drawn and total + weight(sample) > 1.1 * budget:
                break
            drawn.append(sample)
            total += weight(sample)
        return drawn


def prefetch(source: Iterator[T], *, depth: int = 2) -> Iterator[T]:
    """The same items, prepared by a thread `depth` ahead."""
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)

    def work() -> None:
        try:
            for item in source:
                ready.put((item, None))
            ready.put((None, StopIteration()))
        except (OSError, RuntimeError, ValueError) as error:
            ready.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    while True:
        item, error = ready.get()
        if isinstance(error, StopIteration):
            return
        if error is not None:
            raise error
        yield item  # type: ignore[misc]
