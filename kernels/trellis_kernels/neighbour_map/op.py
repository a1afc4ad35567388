"""Which rows lie around each voxel: the map that sparse convolutions walk."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trellis_kernels.choice import CPU, REFERENCE, TRITON, choose
from trellis_kernels.neighbour_map import reference
from trellis_kernels.voxel_index.op import check_coords, table_slots
from trellis_kernels.voxel_index.reference import pack_offset, sort_keys

ROW_PAD = 256  # tables are padded to whole blocks of up to this many rows


@dataclass(frozen=True, eq=False)
class OrderedMap:
    """A neighbour map in the orders of G parts of its offsets, and what blocks of rows in these orders visit."""

    table: torch.Tensor  # int32 [V, columns]: row v holds offset v of the rows in its part's order, -1 from N on
    order: torch.Tensor  # int32 [G, N]
    masks: torch.Tensor  # int32 [G, N] in this order, the part's bits alone
    offsets: torch.Tensor  # int32 [G * blocks, 32] as `block_lists` makes them
    counts: torch.Tensor  # int32 [G * blocks]


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

        slots = table_slots(coords.shape[0], share=3)
        return triton.neighbour_map(coords, slots, kernel_size=kernel_size, dilation=dilation)
    return reference.neighbour_map(coords, kernel_size=kernel_size, dilation=dilation)


def child_coords(coords: torch.Tensor, slots: torch.Tensor, *, implementation: str = "auto") -> torch.Tensor:
    """Voxels int32 [M, 4] of half the size: the children `slots` int64 [M], see `child_map`, of coords int32 [P, 4]."""
    check_coords(coords)
    if choose(implementation, coords.device, (REFERENCE, TRITON)) == TRITON:
        from trellis_kernels.neighbour_map import triton

        return triton.child_coords(coords.contiguous(), slots.contiguous())
    return reference.child_coords(coords, slots)


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
    if choose(implementation, slots.device, (REFERENCE, TRITON)) == TRITON:
        from trellis_kernels.neighbour_map import triton

        return triton.child_map(parent_map.contiguous(), slots, part)
    return reference.child_map(parent_map, reference.child_rows(slots, parent_map.shape[0]), slots[part])


def order_rows(neighbours: torch.Tensor, parts: int, block: int, *, implementation: str = "auto") -> OrderedMap:
    """Puts like rows of a map int32 [N, V], V <= 31, next to each other, separately for G equal parts of the offsets.

    A row's mask in a part has bit v set where its neighbour v exists. Rows are sorted, keeping the order of equals, by
    what bits of the mask stand for as a Gray code word (F. Gray 1953): all of them, or the 16 most telling ones of a
    3x3x3 neighbourhood. `block`, a power of two up to ROW_PAD, is how many rows share a list of offsets.
    """
    columns = -(-neighbours.shape[0] // ROW_PAD) * ROW_PAD
    if choose(implementation, neighbours.device, (REFERENCE, TRITON)) == TRITON:
        from trellis_kernels.neighbour_map import triton_order

        return OrderedMap(*triton_order.order_rows(neighbours.contiguous(), parts, columns, block))
    return OrderedMap(*reference.order_rows(neighbours, parts, columns, block))


def block_lists(masks: torch.Tensor, block: int, *, implementation: str = "auto") -> tuple[torch.Tensor, torch.Tensor]:
    """Which kernel offsets any row of each block of `block` rows has; masks int32 [G, L] of G parts, none in a block.

    Returns int32 [blocks, 32], the ascending offset numbers and 0 after the last, and how many they are,
    int32 [blocks], part after part. `block` is a power of two.
    """
    if choose(implementation, masks.device, (REFERENCE, TRITON)) == TRITON:
        from trellis_kernels.neighbour_map import triton

        return triton.block_lists(masks.contiguous(), block)
    return reference.block_lists(masks, block)


def blocks_by_offset(
    offsets: torch.Tensor, counts: torch.Tensor, parts: int, volume: int, *, implementation: str = "auto"
) -> tuple[torch.Tensor, torch.Tensor]:
    """The other way round: which blocks have each of V kernel offsets, from what `block_lists` made for G parts.

    Returns int32 [V, blocks], numbers of blocks in the order of the offset's part, ascending and 0 after the last, and
    how many they are, int32 [V].
    """
    if choose(implementation, counts.device, (REFERENCE, TRITON)) == TRITON:
        from trellis_kernels.neighbour_map import triton

        return triton.blocks_by_offset(offsets, counts, parts, volume)
    return reference.blocks_by_offset(offsets, counts, parts, volume)
