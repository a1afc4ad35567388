"""Where the fine pass of a cascade works: the latent voxels under the voxels that the coarse pass decoded."""

from __future__ import annotations

import torch

from trellis_app.manifest import LATENT_FACTOR

CASCADE_STEP = 128  # a cascade that has too many tokens lowers its resolution by this much
CASCADE_FLOOR = 1024


def cascade_coords(voxels: torch.Tensor, low: int, high: int, max_tokens: int) -> tuple[torch.Tensor, int]:
    """Latent voxels of one batch item's fine pass in a cascade, and the resolution it really gets.

    voxels: int32 [M, 4] on the grid of side `low`. The resolution starts at `high` and falls by 128 until there are
    fewer than `max_tokens` latent voxels, never below 1024 (spec/models.md 5.1).
    """
    position = (voxels[:, 1:].float() + 0.5) / low
    while True:
        cells = (position * (high // LATENT_FACTOR)).int()
        coords = torch.unique(torch.cat([voxels[:, :1], cells], dim=1), dim=0)
        if len(coords) < max_tokens or high <= CASCADE_FLOOR:
            return coords, high
        high -= CASCADE_STEP
