"""`bench kernels`: every op's cases agree with their references, and what does not is told."""

import math

import pytest
import torch
from benchmarks.workload import Case, Peer, difference, measure

from trellis_app.bench_kernels import BY_VOXELS, VOXELS, bench_kernels, line
from trellis_app.errors import SettingsError

CPU = torch.device("cpu")


@pytest.mark.parametrize("op", [*BY_VOXELS, "voxel_octree"])
def test_cases_agree_with_their_references(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VOXELS, 256, 3000)
    lines: list[str] = []
    rows = bench_kernels([op], [256], CPU, lines.append)["rows"]
    assert len(rows) == len(lines) >= 2
    assert not any("failed" in row for row in rows), lines
    assert all(row["seconds"] > 0 for row in rows)


def test_a_wrong_result_is_not_timed() -> None:
    calls: list[int] = []

    def run() -> torch.Tensor:
        calls.append(1)
        return torch.tensor([1.0, 2.5])

    row = {"op": "some_op", **measure(Case("one", run, lambda: torch.tensor([1.0, 2.0]), 0.2), CPU)}
    assert row["difference"] == 0.25
    assert len(calls) == 1
    assert "seconds" not in row
    assert "differs from the reference by more than 0.2" in line(row)


def test_tells_of_the_peer() -> None:
    absent = measure(Case("one", lambda: None, peer=Peer("thing", None)), CPU)
    assert absent["peer_seconds"] == "not installed"
    assert "thing: not installed" in line({"op": "op", **absent})
    present = measure(Case("one", lambda: torch.ones(2), peer=Peer("thing", lambda: torch.zeros(2))), CPU)
    assert present["peer_difference"] == 1.0
    assert present["peer_seconds"] > 0  # type: ignore[operator]


def test_differences() -> None:
    assert difference(torch.ones(2), torch.ones(3)) == math.inf
    assert difference(torch.tensor([math.nan]), torch.ones(1)) == math.inf
    assert difference((torch.ones(1), torch.zeros(2)), (torch.ones(1), torch.zeros(2))) == 0.0


def test_says_what_it_offers() -> None:
    with pytest.raises(SettingsError, match="no benchmark of magic"):
        bench_kernels(["magic"], [512], CPU, print)
    with pytest.raises(SettingsError, match="no workload of 300"):
        bench_kernels(["rasterise"], [300], CPU, print)
