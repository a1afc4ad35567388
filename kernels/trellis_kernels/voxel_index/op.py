"""Where is the voxel with these coordinates? An index from (batch, x, y, z) to the row of a sparse tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trellis_kernels.choice import CPU, REFERENCE, TRITON, choose
from trellis_kernels.voxel_index import reference


@dataclass(frozen=True)
class VoxelIndex:
    """An index built by `build_voxel_index`; what the two tensors hold depends on the implementation."""

    keys: torch.Tensor  # int64: [N] sorted keys (reference), [slots] hash table (cpu) or [N] keys by row (triton)
    rows: torch.Tensor  # int64 [N] row of each key (reference) or int32 [slots] hash table of rows (cpu, triton)
    implementation: str

    def lookup(self, query: torch.Tensor) -> torch.Tensor:
        """int32 [Q, 4] (batch, x, y, z) on the index's device -> row int64 [Q]; -1 for voxels absent or outside."""
        check_coords(query)
        if self.implementation == CPU:
            from trellis_kernels.voxel_index import cpu

            return torch.from_numpy(cpu.lookup(self.keys.numpy(), self.rows.numpy(), query.contiguous().numpy()))
        if self.implementation == TRITON:
            from trellis_kernels.voxel_index import triton

            return triton.lookup(self.keys, self.rows, query)
        return reference.find_keys(self.keys, self.rows, reference.pack_keys(query))


def build_voxel_index(coords: torch.Tensor, *, implementation: str = "auto") -> VoxelIndex:
    """Index of int32 [N, 4] (batch, x, y, z), each in [0, 32768).

    Rows out of range are left out; of doubles the lower row counts. Raises ValueError on another shape or dtype.
    """
    check_coords(coords)
    chosen = choose(implementation, coords.device, (REFERENCE, CPU, TRITON))
    if chosen == CPU:
        from trellis_kernels.voxel_index import cpu

        keys, rows = cpu.build(coords.contiguous().numpy(), table_slots(coords.shape[0]))
        return VoxelIndex(torch.from_numpy(keys), torch.from_numpy(rows), chosen)
    if chosen == TRITON:
        from trellis_kernels.voxel_index import triton

        row_keys, slot_rows = triton.build(coords, table_slots(coords.shape[0], share=3))
        return VoxelIndex(row_keys, slot_rows, chosen)
    sorted_keys, sorted_rows = reference.sort_keys(coords)
    return VoxelIndex(sorted_keys, sorted_rows, chosen)


def table_slots(count: int, share: int = 2) -> int:
    """Slots of a hash table for `count` keys: the power of two that leaves it at most 1 / share full."""
    return max(8, 1 << (share * count - 1).bit_length())


def check_coords(coords: torch.Tensor) -> None:
    """Raises ValueError unless coords is int32 [N, 4]."""
    if coords.ndim != 2 or coords.shape[1] != 4 or coords.dtype != torch.int32:
        raise ValueError(f"coords must be int32 [N, 4] (batch, x, y, z), got {coords.dtype} {list(coords.shape)}")
