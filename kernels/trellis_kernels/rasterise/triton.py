"""Rasteriser for GPUs: a program for every 8 x 8 tile that a triangle's box touches, an atomic minimum a pixel.

    triangles ─▶ (triangle, tile) pairs ─draw_kernel─▶ key = depth bits << 32 | triangle ─resolve_kernel─▶ fragments

The minimum of the keys does not depend on the order of the programs, so the picture is deterministic.
"""

import torch
import triton
import triton.language as tl

from trellis_kernels.choice import on_device
from trellis_kernels.rasterise.reference import SUBPIXEL, screen_triangles, snap

TILE = 8
BLOCK = 128  # pixels of a program of the resolve kernel
EMPTY = 2**63 - 1


@triton.jit
def edges(positions, triangle, px, py):
    """Edge functions int64 at px, py (positive inside), their biases for top and left edges, and the area."""
    x0, y0 = tl.load(positions + triangle * 6).to(tl.int64), tl.load(positions + triangle * 6 + 1).to(tl.int64)
    x1, y1 = tl.load(positions + triangle * 6 + 2).to(tl.int64), tl.load(positions + triangle * 6 + 3).to(tl.int64)
    x2, y2 = tl.load(positions + triangle * 6 + 4).to(tl.int64), tl.load(positions + triangle * 6 + 5).to(tl.int64)
    area = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
    sign = tl.where(area < 0, -1, 1).to(tl.int64)
    dx0, dy0 = sign * (x2 - x1), sign * (y2 - y1)
    dx1, dy1 = sign * (x0 - x2), sign * (y0 - y2)
    dx2, dy2 = sign * (x1 - x0), sign * (y1 - y0)
    e0 = dx0 * (py - y1) - dy0 * (px - x1)
    e1 = dx1 * (py - y2) - dy1 * (px - x2)
    e2 = dx2 * (py - y0) - dy2 * (px - x0)
    b0 = tl.where((dy0 < 0) | ((dy0 == 0) & (dx0 > 0)), 0, -1)
    b1 = tl.where((dy1 < 0) | ((dy1 == 0) & (dx1 > 0)), 0, -1)
    b2 = tl.where((dy2 < 0) | ((dy2 == 0) & (dx2 > 0)), 0, -1)
    return e0, e1, e2, b0, b1, b2, area * sign


@triton.jit
def draw_kernel(
    positions, zw, face, picture, task_triangle, task_tile, box, behind_face, behind_depth, keys, height, width,
    PEEL: tl.constexpr, TILE: tl.constexpr, SUBPIXEL: tl.constexpr,
):  # fmt: skip
    """positions int32 [T, 6], zw float64 [T, 6] (z / w, 1 / w), box int32 [T, 3] (left, top, tiles across) -> keys."""
    task = tl.program_id(0).to(tl.int64)
    triangle = tl.load(task_triangle + task).to(tl.int64)
    tile = tl.load(task_tile + task)
    left, top = tl.load(box + triangle * 3), tl.load(box + triangle * 3 + 1)
    across = tl.load(box + triangle * 3 + 2)
    lane = tl.arange(0, TILE * TILE)
    column = left + (tile % across) * TILE + lane % TILE
    row = top + (tile // across) * TILE + lane // TILE
    px, py = column.to(tl.int64) * SUBPIXEL + SUBPIXEL // 2, row.to(tl.int64) * SUBPIXEL + SUBPIXEL // 2
    e0, e1, e2, b0, b1, b2, area = edges(positions, triangle, px, py)
    covered = (e0 + b0 >= 0) & (e1 + b1 >= 0) & (e2 + b2 >= 0) & (area > 0) & (column < width) & (row < height)
    scale = 1.0 / tl.maximum(area, 1).to(tl.float64)
    z = e0.to(tl.float64) * scale * tl.load(zw + triangle * 6)
    z += e1.to(tl.float64) * scale * tl.load(zw + triangle * 6 + 1)
    z += e2.to(tl.float64) * scale * tl.load(zw + triangle * 6 + 2)
    depth = z.to(tl.float32) + 0.0
    pixel = (tl.load(picture + triangle).to(tl.int64) * height + row) * width + column
    if PEEL:
        last = tl.load(behind_depth + pixel, mask=covered, other=0.0)
        last_face = tl.load(behind_face + pixel, mask=covered, other=0)
        covered = covered & ((depth > last) | ((depth == last) & (tl.load(face + triangle) > last_face)))
    bits = depth.to(tl.int32, bitcast=True)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    key = (bits.to(tl.int64) << 32) | triangle
    tl.atomic_min(keys + pixel, key, mask=covered)


@triton.jit
def resolve_kernel(
    positions, zw, weights, face, keys, out_face, out_barycentric, out_depth, pixels, width, height,
    EMPTY: tl.constexpr, BLOCK: tl.constexpr, SUBPIXEL: tl.constexpr,
):  # fmt: skip
    """keys int64 [B H W] -> face, barycentric, depth of the winners; weights float64 [T, 9]."""
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    key = tl.load(keys + pixel, mask=inside, other=EMPTY)
    seen = inside & (key != EMPTY)
    triangle = tl.where(seen, key & 0xFFFFFFFF, 0)
    column, row = pixel % width, (pixel // width) % height
    px, py = column * SUBPIXEL + SUBPIXEL // 2, row * SUBPIXEL + SUBPIXEL // 2
    e0, e1, e2, _b0, _b1, _b2, area = edges(positions, triangle, px, py)
    scale = 1.0 / tl.maximum(area, 1).to(tl.float64)
    p0 = e0.to(tl.float64) * scale * tl.load(zw + triangle * 6 + 3)
    p1 = e1.to(tl.float64) * scale * tl.load(zw + triangle * 6 + 4)
    p2 = e2.to(tl.float64) * scale * tl.load(zw + triangle * 6 + 5)
    total = p0 + p1 + p2
    total = 1.0 / tl.where(seen, total, 1.0)
    p0, p1, p2 = p0 * total, p1 * total, p2 * total
    for k in tl.static_range(3):
        mixed = p0 * tl.load(weights + triangle * 9 + k)
        mixed += p1 * tl.load(weights + triangle * 9 + 3 + k)
        mixed += p2 * tl.load(weights + triangle * 9 + 6 + k)
        tl.store(out_barycentric + pixel * 3 + k, tl.where(seen, mixed, 0.0).to(tl.float32), mask=inside)
    bits = (key >> 32).to(tl.int32)
    depth = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    tl.store(out_depth + pixel, tl.where(seen, depth, float("inf")), mask=inside)
    tl.store(out_face + pixel, tl.where(seen, tl.load(face + triangle), -1), mask=inside)


def rasterise_triton(
    clip: torch.Tensor,
    faces: torch.Tensor,
    size: tuple[int, int],
    behind: tuple[torch.Tensor, torch.Tensor] | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """clip float32 [B, V, 4], faces int32 [F, 3] -> face [B, H, W], barycentric [B, H, W, 3], depth [B, H, W]."""
    shape, device = (len(clip), *size), clip.device
    face = torch.full(shape, -1, dtype=torch.int32, device=device)
    barycentric = torch.zeros(*shape, 3, device=device)
    depth = torch.full(shape, float("inf"), device=device)
    triangles = screen_triangles(clip.detach(), faces)
    if not len(triangles.face):
        return face, barycentric, depth
    snapped = snap(triangles.corners, size)
    positions = snapped.int().reshape(-1, 6).contiguous()
    inverse_w = 1.0 / triangles.corners[..., 3]
    zw = torch.cat([triangles.corners[..., 2] * inverse_w, inverse_w], dim=1).contiguous()
    weights = triangles.corners[..., 4:].reshape(-1, 9).contiguous()
    owner, picture = triangles.face.int(), triangles.picture.int()
    task_triangle, task_tile, box = _tasks(snapped, size)
    keys = torch.full(shape, EMPTY, dtype=torch.int64, device=device)
    front = (owner, zw) if behind is None else (behind[0].contiguous(), behind[1].contiguous())
    with on_device(device):
        if len(task_triangle):
            draw_kernel[(len(task_triangle),)](
                positions, zw, owner, picture, task_triangle, task_tile, box, *front, keys, size[0], size[1],
                PEEL=behind is not None, TILE=TILE, SUBPIXEL=SUBPIXEL, num_warps=1,
            )  # fmt: skip
        resolve_kernel[(triton.cdiv(keys.numel(), BLOCK),)](
            positions, zw, weights, owner, keys, face, barycentric, depth, keys.numel(), size[1], size[0],
            EMPTY=EMPTY, BLOCK=BLOCK, SUBPIXEL=SUBPIXEL,
        )  # fmt: skip
    return face, barycentric, depth


def _tasks(snapped: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pairs (triangle int32 [N], tile int32 [N]) and boxes int32 [T, 3] of snapped int64 [T, 3, 2]."""
    half = SUBPIXEL // 2
    limit = torch.tensor([size[1], size[0]], device=snapped.device)
    low = ((snapped.amin(1) + half - 1) // SUBPIXEL).clamp(min=0)
    high = torch.minimum((snapped.amax(1) - half) // SUBPIXEL, limit - 1)
    tiles = ((high - low + TILE) // TILE).clamp(min=0)
    count = tiles.prod(1) * (high >= low).all(1)
    triangle = torch.repeat_interleave(torch.arange(len(snapped), device=snapped.device), count)
    tile = torch.arange(len(triangle), device=snapped.device) - (count.cumsum(0) - count)[triangle]
    return triangle.int(), tile.int(), torch.cat([low, tiles[:, :1]], dim=1).int().contiguous()
