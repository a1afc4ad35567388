"""What is kept on the GPU, decided from the memory there is.

The figures are those of the released models at 1536^3, measured with `bench pipeline --memory-budget`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from trellis_app.sparse.workspace import AMPLE, Workspace

GB = 10**9
CONTEXT_GB = 0.85  # CUDA itself, its libraries and compiled kernels: outside torch's allocator
FINISH_GB = 4.8  # the largest finishing
KEPT_GB = 3.0  # beside flows that stay: their recorded passes, and what memory that is never given back splinters into
FLOW_GB = 4.0  # beside a flow's weights: 21,000 tokens, the picture's keys and values, results before it, splinters
DECODER_GB = 3.6  # a decoder's weights, the features that it cannot do without, and its results
LEAST_SPACE, MOST_SPACE = 64 << 20, AMPLE.size
SLACK = 3  # of what a plan leaves free, one part is planned with: sizes are estimates, and memory splinters


@dataclass(frozen=True)
class MemoryPlan:
    """How a budget is kept."""

    stays: frozenset[str]  # keys of the models that never leave the device
    ahead: bool = False  # the next model comes while one works
    space: Workspace = AMPLE  # for a decoder's temporary results
    frugal: bool = False  # what can be made again is not kept: neighbour maps, recorded passes

    def smallest(self) -> MemoryPlan:
        """What is tried after the device ran out of memory."""
        return MemoryPlan(frozenset(), space=Workspace(min(LEAST_SPACE, self.space.size // 4)), frugal=True)


def plan(weight_bytes: Mapping[str, int], device: torch.device | str, budget_gb: float | None = None) -> MemoryPlan:
    """All models stay where they fit beside the largest stage, else as many small ones as the large ones leave room.

    Two large ones are there at once if they fit; decoders get a share of what is left. weight_bytes: of each model
    there. budget_gb: memory to use; on a CPU everything stays; on a GPU all that is free where no budget is given.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return MemoryPlan(frozenset(weight_bytes))
    budget = torch.cuda.mem_get_info(device)[0] / GB if budget_gb is None else budget_gb
    room, largest = budget - CONTEXT_GB, max(weight_bytes.values(), default=0) / GB
    if sum(weight_bytes.values()) / GB + FINISH_GB + KEPT_GB <= room:
        stays, beside = frozenset(weight_bytes), 0.0
    else:
        beside = largest if 2 * largest + FLOW_GB <= room else 0.0
        stays = smallest_models(weight_bytes, room - max(largest + beside + FLOW_GB, FINISH_GB))
    staying = sum(weight_bytes[key] for key in stays) / GB
    space = int((room - staying - beside - DECODER_GB) / SLACK * GB)
    return MemoryPlan(stays, beside > 0, Workspace(min(max(space, LEAST_SPACE), MOST_SPACE)))


def smallest_models(weight_bytes: Mapping[str, int], room_gb: float) -> frozenset[str]:
    """As many models as fit, small ones first."""
    kept, taken = set(), 0
    for key in sorted(weight_bytes, key=lambda key: (weight_bytes[key], key)):
        taken += weight_bytes[key]
        if taken > room_gb * GB:
            break
        kept.add(key)
    return frozenset(kept)


def limit_process(device: torch.device, budget_gb: float) -> None:
    """Let torch's allocator take no more of a GPU than a budget leaves beside the context.

    At the limit the allocator gives back what it only keeps for later, and then raises OutOfMemoryError.
    """
    total = torch.cuda.get_device_properties(device).total_memory
    share = (budget_gb - CONTEXT_GB) * GB / total
    torch.cuda.set_per_process_memory_fraction(min(max(share, 0.0), 1.0), device.index)


def free_gb(device: torch.device) -> float:
    """What new tensors on a GPU may take: free memory and what the allocator keeps for later, within the limit."""
    free, total = torch.cuda.mem_get_info(device)
    taken = torch.cuda.memory_allocated(device)
    kept = torch.cuda.memory_reserved(device) - taken
    return min(free + kept, torch.cuda.get_per_process_memory_fraction(device.index) * total - taken) / GB


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error says that the GPU's memory is full: torch's own, or one of a library below it."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    words = ("out of memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
