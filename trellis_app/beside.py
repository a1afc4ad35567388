"""Work beside other work: a batch's assets are finished in threads while the GPU samples the next ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import torch

from trellis_app.heartbeat import BEAT, GRACE, StopSignal
from trellis_app.progress import Check
from trellis_app.types import StageEvent

Item = TypeVar("Item")
Result = TypeVar("Result")
Notify = Callable[[StageEvent], None]


class Beside(Generic[Item, Result], AbstractContextManager["Beside[Item, Result]"]):
    """Items in threads, each on a GPU in a stream of its own; leaving the block stops the work."""

    def __init__(
        self, device: torch.device, work: Callable[[Item, Notify, Check], Result], *, lead: int, workers: int = 1
    ) -> None:
        """work: makes the result of an item, tells its events, and calls the check at least every half second.

        lead: items that may wait or be worked on while the caller goes on; with 0 the caller waits for each.
        workers: items worked on at once.
        """
        self._work, self._stop, self._lead = work, StopSignal(), lead
        self._streams: SimpleQueue[AbstractContextManager[Any]] = SimpleQueue()
        for _ in range(workers):
            on_gpu = device.type == "cuda"
            self._streams.put(torch.cuda.stream(torch.cuda.Stream(device)) if on_gpu else nullcontext())
        self._pool = ThreadPoolExecutor(workers)
        self._waiting: deque[Future[Result]] = deque()
        self._event: StageEvent | None = None

    def take(self, item: Item) -> Generator[StageEvent | Result, None, None]:
        """Work on the item; yields what is ready, and the events of the work while too much is waiting."""
        self._waiting.append(self._pool.submit(self._job, item))
        yield from self._results(self._lead)

    def ready(self) -> Iterator[Result]:
        """Results that have come meanwhile, in the order of their items."""
        while self._waiting and self._waiting[0].done():
            yield self._waiting.popleft().result()

    def rest(self) -> Generator[StageEvent | Result, None, None]:
        """The results still to come, and the events of the work until then."""
        yield from self._results(0)

    def _results(self, lead: int) -> Generator[StageEvent | Result, None, None]:
        yield from self.ready()
        while len(self._waiting) > lead:
            wait([self._waiting[0]], timeout=BEAT)
            if self._event is not None:
                yield self._event
            yield from self.ready()

    def _job(self, item: Item) -> Result:
        stream = self._streams.get()
        try:
            with stream:
                return self._work(item, self._notify, self._stop)
        finally:
            self._streams.put(stream)

    def _notify(self, event: StageEvent) -> None:
        self._event = event

    def __exit__(self, *_: object) -> None:
        self._stop.stop()
        for future in self._waiting:
            future.cancel()
        wait(self._waiting, timeout=GRACE)
        self._pool.shutdown(wait=False)
