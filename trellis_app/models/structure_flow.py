"""Stage 1: flow transformer on the dense latent of the sparse structure (`SparseStructureFlowModel`)."""

from __future__ import annotations

import torch

from trellis_app.models.condition import ConditionMemory
from trellis_app.models.flow_transformer import FlowTransformer
from trellis_app.sparse.packing import Packing
from trellis_app.sparse.rotary import rotary_phases


class StructureFlow(FlowTransformer):
    """Velocity of the structure latent; every cell of the grid is a token, x slowest and z fastest."""

    _known_phases: tuple[tuple[int, torch.device], torch.Tensor] | None = None

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | ConditionMemory) -> torch.Tensor:
        """Velocity at x.

        Args:
            x: [B, in_channels, R, R, R] at time t.
            t: [B] flow time in [0, 1] times 1000.
            condition: picture tokens [B, L, cond_channels], or the memory made from them.

        Returns:
            float32 [B, out_channels, R, R, R].
        """
        side = self.params.resolution
        if x.shape[2:] != (side, side, side):
            raise ValueError(f"x is {list(x.shape)}, expected [B, {self.params.in_channels}, {side}, {side}, {side}]")
        items, cells = len(x), side**3
        rows = x.flatten(2).transpose(1, 2).flatten(0, 1)
        packing = Packing((cells,) * items, x.device)
        out = self.velocity_rows(rows, packing, self._phases(items, x.device), t, condition)
        return out.unflatten(0, (items, cells)).transpose(1, 2).unflatten(2, (side, side, side))

    def _phases(self, items: int, device: torch.device) -> torch.Tensor:
        """Rotary phases of all cells, once for each item; the last ones are kept."""
        if self._known_phases is None or self._known_phases[0] != (items, device):
            with torch.inference_mode(False):
                axis = torch.arange(self.params.resolution, device=device)
                phases = rotary_phases(torch.cartesian_prod(axis, axis, axis), self.params.head_dim)
                self._known_phases = (items, device), phases.repeat(items, 1, 1)
        return self._known_phases[1]
