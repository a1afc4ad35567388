"""The plan of what stays on the GPU, and moving a model in and out."""

import pytest
from torch import nn

from trellis_app.residency import GIB, WORKSPACE_GB, plan, resident

SIZES = {"a": 3 * GIB, "b": 2 * GIB, "c": 1 * GIB}


@pytest.mark.parametrize(
    ("room", "expected"), [(6, "abc"), (5.9, "a"), (5, "a"), (4.9, "c"), (4, "c"), (3.9, ""), (0, ""), (-5, "")]
)
def test_plan(room: float, expected: str) -> None:
    assert "".join(sorted(plan(SIZES, "cuda", budget_gb=WORKSPACE_GB + room))) == expected


def test_all_stay_on_a_cpu() -> None:
    assert plan(SIZES, "cpu") == frozenset(SIZES)
    model = nn.Linear(2, 2)
    with resident(model, "cpu") as inside:
        assert inside is model


@pytest.mark.gpu
def test_moves_on_a_gpu() -> None:
    model = nn.Linear(2, 2)

    def fail() -> None:
        with resident(model, "cuda"):
            assert model.weight.is_cuda
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert not model.weight.is_cuda
    with resident(model, "cuda", stay=True):
        pass
    assert model.weight.is_cuda
