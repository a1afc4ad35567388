"""Neighbour maps by binary search, and the codes that group rows with like neighbourhoods."""

from __future__ import annotations

import itertools

import torch

from trellis_kernels.voxel_index.reference import find_keys, pack_offset, sort_keys

LIST = 32  # entries of a block's list of kernel offsets
MANY_ROWS, RUN_BITS = 1 << 20, 18  # 2^18 rows of 64 channels in 16 bits take 32 MiB, less than a large GPU's cache


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


def table(
    neighbours: torch.Tensor, masks: torch.Tensor, order: torch.Tensor, columns: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """int32 [N, V], int32 [N], int64 [G, N] -> the parts of an OrderedMap, see the door."""
    (count, volume), parts = neighbours.shape, order.shape[0]
    order = order - torch.arange(parts, device=order.device)[:, None] * count
    out = torch.full((volume, columns), -1, dtype=torch.int32, device=neighbours.device)
    for v in range(volume):
        out[v, :count] = neighbours[order[v * parts // volume], v]
    bits = volume // parts
    own = ((1 << bits) - 1) << (bits * torch.arange(parts, dtype=torch.int32, device=order.device))
    return out, order.to(torch.int32), masks[order] & own[:, None]


def part_ranks(masks: torch.Tensor, parts: int, bits: int) -> torch.Tensor:
    """int32 [N] -> int32 [parts, N], see the door; `bits` offsets a part."""
    shifts = torch.arange(parts, dtype=torch.int32, device=masks.device)[:, None]
    words = (masks >> (shifts * bits)) & ((1 << bits) - 1)
    groups = shifts
    if runs_apart(parts, masks.shape[0]):
        groups = torch.arange(masks.shape[0], dtype=torch.int32, device=masks.device)[None] >> RUN_BITS
    return gray_to_binary(words) | groups << bits


def runs_apart(parts: int, count: int) -> bool:
    """Whether the order of the rows keeps runs of 2^RUN_BITS rows apart."""
    return parts == 1 and count > MANY_ROWS


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
