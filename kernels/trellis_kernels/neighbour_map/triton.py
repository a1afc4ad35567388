"""Neighbour maps on the GPU: one hash look-up for each row and kernel offset."""

import torch
import triton
import triton.language as tl

from trellis_kernels.choice import on_device
from trellis_kernels.voxel_index.triton import find, pack

TILE = 2048  # look-ups of one program


@triton.jit
def map_kernel(
    coords, keys, rows, out, count, mask, K: tl.constexpr, DILATION: tl.constexpr, ROWS: tl.constexpr, PAD: tl.constexpr
):
    """coords int32 [N, 4] -> out int32 [N, K^3]; a program takes ROWS rows and all offsets (padded to PAD)."""
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    v = tl.arange(0, PAD)[None, :]
    inside = (i < count) & (v < K * K * K)
    b = tl.load(coords + i * 4 + v * 0, mask=inside, other=-1)
    x = tl.load(coords + i * 4 + 1 + v * 0, mask=inside, other=-1)
    y = tl.load(coords + i * 4 + 2 + v * 0, mask=inside, other=-1)
    z = tl.load(coords + i * 4 + 3 + v * 0, mask=inside, other=-1)
    key = pack(b, x, y, z)
    moved = pack(
        b, x + (v // (K * K) - K // 2) * DILATION, y + (v // K % K - K // 2) * DILATION, z + (v % K - K // 2) * DILATION
    )
    row = find(keys, rows, mask, tl.where(key >= 0, moved, key))
    tl.store(out + i * (K * K * K) + v, row, mask=inside)


def neighbour_map(
    coords: torch.Tensor, keys: torch.Tensor, rows: torch.Tensor, *, kernel_size: int, dilation: int
) -> torch.Tensor:
    """coords int32 [N, 4] and their hash table -> int32 [N, K^3]."""
    count, volume = coords.shape[0], kernel_size**3
    out = torch.empty((count, volume), dtype=torch.int32, device=coords.device)
    if count:
        pad = triton.next_power_of_2(volume)
        tile = max(1, TILE // pad)
        with on_device(coords.device):
            map_kernel[(triton.cdiv(count, tile),)](
                coords.contiguous(), keys, rows, out, count, keys.shape[0] - 1,
                K=kernel_size, DILATION=dilation, ROWS=tile, PAD=pad,
            )  # fmt: skip
    return out
