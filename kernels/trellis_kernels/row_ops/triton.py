"""Row arithmetic on the GPU: a sum, a layer norm and what follows it in one pass over the rows; head norm and rotation
in another."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from trellis_kernels.choice import on_device

TILE = 2048  # elements of a program of the row kernel, unless one row is longer
VECTORS = 8  # head vectors of a program, at most


@triton.jit(do_not_specialize=["count", "update_run", "gate_run", "offset_run", "scale_run"])
def row_kernel(
    x, update, gate, offset, scale, shift, total, out, factor, count, eps,
    update_run, update_stride, gate_run, gate_stride, offset_run, offset_stride, scale_run, scale_stride,
    C: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, ADD: tl.constexpr, GATED: tl.constexpr,
    SHIFTED: tl.constexpr, NORM: tl.constexpr, SCALED: tl.constexpr, SILU: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """x [N, C]: total = x + gate * update + offset; out = silu(norm(total) * scale + shift), where the flags are set.

    MOST above 0: out is float8 whose largest value in each row is MOST, and factor [N] what it is to be multiplied by.
    Row r of x takes row r // run of update, gate, offset, scale and shift, whose rows are `stride` elements apart.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < count) & (column < C)
    place = row * C + column
    h = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        u = tl.load(update + row // update_run * update_stride + column, mask=inside, other=0.0).to(tl.float32)
        if GATED:
            u *= tl.load(gate + row // gate_run * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
        if SHIFTED:
            u += tl.load(offset + row // offset_run * offset_stride + column, mask=inside, other=0.0).to(tl.float32)
        rounded = (h + u).to(total.dtype.element_ty)
        tl.store(total + place, rounded, mask=inside)
        h = rounded.to(tl.float32)
    if NORM:
        mean = tl.sum(h, axis=1)[:, None] / C
        h = tl.where(inside, h - mean, 0.0)
        h *= tl.rsqrt(tl.sum(h * h, axis=1)[:, None] / C + eps)
        if SCALED:
            at = row // scale_run * scale_stride + column
            h = h * tl.load(scale + at, mask=inside, other=0.0).to(tl.float32)
            h += tl.load(shift + at, mask=inside, other=0.0).to(tl.float32)
        if SILU:
            h = h.to(out.dtype.element_ty).to(tl.float32)
            h = h * tl.sigmoid(h)
        if MOST > 0:
            step = tl.maximum(tl.max(tl.abs(h), axis=1)[:, None], 1e-12) / MOST
            tl.store(factor + row, step, mask=row < count)
            h = tl.minimum(tl.maximum(h * (1.0 / step), -MOST), MOST)
        tl.store(out + place, h.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["count"])
def head_kernel(
    x, gamma, phases, out, count, stride, eps,
    HEADS: tl.constexpr, D: tl.constexpr, GROUP: tl.constexpr, TURN: tl.constexpr,
):  # fmt: skip
    """Vectors x [N, HEADS, D], rows `stride` apart: root mean square 1, times gamma [HEADS, D], turned by phases."""
    row = tl.program_id(0).to(tl.int64)
    vector = tl.program_id(1) * GROUP + tl.arange(0, GROUP)[:, None]
    place = vector * D + tl.arange(0, D)[None, :]
    h = tl.load(x + row * stride + place).to(tl.float32)
    h *= tl.rsqrt(tl.sum(h * h, axis=1)[:, None] / D + eps)
    h *= tl.load(gamma + place).to(tl.float32)
    if TURN:
        pair = tl.arange(0, D // 2)[None, :]
        cosine = tl.load(phases + row * D + 2 * pair)
        sine = tl.load(phases + row * D + 2 * pair + 1)
        real, imaginary = tl.split(tl.reshape(h, (GROUP, D // 2, 2)))
        turned = tl.join(real * cosine - imaginary * sine, real * sine + imaginary * cosine)
        h = tl.reshape(turned, (GROUP, D))
    tl.store(out + row * (HEADS * D) + place, h.to(out.dtype.element_ty))


@triton.jit(do_not_specialize=["count"])
def child_kernel(
    h, x, slots, out, count, C: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    """out [M, C] = h + the child's WIDTH / 8 channels of its parent in x [P, WIDTH], each for 8 C / WIDTH columns."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < count) & (column < C)
    begin = tl.load(slots + row, mask=row < count, other=0) * (WIDTH // 8)
    skip = tl.load(x + begin + column // (8 * C // WIDTH), mask=inside, other=0.0).to(tl.float32)
    total = tl.load(h + row * C + column, mask=inside, other=0.0).to(tl.float32) + skip
    tl.store(out + row * C + column, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def quantise_kernel(x, out, factor, C: tl.constexpr, BLOCK: tl.constexpr, MOST: tl.constexpr, GELU: tl.constexpr):
    """x [N, C] or its GELU (tanh form) -> out float8 [N, C], factor float32 [N]; one row a program."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    h = tl.load(x + row * C + column, mask=column < C, other=0.0).to(tl.float32)
    if GELU:
        h *= tl.sigmoid(1.5957691216057308 * (h + 0.044715 * h * h * h))  # (1 + tanh(z)) / 2 is sigmoid(2 z)
    step = tl.maximum(tl.max(tl.abs(h), axis=0), 1e-12) / MOST
    h = tl.minimum(tl.maximum(h * (1.0 / step), -MOST), MOST)
    tl.store(out + row * C + column, h.to(out.dtype.element_ty), mask=column < C)
    tl.store(factor + row, step)


@dataclass(frozen=True)
class RowTask:
    """What one launch of the row kernel does to x [N, C]; absent parts are None."""

    update: torch.Tensor | None = None  # [n, C]
    gate: torch.Tensor | None = None  # [n, C]
    offset: torch.Tensor | None = None  # [n, C], only beside an update
    scale: torch.Tensor | None = None  # [n, C] or [C]
    shift: torch.Tensor | None = None
    out_dtype: torch.dtype | None = None  # of the normed rows; None: no norm
    eps: float = 0.0
    silu: bool = False
    most: float = 0.0  # the largest value of normed rows in float8; 0: they are not


def steps(values: torch.Tensor | None, count: int) -> tuple[int, int]:
    """How many consecutive rows each row of `values` serves, and the elements between its rows."""
    if values is None or values.ndim == 1:
        return max(count, 1), 0
    return max(count // max(len(values), 1), 1), values.stride(0)


def run_rows(x: torch.Tensor, task: RowTask) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(sum in the dtype of x, normed rows, float32 [N, 1] factor of these); what was not asked for is x itself."""
    count, channels = x.shape
    total = torch.empty_like(x) if task.update is not None else x
    out = x if task.out_dtype is None else torch.empty_like(x, dtype=task.out_dtype)
    factor = torch.empty((count, 1), dtype=torch.float32, device=x.device) if task.most else x
    if count == 0:
        return total, out, factor
    block = triton.next_power_of_2(channels)
    rows = max(1, TILE // block)
    values = (task.update, task.gate, task.offset, task.scale)
    given = [x if part is None else part for part in (*values, task.shift)]
    with on_device(x.device):
        row_kernel[(triton.cdiv(count, rows),)](
            x, *given, total, out, factor, count, task.eps, *(n for part in values for n in steps(part, count)),
            C=channels, BLOCK=block, ROWS=rows, ADD=task.update is not None, GATED=task.gate is not None,
            SHIFTED=task.offset is not None, NORM=task.out_dtype is not None, SCALED=task.scale is not None,
            SILU=task.silu, MOST=task.most, num_warps=4,
        )  # fmt: skip
    return total, out, factor


def norm_heads(x: torch.Tensor, gamma: torch.Tensor, phases: torch.Tensor | None, eps: float) -> torch.Tensor:
    """x [N, ..., D] with contiguous rows, gamma of one row's shape, phases float32 [N, D / 2, 2] -> like x."""
    count, width = x.shape[0], x.shape[-1]
    heads = gamma.numel() // width
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    group = next(size for size in (VECTORS, 4, 2, 1) if heads % size == 0)
    if count:
        with on_device(x.device):
            head_kernel[(count, heads // group)](
                x, gamma, gamma if phases is None else phases, out, count, x.stride(0), eps,
                HEADS=heads, D=width, GROUP=group, TURN=phases is not None, num_warps=2,
            )  # fmt: skip
    return out


def add_parents(h: torch.Tensor, x: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """h [M, C], x [P, W], slots int64 [M] -> [M, C]."""
    out = torch.empty_like(h)
    block = triton.next_power_of_2(h.shape[1])
    rows = max(1, TILE // block)
    if h.shape[0]:
        with on_device(h.device):
            child_kernel[(triton.cdiv(h.shape[0], rows),)](
                h, x, slots, out, h.shape[0], C=h.shape[1], WIDTH=x.shape[1], BLOCK=block, ROWS=rows, num_warps=4
            )
    return out


def quantise_rows(x: torch.Tensor, most: float, *, gelu: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """x [N, C], or its GELU, -> float8 (e4m3) [N, C] and its factors float32 [N, 1]."""
    count, channels = x.shape
    out = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    factor = torch.empty((count, 1), dtype=torch.float32, device=x.device)
    if count:
        with on_device(x.device):
            quantise_kernel[(count,)](
                x, out, factor, C=channels, BLOCK=triton.next_power_of_2(channels), MOST=most, GELU=gelu,
                num_warps=8 if channels > 4096 else 4,
            )  # fmt: skip
    return out, factor
