"""Sparse convolution on the CPU, fp32: eight rows at a time against one kernel offset, absent neighbours skipped.

A tile of ROWS x LANES sums stays in registers while the input channels go by. Rows with like neighbourhoods are put
together, but only within runs of RUN rows, so that what is gathered stays in the cache. Sums are in a fixed order.
"""

import numpy as np
import torch
from llvmlite import binding, ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from trellis_kernels.sparse_conv.plan import ConvPlan

LANES = 16  # output channels of a tile: one 512-bit register, or two or four smaller ones
ROWS = 8 if binding.get_host_cpu_features().get("avx512f", False) else 4  # as many rows as the registers hold
BLOCK = 64  # rows of a task: they share each slice of the weights while it is in the first-level cache
RUN = 8192
MASK_BITS = 31


@intrinsic
def accumulate(typing, sums, rows, weights, channels, stride):
    """sums[r, :] += sum over c of row_r[c] * weights[c, :] for ROWS rows and LANES columns.

    The arguments are addresses. sums: fp32 [ROWS, LANES]; rows: int64 [ROWS] addresses of fp32 rows;
    weights: fp32 rows `stride` bytes apart.
    """
    vector, scalar, word = ir.VectorType(ir.FloatType(), LANES), ir.FloatType(), ir.IntType(64)
    undefined, lanes = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)

    def generate(context, builder, signature, arguments):
        sums, rows, weights, channels, stride = arguments

        def at(address, kind, offset=0):
            return builder.inttoptr(builder.add(address, ir.Constant(word, offset)), kind.as_pointer())

        totals = [cgutils.alloca_once(builder, vector) for _ in range(ROWS)]  # promoted to registers
        for r, total in enumerate(totals):
            builder.store(builder.load(at(sums, vector, 4 * LANES * r), align=4), total)
        sources = [builder.load(at(rows, word, 8 * r)) for r in range(ROWS)]
        with cgutils.for_range(builder, channels, intp=word) as loop:
            weight = builder.load(at(builder.add(weights, builder.mul(loop.index, stride)), vector), align=4)
            offset = builder.shl(loop.index, ir.Constant(word, 2))
            for source, total in zip(sources, totals, strict=True):
                value = builder.load(at(builder.add(source, offset), scalar))
                first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
                product = builder.fmul(builder.shuffle_vector(first, undefined, lanes), weight, flags=["contract"])
                builder.store(builder.fadd(product, builder.load(total), flags=["contract"]), total)
        for r, total in enumerate(totals):
            builder.store(builder.load(total), at(sums, vector, 4 * LANES * r), align=4)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp, types.intp), generate


@njit(cache=True, parallel=True)
def local_order(neighbours):
    """int32 [N, V] -> int32 [N]: rows of each run of RUN rows by the Gray code rank of their neighbour masks."""
    count = neighbours.shape[0]
    bits = min(neighbours.shape[1], MASK_BITS)
    order = np.empty(count, np.int32)
    for run in prange((count + RUN - 1) // RUN):
        begin, end = run * RUN, min(count, (run + 1) * RUN)
        code = np.empty(end - begin, np.int32)
        for i in range(begin, end):
            mask = np.int32(0)
            for v in range(bits):
                mask |= np.int32(neighbours[i, v] >= 0) << np.int32(v)
            for shift in (1, 2, 4, 8, 16):
                mask ^= mask >> shift
            code[i - begin] = mask
        order[begin:end] = np.argsort(code, kind="mergesort") + begin
    return order


@njit(cache=True, parallel=True)
def convolve(feats, weights, bias, neighbours, order, out):
    """feats [N, Ci], weights [V, Ci, Co padded to LANES], bias [Co], neighbours [N, V], order [N] -> out [N, Co]."""
    count, inputs = feats.shape
    outputs, padded, volume = out.shape[1], weights.shape[2], neighbours.shape[1]
    nothing = np.zeros(inputs, np.float32)
    at_feats, at_weights, at_nothing = feats.ctypes.data, weights.ctypes.data, nothing.ctypes.data
    for block in prange((count + BLOCK - 1) // BLOCK):
        begin, size = block * BLOCK, min(BLOCK, count - block * BLOCK)
        sums = np.empty((BLOCK, LANES), np.float32)
        sources = np.full((volume, BLOCK), at_nothing, np.int64)
        used = np.zeros((volume, BLOCK // ROWS), np.bool_)
        for r in range(size):
            row = order[begin + r]
            for v in range(volume):
                if neighbours[row, v] >= 0:
                    sources[v, r] = at_feats + np.int64(neighbours[row, v]) * inputs * 4
                    used[v, r // ROWS] = True
        at_sums, at_sources = sums.ctypes.data, sources.ctypes.data
        for column in range(0, padded, LANES):
            sums[:] = 0
            for v in range(volume):
                slice_ = at_weights + (v * inputs * padded + column) * 4
                for g in range(BLOCK // ROWS):
                    if used[v, g]:
                        rows = at_sources + (v * BLOCK + g * ROWS) * 8
                        accumulate(at_sums + g * ROWS * LANES * 4, rows, slice_, inputs, padded * 4)  # type: ignore[call-arg]
            for r in range(size):
                row = order[begin + r]
                for c in range(min(LANES, outputs - column)):
                    out[row, column + c] = sums[r, c] + bias[column + c]


def forward(feats: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor | None, plan: ConvPlan) -> torch.Tensor:
    """fp32 feats [N, Ci], weights [V, Ci, Co], bias [Co] -> [N, Co]; contiguous."""
    outputs = weights.shape[2]
    padded = torch.nn.functional.pad(weights, (0, -outputs % LANES)).contiguous()
    added = torch.zeros(outputs) if bias is None else bias
    out = torch.empty(feats.shape[0], outputs)
    tensors = (feats, padded, added.contiguous(), plan.neighbours, plan.local_order, out)
    convolve(*(tensor.detach().numpy() for tensor in tensors))
    return out
