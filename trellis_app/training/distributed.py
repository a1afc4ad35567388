"""One process a GPU: started by torchrun, or a single process without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Process:
    """This process among its siblings."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module on this device, its gradients averaged over all processes."""
        module = module.to(self.device)
        if self.size == 1:
            return module
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, gradient_as_bucket_view=True)

    def agree(self, value: float) -> float:
        """The first process's value, in every process."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(shared, src=0)
        return float(shared)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def process_group(device: str) -> Iterator[Process]:
    """Join the processes that torchrun started (nccl on GPUs, gloo on CPUs); alone where it did not."""
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if not dist.is_torchelastic_launched():
        yield Process(0, 1, torch.device("cuda", 0) if cuda else torch.device("cpu"))
        return
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        rank = dist.get_rank()
        local = torch.device("cuda", rank % torch.cuda.device_count()) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(local)
        yield Process(rank, dist.get_world_size(), local)
    finally:
        dist.destroy_process_group()
