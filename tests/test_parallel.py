"""Work shared among processes comes back in order; errors and stops reach the caller."""

import os
import threading

import numba
import pytest

from trellis_app import parallel
from trellis_app.parallel import alongside, in_processes


def tenth(number: int) -> float:
    """A function that processes can be sent; it fails at zero."""
    return 10 / number


def process_of(_: int) -> int:
    return os.getpid()


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_order_and_errors_reach_the_caller(jobs: int) -> None:
    assert list(in_processes(tenth, [1, 2, 5, 10], jobs)) == [10, 5, 2, 1]
    assert list(in_processes(tenth, [], jobs)) == []
    with pytest.raises(ZeroDivisionError):
        list(in_processes(tenth, [1, 0], jobs))


def test_one_job_stays_here_and_more_leave_after_the_first_item() -> None:
    assert set(in_processes(process_of, [1, 2], 1)) == {os.getpid()}
    first, *others = in_processes(process_of, [1, 2, 3], 2)
    assert first == os.getpid()
    assert os.getpid() not in others


@pytest.mark.parametrize("meet", [True, False])
def test_work_alongside_is_done_once_and_its_error_reaches_the_caller(
    meet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "parallel_loops_may_meet", lambda: meet)
    threads: list[int] = []

    def work() -> int:
        threads.append(threading.get_ident())
        return 7

    with alongside(work) as result:
        pass
    assert (result(), result()) == (7, 7)
    assert len(threads) == 1
    assert (threads[0] != threading.get_ident()) == meet
    with alongside(lambda: tenth(0)) as result:
        pass
    with pytest.raises(ZeroDivisionError):
        result()


def test_loops_of_the_simple_pool_may_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    for layer, expected in (("omp", True), ("tbb", True), ("workqueue", False)):
        monkeypatch.setattr(numba, "threading_layer", lambda layer=layer: layer)
        assert parallel.parallel_loops_may_meet() == expected
