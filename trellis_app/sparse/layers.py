"""Layers on the rows of a sparse tensor."""

from __future__ import annotations

import math

import torch
from torch import nn
from trellis_kernels.sparse_conv.op import children_conv3d, submanifold_conv3d

from trellis_app.sparse.rowwise import AUTOMATIC, RowOps
from trellis_app.sparse.tensor import Children, SpatialCache
from trellis_app.sparse.workspace import AMPLE, Workspace

_ROW_BYTES = 2 * 27 * 4 + 80  # a row's neighbours, twice, and what it takes to group it
_CHILD_BYTES = 120  # to group one child


class LayerNorm32(nn.LayerNorm):
    """Layer norm over the last axis, computed in float32."""

    row_ops: RowOps = AUTOMATIC

    def forward(self, x: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Rows [N, C], in `dtype` or as they came."""
        return self.row_ops.norm(x, self.weight, self.bias, self.eps, dtype or x.dtype)


class NormSilu(nn.LayerNorm):
    """Layer norm in float32, cast back, then SiLU."""

    row_ops: RowOps = AUTOMATIC

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.row_ops.norm_silu(x, self.weight, self.bias, self.eps)


class SparseConv3d(nn.Module):
    """Submanifold 3x3x3 convolution: output voxels are the input voxels.

    The weight is laid out [Co, 3, 3, 3, Ci] with the kernel axes on x, y, z, as in the checkpoints.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, 3, 3, 3, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels))
        bound = 1.0 / math.sqrt(27 * in_channels)  # Kaiming uniform with a = sqrt(5)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, feats: torch.Tensor, cache: SpatialCache, space: Workspace = AMPLE) -> torch.Tensor:
        """[N, Ci] on the voxels of `cache` -> [N, Co]."""
        most = space.rows(_ROW_BYTES + len(self.weight) * feats.element_size())
        if torch.is_grad_enabled() or len(feats) <= most:
            return submanifold_conv3d(feats, self.weight, self.bias, cache.convolution)
        out = feats.new_empty(len(feats), len(self.weight))
        for part, plan in cache.neighbourhoods(most):
            out[part] = submanifold_conv3d(feats, self.weight, self.bias, plan)
        return out

    def to_children(
        self, feats: torch.Tensor, cache: SpatialCache, children: Children, space: Workspace = AMPLE
    ) -> torch.Tensor:
        """[P, Ci] on the voxels of `cache` -> [M, Co / 8] on their children: `channel_to_space` of the convolution."""
        slots, width = children.slots, len(self.weight) // 8
        most = space.rows(_ROW_BYTES + 8 * (_CHILD_BYTES + width * feats.element_size()))
        if torch.is_grad_enabled() or len(feats) <= most:
            return children_conv3d(feats, self.weight, self.bias, cache.convolution, slots)
        out = feats.new_empty(len(slots), width)
        for part, plan in cache.neighbourhoods(most):
            rows = torch.nonzero((slots >= 8 * part.start) & (slots < 8 * part.stop))[:, 0]
            found = children_conv3d(feats, self.weight, self.bias, plan, slots[rows] - 8 * part.start)
            out.index_copy_(0, rows, found.to(out.dtype))
        return out
