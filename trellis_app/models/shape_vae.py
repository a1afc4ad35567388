"""Stage 2 autoencoder: O-Voxel geometry <-> shape latent (`FlexiDualGridVaeEncoder`, `FlexiDualGridVaeDecoder`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from trellis_app.models.sparse_unet import DecoderParams, SparseDecoder, SparseEncoder
from trellis_app.sparse.tensor import SparseTensor
from trellis_app.types import DualGrid


@dataclass(frozen=True)
class ShapeDecoderParams(DecoderParams):
    """As of any sparse decoder; 7 channels come out and the subdivision is predicted."""

    out_channels: int = 7
    resolution: int = 256  # a placeholder: the caller states the resolution
    voxel_margin: float = 0.5


class ShapeEncoder(SparseEncoder):
    """Takes `shape_features` of the voxels."""


class ShapeDecoder(SparseDecoder):
    """Raw channels: 3 dual vertex, 3 crossed-edge logits, 1 quad-split weight."""

    params: ShapeDecoderParams

    def dual_grids(self, raw: SparseTensor, resolution: int) -> list[DualGrid]:
        """Apply the output activations; one grid a batch item, rows in order."""
        return [dual_grid(item, resolution, margin=self.params.voxel_margin) for item in raw.items()]


def shape_features(dual: torch.Tensor, crossed: torch.Tensor) -> torch.Tensor:
    """Encoder input [M, 6] from dual vertices [M, 3] in voxel units from the voxel's corner and flags [M, 3]."""
    return torch.cat([dual - 0.5, crossed.to(dual.dtype) - 0.5], dim=1)


def dual_vertex(raw: torch.Tensor, *, margin: float = 0.5) -> torch.Tensor:
    """[M, 3] position in (-margin, 1 + margin), voxel units from the voxel's corner."""
    return (1 + 2 * margin) * torch.sigmoid(raw[:, 0:3]) - margin


def dual_grid(raw: SparseTensor, resolution: int, *, margin: float = 0.5) -> DualGrid:
    """The geometry half of an O-Voxel asset from the raw channels [M, 7] of one batch item."""
    return DualGrid(
        coords=raw.coords[:, 1:].contiguous(),
        dual=dual_vertex(raw.feats, margin=margin),
        crossed=raw.feats[:, 3:6] > 0,
        split=F.softplus(raw.feats[:, 6:7]),
        resolution=resolution,
    )
