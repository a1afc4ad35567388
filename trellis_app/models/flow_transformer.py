"""The diffusion transformer that all three stages share: rows in, velocities out.

    rows ─ input_layer ─▶ [ modulated self-attention ▶ cross-attention to picture ▶ modulated MLP ] x n ─ out_layer ─▶

Rows of all batch items are packed behind each other; positions enter only through rotary phases.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from trellis_kernels.attention.op import attend
from trellis_kernels.choice import TORCH
from trellis_kernels.row_ops.op import Normed

from trellis_app.models.condition import BlockMemory, ConditionMemory
from trellis_app.models.layers import DTYPES, convert_torso, full_precision, working_dtype
from trellis_app.models.recording import FlowInputs, Recordings, worth_recording
from trellis_app.sparse.layers import LayerNorm32
from trellis_app.sparse.packing import Packing
from trellis_app.sparse.rowwise import AUTOMATIC, REFERENCE, RowOps, use_row_ops

TIME_CHANNELS = 256
NORM_EPS = 1e-6
PE_MODES = ("rope", "rope+linear")  # the second also adds a linear map of the phases to the rows (mini bundle)


@dataclass(frozen=True)
class FlowParams:
    """Constructor arguments of a flow transformer, named as in the checkpoints' JSON."""

    resolution: int
    in_channels: int
    model_channels: int
    cond_channels: int
    out_channels: int
    num_blocks: int
    num_heads: int | None = None
    num_head_channels: int = 64
    mlp_ratio: float = 4.0
    pe_mode: str = "rope"
    rope_freq: tuple[float, float] = (1.0, 10000.0)
    dtype: str = "float32"
    share_mod: bool = True
    qk_rms_norm: bool = True
    qk_rms_norm_cross: bool = True

    def __post_init__(self) -> None:
        if self.pe_mode not in PE_MODES or not (self.share_mod and self.qk_rms_norm and self.qk_rms_norm_cross):
            raise ValueError(
                f"pe_mode {self.pe_mode!r}, share_mod {self.share_mod}, qk_rms_norm {self.qk_rms_norm}, "
                f"qk_rms_norm_cross {self.qk_rms_norm_cross}: only {' or '.join(PE_MODES)} and three times true works"
            )
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}, expected one of {', '.join(DTYPES)}")
        if self.model_channels % self.heads or self.head_dim % 2:
            raise ValueError(f"{self.model_channels} channels do not split into {self.heads} heads of even width")

    @property
    def heads(self) -> int:
        return self.num_heads or self.model_channels // self.num_head_channels

    @property
    def head_dim(self) -> int:
        return self.model_channels // self.heads

    @property
    def torso_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]


class HeadGain(nn.Module):
    """The learned gain of each head's normed vectors."""

    def __init__(self, params: FlowParams) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(params.heads, params.head_dim))


class SelfAttention(nn.Module):
    row_ops: RowOps = AUTOMATIC
    attention = "auto"  # implementation of trellis_kernels/attention

    def __init__(self, params: FlowParams) -> None:
        super().__init__()
        width = params.model_channels
        self.heads = params.heads
        self.to_qkv = nn.Linear(width, 3 * width)
        self.q_rms_norm = HeadGain(params)
        self.k_rms_norm = HeadGain(params)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Normed, packing: Packing, phases: torch.Tensor) -> torch.Tensor:
        qkv = self.to_qkv(x).unflatten(1, (3, self.heads, -1))
        gamma = torch.stack([self.q_rms_norm.gamma, self.k_rms_norm.gamma])
        q, k = self.row_ops.norm_rotate(qkv[:, :2], gamma, phases).unbind(1)
        attended = attend(q, k, qkv[:, 2], packing, packing, implementation=self.attention)
        return self.to_out(attended.flatten(1))


class CrossAttention(nn.Module):
    row_ops: RowOps = AUTOMATIC
    attention = "auto"

    def __init__(self, params: FlowParams) -> None:
        super().__init__()
        width = params.model_channels
        self.heads = params.heads
        self.to_q = nn.Linear(width, width)
        self.to_kv = nn.Linear(params.cond_channels, 2 * width)
        self.q_rms_norm = HeadGain(params)
        self.k_rms_norm = HeadGain(params)
        self.to_out = nn.Linear(width, width)

    def keys_and_values(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B * L, cond] -> keys and values [B * L, H, D]."""
        k, v = self.to_kv(tokens).unflatten(1, (2, self.heads, -1)).unbind(1)
        return self.row_ops.norm_heads(k, self.k_rms_norm.gamma), v.contiguous()  # the keys before the norm are let go

    def forward(self, x: Normed, packing: Packing, memory: BlockMemory) -> torch.Tensor:
        q = self.row_ops.norm_heads(self.to_q(x).unflatten(1, (self.heads, -1)), self.q_rms_norm.gamma)
        attended = attend(q, memory.keys, memory.values, packing, memory.packing, implementation=self.attention)
        return self.to_out(attended.flatten(1))


class FeedForward(nn.Module):
    row_ops: RowOps = AUTOMATIC

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))

    def forward(self, x: Normed) -> torch.Tensor:
        """[N, C] -> [N, C]."""
        first, gelu, second = self.mlp
        if isinstance(first, nn.Linear) and isinstance(x, torch.Tensor):
            return second(self.row_ops.linear_gelu(x, first.weight, first.bias))
        return second(gelu(first(x)))


class FlowBlock(nn.Module):
    row_ops: RowOps = AUTOMATIC

    def __init__(self, params: FlowParams) -> None:
        super().__init__()
        width = params.model_channels
        self.modulation = nn.Parameter(torch.empty(6 * width))
        self.norm2 = LayerNorm32(width, eps=NORM_EPS)
        self.self_attn = SelfAttention(params)
        self.cross_attn = CrossAttention(params)
        self.mlp = FeedForward(width, int(width * params.mlp_ratio))

    def forward(
        self, h: torch.Tensor, normed: Normed, modulation: torch.Tensor, following: torch.Tensor | None,
        packing: Packing, phases: torch.Tensor, memory: BlockMemory,
    ) -> tuple[torch.Tensor, Normed]:  # fmt: skip
        """Rows [N, C], as they are and as `enter` normed them -> the same for the next block.

        modulation: [n, 6, C] shift, 1 + scale, gate of the attention, then of the MLP; n rows serve all N.
        following: the next block's modulation; None after the last block, whose rows nothing norms.
        """
        ops = self.row_ops
        _, _, gate1, shift2, scale2, gate2 = modulation.unbind(1)
        attended = self.self_attn(normed, packing, phases)
        if memory.constant is None:
            h, normed = ops.gated_sum_norm(h, gate1, attended, self.norm2.weight, self.norm2.bias, NORM_EPS)
            update = self.cross_attn(normed, packing, memory)
            h, normed = ops.sum_modulated_norm(h, update, scale2, shift2, NORM_EPS)
        else:
            offset = packing.share(memory.constant)
            h, normed = ops.gated_sum_modulated_norm(h, gate1, attended, (scale2, shift2), NORM_EPS, offset)
        if following is None:
            h = ops.gated_sum(h, gate2, self.mlp(normed))
            return h, h
        return ops.gated_sum_modulated_norm(h, gate2, self.mlp(normed), (following[:, 1], following[:, 0]), NORM_EPS)

    def enter(self, h: torch.Tensor, modulation: torch.Tensor) -> Normed:
        """What the first block's attention sees of rows [N, C]; later blocks get it from the one before."""
        return self.row_ops.modulated_norm(h, modulation[:, 1], modulation[:, 0], NORM_EPS)


class TimeEmbedder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_CHANNELS, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """Times [B] (1000 x the flow time) -> [B, C]."""
        half = TIME_CHANNELS // 2
        speed = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
        angles = t.float()[:, None] * speed
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))


class FlowTransformer(nn.Module):
    """Base of the flow models: everything but how rows and positions come from the input."""

    plain = False  # True: no recordings, no shortcut, attention as torch chooses; to compare the fast path with

    def __init__(self, params: FlowParams) -> None:
        super().__init__()
        width = params.model_channels
        self.params = params
        self.torso_dtype = torch.float32
        self.recordings = Recordings()
        self.input_layer = nn.Linear(params.in_channels, width)
        self.t_embedder = TimeEmbedder(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(FlowBlock(params) for _ in range(params.num_blocks))
        self.out_layer = nn.Linear(width, params.out_channels)
        self.position_layer = nn.Linear(params.head_dim, width) if params.pe_mode == "rope+linear" else None
        self._initialise()

    def _initialise(self) -> None:
        """The "scaled" initial values of the released configurations."""
        width, depth = self.params.model_channels, self.params.num_blocks
        stds = {
            "input_layer.weight": 1 / math.sqrt(self.params.in_channels),
            "position_layer.weight": math.sqrt(2 / self.params.head_dim),
            "t_embedder.mlp.0.weight": 0.02,
            "t_embedder.mlp.2.weight": 0.02,
            "adaLN_modulation.1.weight": 0.0,
            "out_layer.weight": 0.0,
        }
        for name, parameter in self.named_parameters():
            if name.endswith(("gamma", "norm2.weight")):
                nn.init.ones_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name.endswith("modulation"):
                nn.init.normal_(parameter, std=1 / math.sqrt(width))
            elif name.endswith(("to_out.weight", "mlp.mlp.2.weight")):
                nn.init.normal_(parameter, std=1 / math.sqrt(5 * depth * width))
            else:
                nn.init.normal_(parameter, std=stds.get(name, math.sqrt(2 / (5 * width))))

    def set_precision(self, dtype: torch.dtype) -> None:
        """Run the linear layers of the blocks in `dtype`; all else stays float32."""
        convert_torso(self.blocks, dtype)
        self.torso_dtype = dtype

    def remember(self, tokens: torch.Tensor) -> ConditionMemory:
        """Keys and values of the condition tokens [B, L, cond_channels] for all blocks."""
        items, length = tokens.shape[:2]
        rows = tokens.flatten(0, 1).to(working_dtype(tokens, self.torso_dtype))
        pairs = [cast(FlowBlock, block).cross_attn.keys_and_values(rows) for block in self.blocks]
        keys, values = zip(*pairs, strict=True)
        constants = None
        if (
            length == 1 and tokens.is_cuda and not self.plain
        ):  # softmax over one key is 1; on a CPU this would change the order of sums
            attentions = [cast(FlowBlock, block).cross_attn for block in self.blocks]
            constants = tuple(a.to_out(v.flatten(1)) for a, v in zip(attentions, values, strict=True))
        return ConditionMemory(keys, values, Packing((length,) * items, tokens.device), constants)

    def modulations(self, shared: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """What modulates each block, [blocks, B, 6 C], from `shared` [B, 6 C], which the time made."""
        own = torch.stack([cast(FlowBlock, block).modulation for block in self.blocks])
        table = (own[:, None] + shared).to(dtype)
        table.unflatten(2, (6, -1))[:, :, 1::3] += 1  # the two scales
        return table

    def velocity_rows(
        self, rows: torch.Tensor, packing: Packing, phases: torch.Tensor, t: torch.Tensor,
        condition: torch.Tensor | ConditionMemory,
    ) -> torch.Tensor:  # fmt: skip
        """Packed rows [N, in_channels] at times t [B] -> float32 [N, out_channels]."""
        if not isinstance(condition, ConditionMemory):
            return self._velocity(FlowInputs(rows, packing, phases, t, self.remember(condition)))
        inputs = FlowInputs(rows, packing, phases, t, condition)
        if worth_recording(rows) and not self.plain:
            return self.recordings.run(self._velocity, inputs, self.input_layer.weight)
        return self._velocity(inputs)

    def _velocity(self, inputs: FlowInputs) -> torch.Tensor:
        rows, phases = inputs.rows, inputs.phases
        dtype = working_dtype(rows, self.torso_dtype)
        with full_precision(rows):
            h = self.input_layer(rows.float())
            if self.position_layer is not None:
                h = h + self.position_layer(phases.flatten(1))
            shared = self.adaLN_modulation(self.t_embedder(inputs.time))
        if dtype == self.torso_dtype:  # under autocast the residual stream stays float32
            h, shared = h.to(dtype), shared.to(dtype)
        h = self._through_blocks(h, shared, inputs)
        with full_precision(rows):
            h = F.layer_norm(h.float(), h.shape[-1:], eps=1e-5)
            return self.out_layer(h)

    def _through_blocks(self, h: torch.Tensor, shared: torch.Tensor, inputs: FlowInputs) -> torch.Tensor:
        packing, memory = inputs.packing, inputs.memory
        table = self.modulations(shared, memory.values[0].dtype)
        modulations = [packing.share(values).unflatten(1, (6, -1)) for values in table]
        blocks = [cast(FlowBlock, block) for block in self.blocks]
        normed = blocks[0].enter(h, modulations[0])
        parts = zip(blocks, modulations, [*modulations[1:], None], memory.blocks, strict=True)
        for block, modulation, following, part in parts:
            h, normed = block(h, normed, modulation, following, packing, inputs.phases, part)
        return h


@contextmanager
def plain_path(flow: FlowTransformer) -> Iterator[None]:
    """For the length of the block the flow computes step by step in plain torch, as the fast path is tested against."""
    flow.plain = True
    use_row_ops(flow, REFERENCE)
    use_attention(flow, TORCH)
    try:
        yield
    finally:
        flow.plain = False
        use_row_ops(flow, AUTOMATIC)
        use_attention(flow, "auto")


def use_attention(flow: FlowTransformer, implementation: str) -> None:
    """Make every attention of the flow run this implementation of trellis_kernels/attention."""
    for module in flow.modules():
        if isinstance(module, (SelfAttention, CrossAttention)):
            module.attention = implementation
