"""Work shared among processes comes back in order; errors and stops reach the caller."""

import os

import pytest

from trellis_app.parallel import in_processes


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
