"""Stage 3 autoencoder: PBR attributes on O-Voxels <-> material latent (`SparseUnetVaeEncoder`, `SparseUnetVaeDecoder`).

The six channels are base colour rgb, metallic, roughness, alpha; the networks see them in [-1, 1].
"""

from __future__ import annotations

import torch

from trellis_app.models.sparse_unet import SparseDecoder, SparseEncoder


class MaterialEncoder(SparseEncoder):
    """Takes `material_features` of the voxels."""


class MaterialDecoder(SparseDecoder):
    """Raw channels become attributes by `attributes`."""


def material_features(attributes: torch.Tensor) -> torch.Tensor:
    """Encoder input [M, 6] in [-1, 1] from attributes in [0, 1]."""
    return attributes * 2 - 1


def attributes(raw: torch.Tensor) -> torch.Tensor:
    """Attributes [M, 6] around [0, 1] (not clamped) from a decoder's raw channels."""
    return raw * 0.5 + 0.5
