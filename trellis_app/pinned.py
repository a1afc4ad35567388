"""Page-locked main memory of exactly the wanted size.

torch's own pinned memory comes in powers of two: a flow of 2.6 GB would take 4.3 GB that nobody else can use.
"""

from __future__ import annotations

import logging
import mmap
import weakref
from contextlib import suppress

import torch

LOG = logging.getLogger(__name__)


def pinned_block(size: int) -> torch.Tensor:
    """uint8 [size] in pages of its own, locked for fast copies where there is a GPU and the system allows it."""
    pages = mmap.mmap(-1, max(size, 1))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)  # 512 times fewer pages to make and to lock
    block = torch.frombuffer(pages, dtype=torch.uint8)
    if torch.cuda.is_available():
        block.zero_()  # all cores make the pages; locking would make them one by one
        if not _lock(block):
            LOG.warning("The system locks no more memory for the GPU; models come to it more slowly.")
    return block[:size]


def _lock(block: torch.Tensor) -> bool:
    """Register the pages with CUDA for as long as they are there; False where the system refuses."""
    runtime, address = torch.cuda.cudart(), block.data_ptr()
    if int(runtime.cudaHostRegister(address, block.numel(), 0)) != 0:
        with suppress(RuntimeError):
            torch.zeros(1, device="cuda")  # takes up the error, which CUDA would report to whoever works next
        return False
    weakref.finalize(block.untyped_storage(), runtime.cudaHostUnregister, address)
    return True
