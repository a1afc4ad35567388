"""Rotary positions of voxels."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def rotary_phases(
    positions: torch.Tensor, head_dim: int, frequencies: tuple[float, float] = (1.0, 10000.0)
) -> torch.Tensor:
    """Angles that rotate channel pairs (RoFormer, one third of the pairs per axis).

    Args:
        positions: [N, 3] integer x, y, z.
        head_dim: channels of a head; pairs beyond 3 * (head_dim // 6) do not rotate.
        frequencies: (f0, f1): pair j of n turns by f0 / f1^(j / n) per voxel.

    Returns:
        float32 [N, head_dim / 2, 2], cosine and sine.
    """
    pairs = head_dim // 6
    exponent = torch.arange(pairs, dtype=torch.float32, device=positions.device) / pairs
    speed = frequencies[0] / frequencies[1] ** exponent
    angles = (positions.float()[:, :, None] * speed).flatten(1)
    angles = F.pad(angles, (0, head_dim // 2 - 3 * pairs))
    return torch.stack([angles.cos(), angles.sin()], dim=2)
