"""Recorded passes: what can be said of them without a GPU."""

from types import SimpleNamespace

import pytest
import torch

from trellis_app.models import recording


def test_nothing_is_recorded_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    class Counted:
        def __init__(self, _forward: object, inputs: object) -> None:
            made.append(inputs)

        def replay(self, _inputs: object) -> torch.Tensor:
            return torch.full((2,), 7.0)

    monkeypatch.setattr(recording, "Recording", Counted)
    inputs, weights, recordings = SimpleNamespace(shape=(3,)), torch.zeros(1), recording.Recordings()
    found = [float(recordings.run(lambda _: torch.ones(2), inputs, weights)[0]) for _ in range(2)]
    assert found == [1, 7]
    recordings.clear()
    recordings.enabled = False
    found = [float(recordings.run(lambda _: torch.ones(2), inputs, weights)[0]) for _ in range(2)]
    assert found == [1, 1]
    assert len(made) == 1
