"""The eight voxels around each point and their weights, on the GPU."""

import torch
import triton
import triton.language as tl

from trellis_kernels.choice import on_device
from trellis_kernels.voxel_index.triton import find, pack

BLOCK = 64  # points of one program


@triton.jit
def taps_kernel(
    query, batch, keys, rows, out_rows, out_weights, count, mask, width, height, depth, BLOCK: tl.constexpr
):
    """query fp32 [Q, 3], batch int64 [Q] -> rows int64 [Q, 8] (-1 absent), weights fp32 [Q, 8] renormalised."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    corner = tl.arange(0, 8)[None, :]
    inside = (i < count) & (corner < 8)
    b = tl.load(batch + i + corner * 0, mask=inside, other=-1).to(tl.int32)
    qx = tl.load(query + i * 3 + corner * 0, mask=inside, other=-1.0) - 0.5
    qy = tl.load(query + i * 3 + 1 + corner * 0, mask=inside, other=-1.0) - 0.5
    qz = tl.load(query + i * 3 + 2 + corner * 0, mask=inside, other=-1.0) - 0.5
    dx, dy, dz = corner // 4, corner // 2 % 2, corner % 2
    x, y, z = tl.floor(qx), tl.floor(qy), tl.floor(qz)
    fx, fy, fz = qx - x, qy - y, qz - z
    cx, cy, cz = x.to(tl.int32) + dx, y.to(tl.int32) + dy, z.to(tl.int32) + dz
    in_grid = (cx < width) & (cy < height) & (cz < depth)
    row = find(keys, rows, mask, tl.where(in_grid, pack(b, cx, cy, cz), -1))
    weight = tl.where(dx == 1, fx, 1 - fx) * tl.where(dy == 1, fy, 1 - fy) * tl.where(dz == 1, fz, 1 - fz)
    weight = tl.where(row >= 0, weight, 0.0)
    total = tl.maximum(tl.sum(weight, axis=1), 1e-12)[:, None]
    tl.store(out_rows + i * 8 + corner, row.to(tl.int64), mask=inside)
    tl.store(out_weights + i * 8 + corner, weight / total, mask=inside)


def trilinear_taps(
    query: torch.Tensor, batch: torch.Tensor, keys: torch.Tensor, rows: torch.Tensor, shape: tuple[int, int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """query fp32 [Q, 3], batch int64 [Q], hash table, grid sides -> rows int64 [Q, 8], weights fp32 [Q, 8]."""
    count = query.shape[0]
    out_rows = torch.empty((count, 8), dtype=torch.int64, device=query.device)
    out_weights = torch.empty((count, 8), dtype=torch.float32, device=query.device)
    if count:
        with on_device(query.device):
            taps_kernel[(triton.cdiv(count, BLOCK),)](
                query.contiguous(), batch.contiguous(), keys, rows, out_rows, out_weights,
                count, rows.shape[0] - 1, *shape, BLOCK=BLOCK,
            )  # fmt: skip
    return out_rows, out_weights
