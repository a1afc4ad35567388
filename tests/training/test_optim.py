"""Schedule, Muon, average."""

import math

import pytest
import torch
from torch import nn

from trellis_app.training.optim import (
    Budget,
    Ema,
    OptimSettings,
    is_matrix,
    learning_rate_factor,
    make_optimizers,
    orthogonalise,
    set_learning_rate,
)


def test_schedule_warms_up_peaks_and_ends_low() -> None:
    settings = OptimSettings(warmup=0.1, final=0.02)
    assert learning_rate_factor(0.05, settings) == pytest.approx(0.5)
    assert learning_rate_factor(0.1, settings) == pytest.approx(1.0)
    assert learning_rate_factor(0.55, settings) == pytest.approx(0.02 + 0.98 * 0.5)
    assert learning_rate_factor(1.0, settings) == pytest.approx(0.02)


def test_budget_counts_steps_after_what_was_done_before() -> None:
    budget = Budget(steps=10, done=0.5)
    for _ in range(3):
        budget.tick()
    assert budget.fraction == pytest.approx(0.8)
    with pytest.raises(ValueError, match="either"):
        Budget()


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (1, 16, 16)])
def test_orthogonalise_brings_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_orthogonalise_keeps_the_singular_vectors() -> None:
    torch.manual_seed(1)
    matrix = torch.randn(1, 6, 12)
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    made = u.transpose(1, 2) @ orthogonalise(matrix) @ vt.transpose(1, 2)
    off = made - torch.diag_embed(torch.diagonal(made, dim1=1, dim2=2))
    assert off.abs().max() < 1e-3


@pytest.mark.parametrize("muon", [True, False])
def test_optimisers_fit_a_small_regression(muon: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8))
    x = torch.randn(64, 8)
    y = torch.sin(2 * x)
    optimizers = make_optimizers(net, OptimSettings(learning_rate=1e-2, muon=muon))
    assert sum(p.numel() for o in optimizers for g in o.param_groups for p in g["params"]) == 8 * 32 * 2 + 40
    set_learning_rate(optimizers, 1.0)
    first = None
    for _ in range(200):
        loss = (net(x) - y).square().mean()
        first = first or loss.item()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert loss.item() < 0.3 * first


def test_muon_takes_hidden_matrices_only() -> None:
    assert is_matrix("blocks.0.mlp.0.weight", nn.Parameter(torch.zeros(16, 8)))
    assert is_matrix("blocks.0.0.conv.weight", nn.Parameter(torch.zeros(16, 3, 3, 3, 8)))
    assert not is_matrix("blocks.0.norm.weight", nn.Parameter(torch.zeros(16)))
    assert not is_matrix("out_layer.weight", nn.Parameter(torch.zeros(16, 8)))


def test_average_follows_with_a_warm_decay() -> None:
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(0.0)
    ema = Ema(net, 0.99)
    with torch.no_grad():
        net.weight.fill_(1.0)
    expected = 0.0
    for k in range(1, 6):
        ema.update(net)
        decay = min(0.99, (1 + k) / (10 + k))
        expected = decay * expected + (1 - decay)
    assert math.isclose(ema.shadow["weight"].item(), expected, rel_tol=1e-6)
    restored = Ema(net, 0.99)
    restored.load_state_dict(ema.state_dict())
    restored.copy_to(net)
    assert net.weight.item() == pytest.approx(expected)
