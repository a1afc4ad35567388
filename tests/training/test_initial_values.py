"""A fresh autoencoder passes its input through; where it is too narrow for that, its branches are open."""

import pytest
import torch

from trellis_app.models.registry import build_model
from trellis_app.models.sparse_unet import SparseDecoder, SparseEncoder
from trellis_app.sparse.tensor import SparseTensor
from trellis_app.training.autoencoders import Autoencoders, AutoencoderSettings
from trellis_app.training.configs import MATERIAL, MINI, SMALL, TINY
from trellis_app.training.initial_values import can_pass_through, lane_layout, pass_through
from trellis_app.training.voxel_batches import VoxelBatch

SIDE = 64


def painted_sphere(seed: int) -> tuple[SparseTensor, torch.Tensor]:
    """Voxels of a sphere with two random paints in every cell of 16 voxels, and the mean of each voxel's cell."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.cartesian_prod(*[torch.arange(SIDE)] * 3)
    position = grid[((grid - 31.4).norm(dim=1) - 28.3).abs() < 0.7]
    cell = (position // 16 @ torch.tensor([16, 4, 1])).long()
    half = (position[:, 2] % 16 < 6).long()
    paints = 2 * torch.rand(64, 2, 6, generator=generator) - 1
    values = paints[cell, half]
    total = torch.zeros(64, 6).index_add_(0, cell, values)
    means = total / torch.bincount(cell, minlength=64).clamp_min(1)[:, None]
    coords = torch.cat([torch.zeros(len(position), 1), position], dim=1).int()
    return SparseTensor(values, coords), means[cell]


def fresh(seed: int) -> tuple[SparseEncoder, SparseDecoder]:
    torch.manual_seed(seed)
    encoder, decoder = (
        build_model(SMALL[role].name, SMALL[role].args) for role in ("material_encoder", "material_decoder")
    )
    assert isinstance(encoder, SparseEncoder)
    assert isinstance(decoder, SparseDecoder)
    pass_through(encoder, decoder)
    return encoder, decoder


@pytest.mark.parametrize("channels", [16, 32, 64, 128])
def test_lanes_vanish_in_averages_and_are_independent(channels: int) -> None:
    layout = lane_layout(channels)
    torch.testing.assert_close(layout.unflatten(0, (-1, 2)).sum(1), torch.zeros(channels // 2, 7))
    gram = layout.T @ layout
    torch.testing.assert_close(gram, torch.diag(gram.diagonal()))
    assert (gram.diagonal() > 0).all()


@pytest.mark.parametrize("seed", [0, 1])
@torch.no_grad()
def test_a_fresh_material_autoencoder_returns_the_mean_attributes_of_each_latent_voxel(seed: int) -> None:
    encoder, decoder = fresh(seed)
    x, means = painted_sphere(seed)
    raw = decoder(encoder(x).mean).raw.feats
    for channel in range(6):
        correlation = torch.corrcoef(torch.stack([raw[:, channel], means[:, channel]]))[0, 1]
        assert correlation > 0.9, f"channel {channel}: {correlation:.3f}"
    assert (raw - means).square().mean() < 0.25 * means.var()


def test_every_parameter_has_a_gradient_from_the_start() -> None:
    torch.manual_seed(0)
    module = Autoencoders(SMALL, AutoencoderSettings(only=(MATERIAL,)))
    x, _ = painted_sphere(3)
    batch = VoxelBatch(
        coords=x.coords,
        dual=torch.full((len(x.coords), 3), 0.5),
        crossed=torch.ones(len(x.coords), 3, dtype=torch.bool),
        attributes=x.feats,
        lengths=(len(x.coords),),
        resolution=SIDE,
    )
    module(batch)["total"].backward()
    silent = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


def test_narrow_networks_cannot_hold_the_lanes() -> None:
    def fits(role: str, family: object) -> bool:
        return can_pass_through(family[role].args["model_channels"])  # type: ignore[index]

    assert fits("material_encoder", SMALL)
    assert not fits("material_encoder", MINI)
    assert not fits("material_encoder", TINY)
    assert not can_pass_through((16, 128, 128))
    encoder, decoder = (
        build_model(MINI[role].name, MINI[role].args) for role in ("material_encoder", "material_decoder")
    )
    with pytest.raises(ValueError, match="widths"):
        pass_through(encoder, decoder)  # type: ignore[arg-type]
