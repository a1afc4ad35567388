"""Stages 2 and 3: flow transformer on latent voxels (`SLatFlowModel`, also named `ElasticSLatFlowModel`)."""

from __future__ import annotations

import torch

from trellis_app.models.condition import ConditionMemory
from trellis_app.models.flow_transformer import FlowTransformer
from trellis_app.sparse.rotary import rotary_phases
from trellis_app.sparse.tensor import SparseTensor


class LatentFlow(FlowTransformer):
    """Velocity of a shape or material latent. Positions may lie beyond `params.resolution`."""

    def forward(
        self,
        x: SparseTensor,
        t: torch.Tensor,
        condition: torch.Tensor | ConditionMemory,
        concat: SparseTensor | None = None,
    ) -> SparseTensor:
        """Velocity at x.

        Args:
            x: feats [N, C] at time t.
            t: [B] flow time in [0, 1] times 1000.
            condition: picture tokens [B, L, cond_channels], or the memory made from them.
            concat: more input channels for the same rows (material: the normalised shape latent).

        Returns:
            float32 feats [N, out_channels] on the voxels of x.
        """
        feats = x.feats if concat is None else torch.cat([x.feats, concat.feats], dim=1)
        if feats.shape[1] != self.params.in_channels:
            raise ValueError(f"input has {feats.shape[1]} channels, expected {self.params.in_channels}")
        head_dim, frequencies = self.params.head_dim, self.params.rope_freq
        phases = x.cache.remember(
            ("rotary", head_dim, frequencies), lambda: rotary_phases(x.coords[:, 1:], head_dim, frequencies)
        )
        return x.replace(self.velocity_rows(feats, x.packing, phases, t, condition))
