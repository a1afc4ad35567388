"""Quads of a dual grid on the GPU: three hash look-ups for each crossed edge."""

import torch
import triton
import triton.language as tl

from trellis_kernels.choice import on_device
from trellis_kernels.voxel_index.triton import find, pack

BLOCK = 128  # crossed edges of one program


@triton.jit
def quads_kernel(coords, edges, keys, rows, out, count, mask, BLOCK: tl.constexpr):
    """edges int64 [L] = voxel * 3 + axis -> out int32 [L, 4], rows of the corners, -1 where missing."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    corner = tl.arange(0, 4)[None, :]
    inside = (i < count) & (corner < 4)
    edge = tl.load(edges + i + corner * 0, mask=inside, other=0)
    voxel, axis = edge // 3, (edge % 3).to(tl.int32)
    # Around the axis the corners go (0,0), (0,1), (1,1), (1,0) in the next two axes of the order z y | x z | y x.
    first, second = corner // 2, (corner == 1).to(tl.int32) + (corner == 2).to(tl.int32)
    x = tl.where(axis == 0, 0, tl.where(axis == 1, second, first))
    y = tl.where(axis == 0, first, tl.where(axis == 1, 0, second))
    z = tl.where(axis == 0, second, tl.where(axis == 1, first, 0))
    x += tl.load(coords + voxel * 3, mask=inside, other=-9)
    y += tl.load(coords + voxel * 3 + 1, mask=inside, other=-9)
    z += tl.load(coords + voxel * 3 + 2, mask=inside, other=-9)
    tl.store(out + i * 4 + corner, find(keys, rows, mask, pack(x * 0, x, y, z)), mask=inside)


def quads(coords: torch.Tensor, crossed: torch.Tensor, keys: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """coords int32 [M, 3], crossed bool [M, 3], hash table -> int32 [L, 4], ordered by voxel, then axis."""
    edges = torch.nonzero(crossed.flatten())[:, 0]
    count = edges.shape[0]
    corners = torch.empty((count, 4), dtype=torch.int32, device=coords.device)
    if count:
        with on_device(coords.device):
            quads_kernel[(triton.cdiv(count, BLOCK),)](
                coords.contiguous(), edges, keys, rows, corners, count, rows.shape[0] - 1, BLOCK=BLOCK
            )
    return corners[(corners >= 0).all(dim=1)]
