"""What disturbs latents before a decoder sees them."""

import torch

from trellis_app.sparse.tensor import SparseTensor
from trellis_app.training.autoencoders import disturbed

ROWS, ITEMS = 4000, 40


def latent() -> SparseTensor:
    """Channels of spreads 1 and 5, many items with 4,000 rows each."""
    item = torch.arange(ITEMS, dtype=torch.int32).repeat_interleave(ROWS)
    row = torch.arange(ROWS, dtype=torch.int32).repeat(ITEMS)
    coords = torch.stack([item, row // 256, row // 16 % 16, row % 16], dim=1)
    feats = torch.randn(len(coords), 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0])
    return SparseTensor(feats, coords)


def test_every_item_gets_noise_of_a_level_of_its_own_in_spreads_of_each_channel() -> None:
    torch.manual_seed(0)
    clean = latent()
    noise = (disturbed(clean, 0.5).feats - clean.feats) / torch.tensor([1.0, 5.0])
    level = noise.view(ITEMS, ROWS, 2).std(dim=1)
    torch.testing.assert_close(level[:, 0], level[:, 1], atol=0.03, rtol=0.1)
    assert level.max() < 0.53
    assert level.min() < 0.1
    assert abs(float(level.mean()) - 0.25) < 0.08


def test_without_noise_a_latent_is_left_alone() -> None:
    clean = latent()
    assert disturbed(clean, 0.0) is clean
