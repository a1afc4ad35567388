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
BLOCK = 64  # rows of a task: they share each slice of the weights while it is in the cache
RUN = 8192
MASK_BITS = 31


@intrinsic
def convolve_tile(typing, sums, rows, weights, entries, channels, stride):
    """sums[r, :] = sum over entries e and channels c of row_er[c] * weight_e[c, :], ROWS rows and LANES columns.

    The arguments but the two counts are addresses. sums: fp32 [ROWS, LANES]; rows: int64 [entries, ROWS] addresses of
    fp32 rows; weights: int64 [entries] addresses of fp32 rows `stride` bytes apart.
    """
    vector, scalar, word = ir.VectorType(ir.FloatType(), LANES), ir.FloatType(), ir.IntType(64)
    undefined, lanes = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)

    def generate(context, builder, signature, arguments):
        sums, rows, weights, entries, channels, stride = arguments

        def number(value):
            return ir.Constant(word, value)

        def load(address, kind, offset):
            return builder.load(builder.inttoptr(builder.add(address, offset), kind.as_pointer()), align=4)

        totals = [cgutils.alloca_once(builder, vector) for _ in range(ROWS)]  # promoted to registers
        for total in totals:
            builder.store(ir.Constant(vector, [0.0] * LANES), total)
        with cgutils.for_range(builder, entries, intp=word) as entry:
            base = builder.mul(entry.index, number(8 * ROWS))
            sources = [load(rows, word, builder.add(base, number(8 * r))) for r in range(ROWS)]
            slice_ = load(weights, word, builder.mul(entry.index, number(8)))
            with cgutils.for_range(builder, channels, intp=word) as channel:
                weight = load(slice_, vector, builder.mul(channel.index, stride))
                for source, total in zip(sources, totals, strict=True):
                    value = load(source, scalar, builder.mul(channel.index, number(4)))
                    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
                    product = builder.fmul(builder.shuffle_vector(first, undefined, lanes), weight, flags=["contract"])
                    builder.store(builder.fadd(product, builder.load(total), flags=["contract"]), total)
        for r, total in enumerate(totals):
            place = builder.inttoptr(builder.add(sums, number(4 * LANES * r)), vector.as_pointer())
            builder.store(builder.load(total), place, align=4)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 6), generate


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
def convolve(feats, nothing, weights, bias, neighbours, order, out):
    """feats [N, Ci], zeros [Ci], weights [V, Ci, Co padded to LANES], bias [Co], neighbours [M, V], order [M] -> out.

    What is addressed is an argument or used again after the call: numba frees an array at its last use by name.
    """
    count, inputs = out.shape[0], feats.shape[1]
    outputs, padded, volume = out.shape[1], weights.shape[2], neighbours.shape[1]
    at_feats, at_weights, at_nothing = feats.ctypes.data, weights.ctypes.data, nothing.ctypes.data
    for block in prange((count + BLOCK - 1) // BLOCK):
        begin, size = block * BLOCK, min(BLOCK, count - block * BLOCK)
        groups = (size + ROWS - 1) // ROWS
        rows = np.full((groups, volume, ROWS), at_nothing, np.int64)
        offsets = np.empty((groups, volume), np.int64)
        entries = np.zeros(groups, np.int64)
        for g in range(groups):
            for v in range(volume):
                found = False
                for r in range(g * ROWS, min(size, (g + 1) * ROWS)):
                    neighbour = neighbours[order[begin + r], v]
                    if neighbour >= 0:
                        rows[g, entries[g], r - g * ROWS] = at_feats + np.int64(neighbour) * inputs * 4
                        found = True
                if found:
                    offsets[g, entries[g]] = at_weights + v * inputs * padded * 4
                    entries[g] += 1
        sums = np.empty((ROWS, LANES), np.float32)
        for column in range(0, padded, LANES):
            for g in range(groups):
                at_rows, at_offsets = rows[g].ctypes.data, offsets[g].ctypes.data
                convolve_tile(sums.ctypes.data, at_rows, at_offsets, entries[g], inputs, 4 * padded)  # type: ignore
                for r in range(g * ROWS, min(size, (g + 1) * ROWS)):
                    row = order[begin + r]
                    for c in range(min(LANES, outputs - column)):
                        out[row, column + c] = sums[r - g * ROWS, c] + bias[column + c]
                for e in range(entries[g]):
                    offsets[g, e] += LANES * 4


def forward(feats: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor | None, plan: ConvPlan) -> torch.Tensor:
    """fp32 feats [N, Ci], weights [V, Ci, Co], bias [Co] -> [rows of the plan, Co]; contiguous."""
    outputs = weights.shape[2]
    padded = torch.nn.functional.pad(weights, (0, -outputs % LANES)).contiguous()
    added = feats.new_zeros(outputs) if bias is None else bias.contiguous()
    out = feats.new_empty((plan.neighbours.shape[0], outputs))
    nothing = feats.new_zeros(feats.shape[1])
    tensors = (feats, nothing, padded, added, plan.neighbours.contiguous(), plan.local_order, out)
    convolve(*(tensor.detach().numpy() for tensor in tensors))
    return out
