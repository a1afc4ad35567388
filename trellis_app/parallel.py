"""Independent pieces of work on all cores: in threads, for functions that release Python's lock, or in processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import islice
from typing import TypeVar

import numba
import torch

from trellis_app.progress import Check, go_on

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_parallel(function: Callable[[_Item], _Result], items: Sequence[_Item], check: Check = go_on) -> list[_Result]:
    """The function of every item, in order. check: called between items; it raises to stop the rest."""
    workers = min(len(items), _cores())
    if workers < 2:
        return [_checked(function(item), check) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        running = [pool.submit(function, item) for item in items]
        try:
            return [_checked(task.result(), check) for task in running]
        finally:
            for task in running:
                task.cancel()


@contextmanager
def alongside(work: Callable[[], _Result]) -> Iterator[Callable[[], _Result]]:
    """A call for the result of `work`, which goes on in a thread while the block runs, where numba allows that."""
    if not parallel_loops_may_meet():
        yield cache(work)
        return
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(work).result


def parallel_loops_may_meet() -> bool:
    """Whether two threads may run numba's parallel loops at once.

    With its own simple pool, used where neither OpenMP nor TBB is installed, that would end the process.
    """
    try:
        return numba.threading_layer() != "workqueue"
    except ValueError:  # not chosen before the first loop
        return False


def in_processes(function: Callable[[_Item], _Result], items: Iterable[_Item], jobs: int) -> Iterator[_Result]:
    """The function of every item, in order, as it comes in; `jobs` fresh processes of one thread each do the work.

    One job works in this process, and so is the first item done, which leaves the code that it compiles on disk for the
    other processes. Function, items and results have to survive pickling.
    """
    items = iter(items)
    yield from map(function, items if jobs < 2 else islice(items, 1))
    if jobs < 2:
        return
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=fresh, initializer=_use_one_thread) as pool:
        try:
            yield from pool.map(function, items)
        finally:
            pool.shutdown(cancel_futures=True)


def _use_one_thread() -> None:
    torch.set_num_threads(1)
    numba.set_num_threads(1)


def _cores() -> int:
    """Cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _checked(result: _Result, check: Check) -> _Result:
    check()
    return result
