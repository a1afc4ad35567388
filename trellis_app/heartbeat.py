"""Long work that stays stoppable: it runs in a thread while the generator around it keeps beating."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Result = TypeVar("Result")

BEAT = 0.5  # seconds between two beats
GRACE = 1.0  # seconds that a stopped run waits for its thread to notice


class StoppedError(Exception):
    """Raised inside the work by its check once nobody waits for it any more."""


class StopSignal:
    """The Check that long work calls: returns at once until `stop()`, raises StoppedError from then on."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def stop(self) -> None:
        self._event.set()

    def __call__(self) -> None:
        if self._event.is_set():
            raise StoppedError


def beating(work: Callable[[], Result], signal: StopSignal, *, every: float = BEAT) -> Generator[None, None, Result]:
    """Run `work` in a thread, yield every `every` seconds until it is done, return its result or raise its error.

    The thread works on the caller's GPU and stream and makes no gradients. Closing the generator sets `signal`, waits
    a moment for the work to notice and leaves it behind otherwise: it calls the signal between its parts and so ends
    by itself.
    """
    # A thread begins on GPU 0 and its default stream.
    stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None

    def job() -> Result:
        with torch.cuda.stream(stream), torch.inference_mode():
            return work()

    pool = ThreadPoolExecutor(1)
    future = pool.submit(job)
    try:
        while not wait([future], timeout=every).done:
            yield
        return future.result()
    finally:
        if not future.done():
            signal.stop()
            wait([future], timeout=GRACE)
        pool.shutdown(wait=False)
