"""Which rows lie around each voxel: the map that sparse convolutions walk."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trellis_kernels.choice import CPU, REFERENCE, TRITON, choose
from trellis_kernels.neighbour_map import reference
from trellis_kernels.voxel_index.op import build_voxel_index, check_coords
from trellis_kernels.voxel_index.reference import pack_offset, sort_keys


@dataclass(frozen=True, eq=False)
class OrderedMap:
    """A neighbour map in the orders of G parts of its offsets."""

    table: torch.Tensor  # int32 [V, columns]: row v holds offset v of the rows in its part's order, -1 from N on
    order: torch.Tensor  # int32 [G, N]
    masks: torch.Tensor  # int32 [G, N] in this order, the part's bits alone


def neighbour_map(
    coords: torch.Tensor, *, kernel_size: int = 3, dilation: int = 1, implementation: str = "auto"
) -> torch.Tensor:
    """int32 [N, 4] (batch, x, y, z), unique -> int32 [N, K^3]: row of the voxel at each kernel offset, -1 for none.

    Offset number v = (kx*K + ky)*K + kz stands for (k - K//2) * dilation along x, y, z. K is odd.
    Raises ValueError on other shapes, dtypes or an even kernel size.
    """
    check_coords(coords)
    if kernel_size < 1 or kernel_size % 2 == 0 or dilation < 1:
        raise ValueError(f"kernel_size must be odd and dilation positive, got {kernel_size} and {dilation}")
    chosen = choose(implementation, coords.device, (REFERENCE, CPU, TRITON))
    if chosen == CPU:
        import numpy as np

        from trellis_kernels.neighbour_map import cpu

        keys, rows = sort_keys(coords)
        deltas = np.array([pack_offset(offset) for offset in reference.kernel_offsets(kernel_size, dilation)], np.int64)
        return torch.from_numpy(cpu.neighbour_map(keys.numpy(), rows.numpy(), deltas))
    if chosen == TRITON:
        from trellis_kernels.neighbour_map import triton

        index = build_voxel_index(coords, implementation=TRITON)
        return triton.neighbour_map(index.keys, index.rows, kernel_size=kernel_size, dilation=dilation)
    return reference.neighbour_map(coords, kernel_size=kernel_size, dilation=dilation)


def child_map(
    parent_map: torch.Tensor, slots: torch.Tensor, *, part: slice = slice(None), implementation: str = "auto"
) -> torch.Tensor:
    """The 3x3x3 map of voxels that are children of others, from the parents' map, without any search.

    parent_map: int32 [P, 27] of all parents; slots: int64 [M] parent row * 8 + child number s, the child at twice the
    parent's place + (s & 1, s >> 1 & 1, s >> 2 & 1), none twice. Returns int32 [M, 27], what `neighbour_map` gives, or
    the rows of it that `part` selects.
    """
    if parent_map.ndim != 2 or parent_map.shape[1] != 27 or parent_map.dtype != torch.int32:
        raise ValueError(f"parent_map must be int32 [P, 27], got {parent_map.dtype} {list(parent_map.shape)}")
    rows = torch.full((8 * parent_map.shape[0],), -1, dtype=torch.int32, device=slots.device)
    rows[slots] = torch.arange(slots.shape[0], dtype=torch.int32, device=slots.device)
    if choose(implementation, slots.device, (REFERENCE, TRITON)) == TRITON:
        from trellis_kernels.neighbour_map import triton

        return triton.child_map(parent_map.contiguous(), rows, slots[part].contiguous())
    return reference.child_map(parent_map, rows, slots[part])


def row_ranks(
    neighbours: torch.Tensor, parts: int = 1, *, implementation: str = "auto"
) -> tuple[torch.Tensor, torch.Tensor]:
    """What groups the rows of a map int32 [N, V], V <= 31: masks int32 [N] and ranks int32 [G, N] of G parts.

    A row's mask has bit v set where neighbour v exists. Sorting the ranks of a part groups rows that are alike in its
    V / G offsets: a rank is what the part's bits stand for as a Gray code word (F. Gray 1953), plus g << V / G for part
    g, so that all ranks of a part are below those of the next. Where there is one part and very many rows, runs of them
    stay apart instead, so that what neighbouring rows read is still in the cache: run r has r << V added, which wraps.
    """
    if choose(implementation, neighbours.device, (REFERENCE, TRITON)) == TRITON:
        from trellis_kernels.neighbour_map import triton

        return triton.row_ranks(neighbours.contiguous(), parts)
    masks = reference.neighbour_mask(neighbours)
    return masks, reference.part_ranks(masks, parts, neighbours.shape[1] // parts)


def neighbour_table(
    neighbours: torch.Tensor, masks: torch.Tensor, order: torch.Tensor, columns: int, *, implementation: str = "auto"
) -> OrderedMap:
    """A map int32 [N, V] with offsets outermost, each part of them with rows in an order of its own.

    masks: int32 [N]; order: int64 [G, N], for each of the G equal parts of consecutive offsets which row comes where,
    with g * N added in part g; columns: how long the table's rows are, at least N.
    """
    if choose(implementation, neighbours.device, (REFERENCE, TRITON)) == TRITON:
        from trellis_kernels.neighbour_map import triton

        return OrderedMap(*triton.table(neighbours.contiguous(), masks, order, columns))
    return OrderedMap(*reference.table(neighbours, masks, order, columns))


def block_lists(masks: torch.Tensor, block: int, *, implementation: str = "auto") -> tuple[torch.Tensor, torch.Tensor]:
    """Which kernel offsets any row of each block of `block` rows has; masks int32 [G, L] of G parts, none in a block.

    Returns int32 [blocks, 32], the ascending offset numbers and 0 after the last, and how many they are,
    int32 [blocks], part after part. `block` is a power of two.
    """
    if choose(implementation, masks.device, (REFERENCE, TRITON)) == TRITON:
        from trellis_kernels.neighbour_map import triton

        return triton.block_lists(masks.contiguous(), block)
    return reference.block_lists(masks, block)
