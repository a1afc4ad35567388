"""Voxel keys and the readable index: sorted keys and binary search, on any device."""

from __future__ import annotations

import torch

FIELD_BITS = 16
COORDINATE_LIMIT = 1 << 15  # half of what a field holds: adding an offset to a key never reaches another voxel's key


def pack_keys(coords: torch.Tensor) -> torch.Tensor:
    """int [N, 4] (batch, x, y, z) -> int64 [N]: 16 bits a column, in lexicographic order; -1 where out of range."""
    wide = coords.to(torch.int64)
    inside = ((wide >= 0) & (wide < COORDINATE_LIMIT)).all(dim=1)
    key = wide[:, 0]
    for column in range(1, 4):
        key = (key << FIELD_BITS) | wide[:, column]
    return torch.where(inside, key, torch.full_like(key, -1))


def pack_offset(offset: tuple[int, int, int]) -> int:
    """What to add to a key to move by (dx, dy, dz) voxels."""
    dx, dy, dz = offset
    return (dx << (2 * FIELD_BITS)) + (dy << FIELD_BITS) + dz


def sort_keys(coords: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sorted keys int64 [N] and the row of each, int64 [N]; of equal keys the lower row comes first."""
    keys = pack_keys(coords)
    if keys.device.type == "cpu" and bool((keys[1:] >= keys[:-1]).all()):
        return keys, torch.arange(keys.shape[0])
    keys, rows = torch.sort(keys, stable=True)
    return keys, rows


def find_keys(keys: torch.Tensor, rows: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Rows int64 (shape of `wanted`) of the wanted keys among sorted `keys`, -1 where absent or negative."""
    if keys.numel() == 0:
        return torch.full_like(wanted, -1)
    place = torch.searchsorted(keys, wanted).clamp_(max=keys.numel() - 1)
    found = (keys[place] == wanted) & (wanted >= 0)
    return torch.where(found, rows[place], torch.full_like(wanted, -1))
