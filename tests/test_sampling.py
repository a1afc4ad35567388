"""The sampler against every intermediate state of the original samplers, and its edges."""

from pathlib import Path

import pytest
import torch

from tests.models.golden import Golden, read_golden
from trellis_app.sampling import item_std, sample, schedule
from trellis_app.settings import SamplerSettings
from trellis_app.sparse.tensor import SparseTensor

CASES = {
    "dense_euler": 2e-4,
    "dense_cfg": 1e-3,
    "dense_interval": 1e-3,
    "sparse_euler": 2e-4,
    "sparse_cfg": 1e-3,
    "sparse_interval": 1e-3,
    "sparse_concat_interval": 1e-3,
}
MODELS = {"dense": "ss_flow", "sparse": "slat_flow_shape", "concat": "slat_flow_tex"}


def settings_of(case: dict[str, object]) -> SamplerSettings:
    """The plain sampler has no guidance, the middle one guides at all times."""
    defaults = {"guidance_strength": 1.0, "guidance_rescale": 0.0, "guidance_interval": (0.0, 1.0)}
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in case.items() if key != "cls"}
    return SamplerSettings(**{**defaults, **given})


def start(golden: Golden, kind: str) -> tuple[torch.Tensor | SparseTensor, tuple[SparseTensor, ...]]:
    if kind == "dense":
        return golden["in.dense_noise"], ()
    noise = SparseTensor(golden[f"in.{kind}_noise"], golden[f"in.{kind}_coords"])
    return noise, (noise.replace(golden["in.concat_feats"]),) if kind == "concat" else ()


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_every_step_of_the_original(shared: Path, case: str) -> None:
    golden = read_golden(shared, "samplers")
    kind = "concat" if "concat" in case else case.split("_")[0]
    model = read_golden(shared, MODELS[kind]).model()
    noise, extra = start(golden, kind)
    condition = golden[f"in.{kind}_cond"]
    memory = {True: model.remember(condition), False: model.remember(torch.zeros_like(condition))}
    settings = settings_of(golden.settings["cases"][case])
    steps = list(sample(lambda x, t, positive: model(x, t, memory[positive], *extra), noise, settings))
    assert [step.step for step in steps] == list(range(1, settings.steps + 1))
    for index, step in enumerate(steps):
        for name, state in (("x_t", step.x_t), ("x_0", step.x_0)):
            values = state if isinstance(state, torch.Tensor) else state.feats
            torch.testing.assert_close(values, golden[f"out.{case}.{name}"][index], atol=CASES[case], rtol=0)
    last = steps[-1].x_t
    assert steps[-1].t == 0.0
    values = last if isinstance(last, torch.Tensor) else last.feats
    torch.testing.assert_close(values, golden[f"out.{case}.samples"], atol=CASES[case], rtol=0)


@pytest.mark.parametrize(("steps", "rescale"), [(12, 5), (12, 3), (5, 1), (25, 3)])
def test_schedule(shared: Path, steps: int, rescale: int) -> None:
    expected = read_golden(shared, "samplers")[f"t.t_seq_{steps}_{rescale}"]
    times = torch.tensor(schedule(steps, rescale), dtype=torch.float64)
    torch.testing.assert_close(times, expected, atol=1e-12, rtol=0)


def test_spread_of_sparse_items(shared: Path) -> None:
    golden = read_golden(shared, "samplers")
    x = SparseTensor(golden["t.std_in"], golden["in.sparse_coords"])
    rows = item_std(x)
    first_rows = x.packing.offsets[:-1].long()
    torch.testing.assert_close(rows[first_rows], golden["t.std_out"], atol=0, rtol=1e-5)


class Counting:
    """A velocity that leads straight to a known answer and counts its calls."""

    def __init__(self, target: torch.Tensor) -> None:
        self.target = target
        self.calls: list[bool] = []

    def __call__(self, x: torch.Tensor, t: torch.Tensor, conditional: bool) -> torch.Tensor:
        self.calls.append(conditional)
        return (x - self.target) * (1000 / t).view(-1, 1, 1)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_straight_flow_arrives(steps: int) -> None:
    torch.manual_seed(0)
    noise, target = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    before = noise.clone()
    velocity = Counting(target)
    *_, last = sample(velocity, noise, SamplerSettings(steps=steps, guidance_strength=1.0, sigma_min=0.0))
    torch.testing.assert_close(last.x_t, target, atol=1e-5, rtol=0)
    torch.testing.assert_close(last.x_0, target, atol=1e-5, rtol=0)
    assert torch.equal(noise, before)
    assert velocity.calls == [True] * steps


def test_guidance_only_inside_the_interval() -> None:
    velocity = Counting(torch.zeros(1, 2, 2))
    settings = SamplerSettings(steps=4, guidance_strength=3.0, guidance_interval=(0.4, 0.8), rescale_t=1.0)
    list(sample(velocity, torch.ones(1, 2, 2), settings))  # times 1, 0.75, 0.5, 0.25
    assert velocity.calls == [True, True, False, True, False, True]


def test_strength_zero_ignores_the_picture() -> None:
    velocity = Counting(torch.zeros(1, 2, 2))
    list(
        sample(velocity, torch.ones(1, 2, 2), SamplerSettings(steps=2, guidance_strength=0.0, guidance_interval=(0, 1)))
    )
    assert velocity.calls == [False, False]


def test_a_run_stops_between_two_steps() -> None:
    velocity = Counting(torch.zeros(1, 2, 2))
    steps = sample(velocity, torch.ones(1, 2, 2), SamplerSettings(steps=9, guidance_strength=1.0))
    next(steps)
    steps.close()
    assert len(velocity.calls) == 1
