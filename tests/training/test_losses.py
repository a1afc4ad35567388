"""Losses against plain arithmetic."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from trellis_kernels.neighbour_map.op import neighbour_map

from trellis_app.training import losses


def test_kl_is_that_of_torch_distributions() -> None:
    mean, logvar = torch.randn(7, 3), torch.randn(7, 3)
    posterior = torch.distributions.Normal(mean, torch.exp(0.5 * logvar))
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(losses.kl_to_normal(mean, logvar), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_subdivision_loss_sums_the_means_of_the_levels(dtype: torch.dtype) -> None:
    logits = [torch.randn(5, 8, dtype=dtype), torch.randn(11, 8, dtype=dtype)]
    masks = [torch.rand(5, 8) > 0.5, torch.rand(11, 8) > 0.5]
    probability = [torch.sigmoid(x.double()) for x in logits]
    expected = sum(-(torch.where(m, p, 1 - p).log().mean()) for p, m in zip(probability, masks, strict=True))
    assert losses.subdivision_loss(logits, masks).item() == pytest.approx(float(expected), rel=1e-4)


def test_dice_loss_is_near_zero_for_certain_truth_and_near_one_for_its_opposite() -> None:
    occupied = (torch.rand(2, 1, 8, 8, 8) > 0.7).float()
    certain = 40 * (2 * occupied - 1)
    assert losses.dice_loss(certain, occupied) < 1e-4
    assert losses.dice_loss(-certain, occupied) > 0.95


def test_attribute_loss_weighs_channels() -> None:
    target = torch.zeros(4, 6)
    predicted = torch.zeros(4, 6)
    predicted[:, 3] = 0.5
    weights = torch.tensor([0.2, 0.2, 0.2, 0.1, 0.2, 0.1])
    assert losses.attribute_loss(predicted, target, weights=weights).item() == pytest.approx(0.1 * (0.5 + 0.25))


def quads_by_search(coords: np.ndarray, crossed: np.ndarray) -> set[tuple[int, ...]]:
    rows = {tuple(c): i for i, c in enumerate(coords.tolist())}
    found = set()
    for c, flags in zip(coords.tolist(), crossed.tolist(), strict=True):
        for axis in range(3):
            corners = [tuple(a + b for a, b in zip(c, o, strict=True)) for o in losses.QUAD_OFFSETS[axis]]
            if flags[axis] and all(k in rows for k in corners):
                found.add(tuple(rows[k] for k in corners))
    return found


def test_quad_rows_finds_every_complete_quad() -> None:
    random = np.random.default_rng(0)
    coords = np.unique(random.integers(0, 6, (150, 3)), axis=0)
    crossed = random.random((len(coords), 3)) > 0.4
    full = torch.from_numpy(np.pad(coords, ((0, 0), (1, 0))).astype(np.int32))
    quads = losses.quad_rows(neighbour_map(full), torch.from_numpy(crossed))
    assert {tuple(q) for q in quads.tolist()} == quads_by_search(coords, crossed)


def roof() -> tuple[torch.Tensor, torch.Tensor]:
    """A quad whose corners 0 and 2 lie on a ridge, and its rows."""
    positions = torch.tensor([[0.0, 0, 0.5], [1, 0, 0], [1, 1, 0.5], [0, 1, 0]])
    return positions, torch.tensor([[0, 1, 2, 3]])


def test_split_loss_prefers_the_diagonal_that_bends_less() -> None:
    positions, quads = roof()
    ends, others = torch.tensor([[3.0], [-3], [3], [-3]]), torch.tensor([[-3.0], [3], [-3], [3]])
    a, b = (losses.split_loss(w, positions, quads) for w in (ends, others))
    bend_02 = losses._bend(*positions[[0, 1, 2, 3]].unsqueeze(1))
    bend_13 = losses._bend(*positions[[1, 2, 3, 0]].unsqueeze(1))
    assert (a < b) == bool(bend_02 < bend_13)
    assert losses.split_loss(ends, positions, quads[:0]) == 0


def test_matte_loss_is_zero_only_for_the_truth() -> None:
    alpha = (torch.rand(2, 1, 9, 9) > 0.5).float()
    logits = 30 * (2 * alpha - 1)
    assert losses.matte_loss(logits, alpha) < 1e-5
    assert losses.matte_loss(logits * 0, alpha) > F.binary_cross_entropy_with_logits(logits * 0, alpha)
