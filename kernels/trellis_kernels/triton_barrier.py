"""Kernels whose programs all run at once and wait for each other: several steps in one launch."""

from functools import cache

import torch
import triton
import triton.language as tl

ALL_AT_ONCE = {"launch_cooperative_grid": True, "num_warps": 4, "maxnreg": 128}  # launch options of such a kernel
RESIDENT = 4  # programs with these options that a multiprocessor holds, whatever else they use


@triton.jit
def wait_for_all(counter, goal):
    """Returns once `counter`, int32, has reached `goal`, every program having added one to it here.

    What any program stored before is seen by all after it.
    """
    tl.debug_barrier()
    arrived = tl.atomic_add(counter, 1, sem="acq_rel") + 1
    while arrived < goal:
        arrived = tl.atomic_add(counter, 0, sem="acquire")
    tl.debug_barrier()


@cache
def resident_programs(device: torch.device) -> int:
    """How many programs run at the same time, so how many may be launched; one in Triton's CPU interpreter."""
    return RESIDENT * torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
