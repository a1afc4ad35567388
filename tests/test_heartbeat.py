"""Long work in a thread: beats, result, error, and what closing does."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator

import pytest

from trellis_app.heartbeat import StoppedError, StopSignal, beating
from trellis_app.progress import RunClock
from trellis_app.types import Stage


def test_beats_until_the_result_is_there() -> None:
    ready = threading.Event()
    work = beating(lambda: "done" if ready.wait(5) else "late", StopSignal(), every=0.01)
    assert [next(work) for _ in range(3)] == [None, None, None]
    ready.set()
    assert _result(work) == "done"


def _result(work: Generator[None, None, str]) -> str:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return str(end.value)


def test_the_works_error_reaches_the_waiting_side() -> None:
    def fails() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(beating(fails, StopSignal(), every=0.01))


def test_closing_stops_the_work_at_its_next_check() -> None:
    signal, ended = StopSignal(), threading.Event()

    def works() -> None:
        try:
            while True:
                time.sleep(0.005)
                signal()
        finally:
            ended.set()

    work = beating(works, signal, every=0.01)
    next(work)
    work.close()
    assert ended.is_set()


def test_closing_leaves_work_behind_that_does_not_check() -> None:
    release, signal = threading.Event(), StopSignal()
    work = beating(lambda: release.wait(30), signal, every=0.01)
    next(work)
    start = time.monotonic()
    work.close()
    assert time.monotonic() - start < 2.0
    release.set()


def test_a_clocks_beats_are_events_of_the_running_step() -> None:
    release, signal = threading.Event(), StopSignal()
    events = RunClock().beats(beating(lambda: release.wait(30), signal, every=0.01), Stage.FINISH, "Unwrap", 3, 6)
    event = next(events)
    assert (event.stage, event.label, event.step, event.steps) == (Stage.FINISH, "Finishing: Unwrap", 3, 6)
    events.close()
    release.set()
    with pytest.raises(StoppedError):
        signal()
