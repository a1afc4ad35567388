"""Long work that stays stoppable: it runs in a thread while the generator around it keeps beating."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

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


class _Outcome(Generic[Result]):
    """What the thread leaves behind: a value or an error."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else None  # a thread begins on GPU 0
        self._value: Result
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            if self._gpu is not None:
                torch.cuda.set_device(self._gpu)
            with torch.inference_mode():
                self._value = self._work()
        except BaseException as error:  # handed to the thread that waits
            self._error = error

    def get(self) -> Result:
        if self._error is not None:
            raise self._error
        return self._value


def beating(work: Callable[[], Result], signal: StopSignal, *, every: float = BEAT) -> Generator[None, None, Result]:
    """Run `work` in a thread, yield every `every` seconds until it is done, return its result or raise its error.

    Closing the generator sets `signal`, waits a moment for the work to notice and leaves it behind otherwise: the
    work calls the signal between its parts and so ends by itself.
    """
    outcome = _Outcome(work)
    thread = threading.Thread(target=outcome.run, daemon=True)
    thread.start()
    try:
        while True:
            thread.join(every)
            if not thread.is_alive():
                return outcome.get()
            yield
    finally:
        if thread.is_alive():
            signal.stop()
            thread.join(GRACE)
