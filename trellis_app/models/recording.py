"""A flow's forward pass recorded as a CUDA graph and replayed: with few rows the host is slower than the GPU.

A recording belongs to one number of rows and picture tokens and to the weights' present place. Its inputs are copied
into buffers of its own, so one recording serves all steps of a run and the next runs of that size.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import torch

from trellis_app.models.condition import ConditionMemory
from trellis_app.sparse.packing import Packing

MOST_ROWS = 6144  # beyond these the GPU is the slower one
MOST_RECORDINGS = 2  # of a model: with the picture and without


@dataclass(frozen=True)
class FlowInputs:
    """What a forward pass works on."""

    rows: torch.Tensor  # [N, C]
    packing: Packing
    phases: torch.Tensor  # [N, D / 2, 2]
    time: torch.Tensor  # [B]
    memory: ConditionMemory

    @property
    def shape(self) -> tuple[object, ...]:
        """Passes with equal ones can share a recording."""
        memory = self.memory
        return (self.rows.shape, self.packing.lengths, memory.packing.lengths, memory.constants is None)

    def copied(self) -> FlowInputs:
        """The same in memory of its own."""
        return FlowInputs(self.rows.clone(), self.packing, self.phases.clone(), self.time.clone(), self.memory.copied())


Forward = Callable[[FlowInputs], torch.Tensor]


@cache
def recording_stream(device: torch.device) -> torch.cuda.Stream:
    """Where all passes are recorded: cuBLAS keeps a workspace of 32 MB for ever for every stream that it ever saw."""
    return torch.cuda.Stream(device)


class Recording:
    """One recorded pass."""

    def __init__(self, forward: Forward, inputs: FlowInputs) -> None:
        with torch.inference_mode(False), torch.no_grad():
            self._inputs = inputs.copied()
            torch.cuda.empty_cache()  # a recording has memory of its own and cannot use what is kept for later
            self._graph = torch.cuda.CUDAGraph()
            current, stream = torch.cuda.current_stream(), recording_stream(inputs.rows.device)
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                self._graph.capture_begin(capture_error_mode="thread_local")
                try:
                    self._out = forward(self._inputs)
                except RuntimeError:
                    with suppress(RuntimeError):  # it may complain of the same failure again
                        self._graph.capture_end()
                    raise
                self._graph.capture_end()
            current.wait_stream(stream)
        self._phases, self._memory = weakref.ref(inputs.phases), weakref.ref(inputs.memory)

    def replay(self, inputs: FlowInputs) -> torch.Tensor:
        """The pass on other inputs of the same shape."""
        own = self._inputs
        own.rows.copy_(inputs.rows)
        own.time.copy_(inputs.time)
        if self._phases() is not inputs.phases:
            own.phases.copy_(inputs.phases)
            self._phases = weakref.ref(inputs.phases)
        if self._memory() is not inputs.memory:
            own.memory.take(inputs.memory)
            self._memory = weakref.ref(inputs.memory)
        self._graph.replay()
        return self._out.clone()


class Recordings:
    """The recordings of one model, oldest first."""

    enabled = True  # False: every pass is run as it is, which takes less memory

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], Recording] = {}

    def run(self, forward: Forward, inputs: FlowInputs, weights: torch.Tensor) -> torch.Tensor:
        """`forward(inputs)`, the first time as it is, then from the recording; `weights` tells where the model lies."""
        if not self.enabled:
            return forward(inputs)
        key = (*inputs.shape, weights.data_ptr())
        if key in self._known:
            return self._known[key].replay(inputs)
        out = forward(inputs)  # also lets libraries choose and compile their kernels, which a recording must not do
        self._known = {known: value for known, value in self._known.items() if known[-1] == key[-1]}
        while len(self._known) >= MOST_RECORDINGS:
            self._known.pop(next(iter(self._known)))
        self._known[key] = Recording(forward, inputs)
        return out

    def clear(self) -> None:
        """Free what the recordings hold."""
        self._known.clear()

    def __reduce__(self) -> tuple[type[Recordings], tuple[()]]:
        """A copy of a model starts without recordings: they belong to the place of its weights."""
        return Recordings, ()


def worth_recording(rows: torch.Tensor) -> bool:
    """Few rows on a GPU at inference, without autocast."""
    return (
        rows.is_cuda
        and 0 < len(rows) <= MOST_ROWS
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cuda")
        and not torch.cuda.is_current_stream_capturing()
    )
