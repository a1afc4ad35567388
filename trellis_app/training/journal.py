"""What a training run leaves to read: one JSON object a line, and pictures."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

LOG = logging.getLogger(__name__)


class Journal:
    """Appends JSON lines to `<folder>/<name>.jsonl` and logs them in short; silent where `active` is false."""

    def __init__(self, folder: Path, name: str, *, active: bool = True) -> None:
        self.path, self.active = folder / f"{name}.jsonl", active
        self._started = time.monotonic()
        if active:
            folder.mkdir(parents=True, exist_ok=True)

    def write(self, kind: str, **fields: float | int | str) -> None:
        """One line: kind, seconds since the journal was opened, and the fields (floats rounded to 5 digits)."""
        if not self.active:
            return
        rounded = {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in fields.items()}
        line = {"kind": kind, "seconds": round(time.monotonic() - self._started, 1), **rounded}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        LOG.info("%s %s", kind, " ".join(f"{k}={v}" for k, v in rounded.items()))


def read_journal(path: Path) -> list[dict[str, float | int | str]]:
    """All lines of a journal; empty where there is none."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


class MeanOfTerms:
    """Running means of named device scalars, read rarely so that the device is not waited for."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._count = 0

    def add(self, terms: Mapping[str, torch.Tensor]) -> None:
        """Add one step's terms."""
        self._count += 1
        for name, value in terms.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def take(self) -> dict[str, float]:
        """Means since the last call; waits for the device."""
        if not self._sums:
            return {}
        values = (torch.stack(list(self._sums.values())) / self._count).tolist()
        means = dict(zip(self._sums, values, strict=True))
        self._sums, self._count = {}, 0
        return means


def contact_sheet(rows: Sequence[Sequence[np.ndarray]], *, gap: int = 4) -> Image.Image:
    """Pictures uint8 [S, S, 3] in rows on grey; all of one size, rows may differ in length."""
    side = rows[0][0].shape[0]
    columns = max(len(row) for row in rows)
    sheet = np.full((len(rows) * (side + gap) + gap, columns * (side + gap) + gap, 3), 96, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            top, left = gap + i * (side + gap), gap + j * (side + gap)
            sheet[top : top + side, left : left + side] = picture[..., :3]
    return Image.fromarray(sheet)


def voxel_front_view(coords: np.ndarray, rgb: np.ndarray, resolution: int, *, size: int = 192) -> np.ndarray:
    """Voxels seen along +Y (the seen side faces -Y), without perspective: uint8 [size, size, 3], depth darkens.

    Args:
        coords: int [M, 3] within [0, resolution).
        rgb: float [M, 3] in [0, 1].
        resolution: cells along a side.
    """
    picture = np.zeros((resolution, resolution, 3), np.float32)
    if len(coords):
        order = np.argsort(-coords[:, 1], kind="stable")  # far voxels first, so that near ones overwrite them
        x, y, z = coords[order].T
        shade = 1 - 0.6 * y[:, None] / resolution
        picture[resolution - 1 - z, x] = np.clip(rgb[order], 0, 1) * shade
    image = Image.fromarray((picture * 255).astype(np.uint8))
    return np.asarray(
        image.resize((size, size), Image.Resampling.BOX if resolution > size else Image.Resampling.NEAREST)
    )
