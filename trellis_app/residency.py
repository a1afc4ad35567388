"""Which model is on the GPU when.

All models of the 4B bundle together do not fit a small GPU, but one at a time does. A plan (memory.py) says which stay
there. The others wait in pinned main memory, one block each, and come in one copy at the speed of the bus; the next one
may come while the one before works. Where the GPU runs out of memory, a smaller plan takes the place of the first.
"""

from __future__ import annotations

import gc
import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TypeVar

import torch
from torch import nn

from trellis_app.memory import CONTEXT_GB, GB, MemoryPlan, free_gb, out_of_memory
from trellis_app.pinned import pinned_block

LOG = logging.getLogger(__name__)
Model = TypeVar("Model", bound=nn.Module)
CAUTION = 0.85  # share of the free memory that is planned with, once more for every time that it ran out
MOST_RECOVERIES = 3
_ALIGN = 256  # bytes
_SEGMENT = 2 << 20  # bytes that torch takes at once: of a block without a remainder no small tensor can hold a corner


class Berth:
    """The place of one model's weights in pinned memory, and for a while on the device."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._tensors = list(itertools.chain(model.parameters(), model.buffers()))
        sizes = [-(-tensor.numel() * tensor.element_size() // _ALIGN) * _ALIGN for tensor in self._tensors]
        self._starts = list(itertools.accumulate(sizes, initial=0))
        self._host = pinned_block(self._starts[-1])
        for tensor, view in zip(self._tensors, self._views(self._host), strict=True):
            view.copy_(tensor.data)
        self._coming: tuple[torch.Tensor, torch.cuda.Event] | None = None
        self.in_use = False
        self._point_to(self._host)

    def dock(self) -> None:
        """Let go of weights that were moved to the device by other means; the values here are the same."""
        if not self.in_use:
            self._point_to(self._host)

    def call(self, device: torch.device, stream: torch.cuda.Stream) -> None:
        """Start the copy to the device; work queued there so far ends first, later work runs beside it."""
        if self._coming is None:
            size = len(self._host)
            block = torch.empty(-(-size // _SEGMENT) * _SEGMENT, dtype=torch.uint8, device=device)
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                block[:size].copy_(self._host, non_blocking=True)
                self._coming = block, stream.record_event()

    def enter(self, device: torch.device, stream: torch.cuda.Stream) -> None:
        """The weights are on the device for all work queued from now on."""
        self.call(device, stream)
        assert self._coming is not None
        torch.cuda.current_stream(device).wait_event(self._coming[1])
        self._point_to(self._coming[0])
        self.in_use = True

    def leave(self) -> None:
        """Free the block on the device; the weights in main memory are as they were."""
        self.in_use = False
        if self._coming is None:
            return
        self._coming[1].synchronize()
        self._coming = None
        self._point_to(self._host)

    def _views(self, block: torch.Tensor) -> Iterator[torch.Tensor]:
        for tensor, start in zip(self._tensors, self._starts[:-1], strict=True):
            flat = block[start : start + tensor.numel() * tensor.element_size()]
            yield flat.view(tensor.dtype).view(tensor.shape)

    def _point_to(self, block: torch.Tensor) -> None:
        for tensor, view in zip(self._tensors, self._views(block), strict=True):
            tensor.data = view


class Residency:
    """Brings models to one device and back as a plan says, and learns in which order they are asked for."""

    def __init__(
        self, device: torch.device, planner: Callable[[float | None], MemoryPlan], budget_gb: float | None = None
    ) -> None:
        """planner: makes a plan for so much memory, None for all that is free; budget_gb: as it is asked first."""
        self.device = device
        self.moves = device.type == "cuda"  # on a CPU every model is where it is needed
        self.plan = planner(budget_gb)
        self._planner = planner
        self._shrunk = 0  # times that memory ran out
        self._berths: dict[str, Berth] = {}
        self._staying: dict[str, nn.Module] = {}
        self._copies: torch.cuda.Stream | None = None  # made at first use: a ZeroGPU Space has no GPU before
        self._last = ("", "")  # the two models that were asked for last
        self._followers: dict[tuple[str, str], str] = {}

    def stays(self, key: str) -> bool:
        """Whether a model remains on the device between its uses."""
        return key in self.plan.stays

    def home(self, key: str) -> torch.device:
        """Where a model's weights are to be loaded to."""
        return self.device if key in self.plan.stays else torch.device("cpu")

    @contextmanager
    def resident(self, key: str, model: Model) -> Iterator[Model]:
        """The model on the device; afterwards in main memory again, unless it may stay."""
        if key in self.plan.stays or not self.moves:
            self._staying[key] = model
            with torch.inference_mode(False):
                model.to(self.device)
            yield model
            return
        with torch.inference_mode(False), torch.no_grad():
            berth = self._berth(key, model)
            self._send_home(but=key)
            berth.enter(self.device, self._stream())
            self._call_follower(key)
        try:
            yield model
        finally:
            with torch.inference_mode(False), torch.no_grad():
                berth.leave()
            torch.cuda.empty_cache()  # a block of this size must not be split for small things that stay

    def rest(self) -> None:
        """Free what was fetched ahead: no model is needed for a while."""
        with torch.inference_mode(False), torch.no_grad():
            self._send_home(but="")

    def forget(self, key: str) -> None:
        """The model's layers were replaced: what is known of its weights is void."""
        self._berths.pop(key, None)
        self._staying.pop(key, None)

    @property
    def can_shrink(self) -> bool:
        return self.moves and not self.plan.frugal

    def shrink(self) -> None:
        """Go over to the smallest plan: every model leaves the device, and what it holds for nobody is freed."""
        self.plan = self.plan.smallest()
        self._shrunk += 1
        with torch.inference_mode(False), torch.no_grad():
            for key, model in self._staying.items():
                self._berth(key, model).dock()
        self._staying.clear()
        self.rest()
        gc.collect()  # a failed attempt that ran in a thread is held by its own error
        torch.cuda.empty_cache()

    def recover(self) -> None:
        """Before a run: after one that needed the smallest plan, a larger one again, made for what is free now.

        Each time less of that is planned with, and a device that is simply too small stays with the smallest plan.
        """
        if self.moves and self.plan.frugal and self._shrunk <= MOST_RECOVERIES:
            free = free_gb(self.device) + torch.cuda.memory_allocated(self.device) / GB + CONTEXT_GB
            self.plan = self._planner(free * CAUTION**self._shrunk)

    def attempts(self, let_go: Callable[[], None]) -> Iterator[Attempt]:
        """One attempt at something; where the GPU ran out of memory, `let_go()` and a second one with a smaller plan.

        The second one raises OutOfMemoryError as if it were the only one.
        """
        first = Attempt(final=not self.can_shrink)
        yield first
        if first.failed:
            LOG.warning("The GPU ran out of memory; trying again with less kept on it. (%s)", first.words)
            let_go()
            self.shrink()
            yield Attempt(final=True)

    def _call_follower(self, key: str) -> None:
        """Remember that `key` came; if two models have room, let the one come that followed last time."""
        self._followers[self._last] = key
        self._last = (self._last[1], key)
        follower = self._followers.get(self._last)
        if self.plan.ahead and follower in self._berths:
            with suppress(torch.cuda.OutOfMemoryError):  # then it comes when its turn comes
                self._berths[follower].call(self.device, self._stream())

    def _stream(self) -> torch.cuda.Stream:
        if self._copies is None:
            self._copies = torch.cuda.Stream(self.device)
        return self._copies

    def _berth(self, key: str, model: nn.Module) -> Berth:
        if key not in self._berths:
            self._berths[key] = Berth(model)
        return self._berths[key]

    def _send_home(self, *, but: str) -> None:
        for key, berth in self._berths.items():
            if key != but and not berth.in_use:
                berth.leave()


class Attempt(AbstractContextManager["Attempt"]):
    """Swallows a GPU that ran out of memory, unless it is the final attempt."""

    def __init__(self, *, final: bool) -> None:
        self.failed = False
        self.words = ""  # of the error that was swallowed
        self._final = final

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self.failed = out_of_memory(error) and not self._final
        self.words = " ".join(str(error).split(". ")[:2]) if self.failed else ""
        return self.failed
