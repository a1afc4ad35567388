"""Neighbour maps by binary search, and the codes that group rows with like neighbourhoods."""

from __future__ import annotations

import itertools

import torch

from trellis_kernels.voxel_index.reference import find_keys, pack_offset, sort_keys

LIST = 32  # entries of a block's list of kernel offsets
CUBE = 27
# Of a 3x3x3 neighbourhood, the offsets that tell most, the least of them first: found by a search over voxel shells.
# Blocks of 128 rows in the order of these 16 visit 0 to 5 % fewer offsets than in the order of all 27.
TELLING = (16, 11, 2, 25, 21, 24, 1, 23, 26, 8, 12, 18, 0, 20, 4, 6)


def kernel_offsets(kernel_size: int, dilation: int) -> list[tuple[int, int, int]]:
    """The K^3 offsets (k - K//2) * dilation, x slowest: number (kx*K + ky)*K + kz."""
    steps = [(k - kernel_size // 2) * dilation for k in range(kernel_size)]
    return list(itertools.product(steps, steps, steps))


def neighbour_map(coords: torch.Tensor, *, kernel_size: int, dilation: int) -> torch.Tensor:
    """int32 [N, 4] -> int32 [N, K^3], see the door."""
    keys, rows = sort_keys(coords)
    out = torch.empty((coords.shape[0], kernel_size**3), dtype=torch.int32, device=coords.device)
    for number, offset in enumerate(kernel_offsets(kernel_size, dilation)):
        found = find_keys(keys, rows, keys + pack_offset(offset))
        out[rows, number] = torch.where(keys >= 0, found, -1).to(torch.int32)
    return out


def child_coords(coords: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """int32 [P, 4], int64 [M] -> int32 [M, 4], see the door."""
    octant = (slots % 8).int()
    children = coords.index_select(0, slots // 8)
    children[:, 1:] *= 2
    for axis in range(3):
        children[:, axis + 1] += octant >> axis & 1
    return children


def child_rows(slots: torch.Tensor, parents: int) -> torch.Tensor:
    """int64 [M] parent row * 8 + child number -> int32 [8 * parents]: which row is in each slot, -1 for none."""
    rows = torch.full((8 * parents,), -1, dtype=torch.int32, device=slots.device)
    rows[slots] = torch.arange(slots.shape[0], dtype=torch.int32, device=slots.device)
    return rows


def child_map(parent_map: torch.Tensor, rows: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """int32 [P, 27], int32 [8 P], int64 [M] -> int32 [M, 27], see the door."""
    steps = torch.tensor(kernel_offsets(3, 1), device=slots.device)  # [27, 3]
    corner = (slots[:, None] % 8 >> torch.arange(3, device=slots.device)) & 1
    place = corner[:, None] + steps  # [M, 27, 3] of the neighbour, in children from the parent's corner
    powers = torch.tensor([9, 3, 1], device=slots.device)
    offset = (((place >> 1) + 1) * powers).sum(dim=2)
    beside = parent_map[slots // 8].gather(1, offset).long()
    number = ((place & 1) << torch.arange(3, device=slots.device)).sum(dim=2)
    found = rows[(beside * 8 + number).clamp_min(0)]
    return torch.where(beside >= 0, found, -1).to(torch.int32)


def neighbour_mask(neighbours: torch.Tensor) -> torch.Tensor:
    """int32 [N, V], V <= 31 -> int32 [N] with bit v set where neighbour v exists."""
    bits = 1 << torch.arange(neighbours.shape[1], dtype=torch.int32, device=neighbours.device)
    return ((neighbours >= 0) * bits).sum(dim=1, dtype=torch.int32)


def code_bits(bits: int) -> tuple[int, ...]:
    """Which of so many bits of a mask make the code that rows are sorted by, the lowest first."""
    return TELLING if bits == CUBE else tuple(range(min(bits, len(TELLING))))


def codes(masks: torch.Tensor, places: tuple[int, ...]) -> torch.Tensor:
    """int32 [N]: what the bits of masks int32 [N] at these places, the lowest first, stand for as a Gray code word."""
    word = torch.zeros_like(masks)
    for k, place in enumerate(places):
        word |= ((masks >> place) & 1) << k
    return gray_to_binary(word)


def order_rows(neighbours: torch.Tensor, parts: int, columns: int, block: int) -> tuple[torch.Tensor, ...]:
    """int32 [N, V] -> table, order, masks, offsets and counts of an `OrderedMap`."""
    count, volume = neighbours.shape
    bits = volume // parts
    table = torch.full((volume, columns), -1, dtype=torch.int32, device=neighbours.device)
    orders, masks = [], []
    for first in range(0, volume, bits):
        own = neighbours[:, first : first + bits]
        mask = neighbour_mask(own)
        order = torch.sort(codes(mask, code_bits(bits)), stable=True).indices
        table[first : first + bits, :count] = own[order].T
        orders.append(order.to(torch.int32))
        masks.append(mask[order] << first)
    ordered = torch.stack(masks)
    return table, torch.stack(orders), ordered, *block_lists(ordered, block)


def gray_to_binary(code: torch.Tensor) -> torch.Tensor:
    """int32 [N] Gray code words -> the numbers they stand for (prefix xor from the top bit; F. Gray 1953)."""
    for shift in (1, 2, 4, 8, 16):
        code = code ^ (code >> shift)
    return code


def block_lists(masks: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """int32 [G, L] masks of rows -> int32 [G * blocks, 32], int32 [G * blocks], see the door."""
    padded = torch.nn.functional.pad(masks, (0, -masks.shape[1] % block)).view(-1, block)
    bits = torch.arange(LIST, dtype=torch.int32, device=masks.device)
    used = ((padded[..., None] >> bits) & 1).bool().any(dim=1)
    counts = used.sum(dim=1, dtype=torch.int32)
    offsets = torch.where(used, bits, LIST).sort(dim=1).values
    return torch.where(offsets == LIST, 0, offsets), counts


def blocks_by_offset(
    offsets: torch.Tensor, counts: torch.Tensor, parts: int, volume: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """int32 [G * blocks, 32], int32 [G * blocks] -> int32 [V, blocks], int32 [V], see the door."""
    blocks = len(counts) // parts
    visits = torch.zeros((volume, blocks), dtype=torch.int32, device=counts.device)
    totals = torch.zeros(volume, dtype=torch.int32, device=counts.device)
    listed = torch.arange(LIST, device=counts.device) < counts[:, None]
    for v in range(volume):
        part = slice(v * parts // volume * blocks, (v * parts // volume + 1) * blocks)
        found = ((offsets[part] == v) & listed[part]).any(dim=1).nonzero()[:, 0]
        visits[v, : len(found)] = found.to(torch.int32)
        totals[v] = len(found)
    return visits, totals
