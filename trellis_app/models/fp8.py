"""Optional precision "fp8": the large linear layers of a flow's blocks in 8-bit floats (e4m3), on GPUs that have them.

Weights carry one factor for each output, activations one for each row, found anew in every pass; products are summed in
float32. Keys and values of the picture, computed once an asset, stay as they are.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from trellis_kernels.row_ops.op import quantise_gelu, quantise_rows
from trellis_kernels.row_ops.reference import Fp8Rows

from trellis_app.errors import MachineError
from trellis_app.models.flow_transformer import FlowBlock, FlowTransformer
from trellis_app.sparse.rowwise import FP8

LAYERS = ("self_attn.to_qkv", "self_attn.to_out", "cross_attn.to_q", "cross_attn.to_out", "mlp.mlp.0", "mlp.mlp.2")
CAPABILITY = (8, 9)  # the first GPUs with such products: Ada


class Fp8Linear(nn.Module):
    """A linear layer whose weight and input are rounded to 8-bit floats."""

    def __init__(self, layer: nn.Linear, device: torch.device) -> None:
        """device: where the rounding is done; the new weights lie where the old ones do."""
        super().__init__()
        home = layer.weight.device
        weight, factor = quantise_rows(layer.weight.detach().to(device))
        self.weight = nn.Parameter(weight.to(home), requires_grad=False)  # e4m3 [Co, Ci]
        self.factor = nn.Parameter(factor.T.contiguous().to(home), requires_grad=False)  # float32 [1, Co]
        self.bias = layer.bias

    def forward(self, x: torch.Tensor | Fp8Rows) -> torch.Tensor:
        """[N, Ci] -> [N, Co] in the dtype of the bias; also where no GPU multiplies such numbers, for tests."""
        rows, factor = x if isinstance(x, Fp8Rows) else quantise_rows(x)
        if not rows.is_cuda:
            product = (rows.float() * factor) @ (self.weight.float().T * self.factor)
            return (product + self.bias.float()).to(self.bias.dtype)
        return torch._scaled_mm(
            rows, self.weight.t(), scale_a=factor, scale_b=self.factor, bias=self.bias, out_dtype=self.bias.dtype,
            use_fast_accum=True,
        )  # fmt: skip


class Fp8Gelu(nn.Module):
    """GELU (tanh form) whose result is rounded for the next layer as it is made."""

    def forward(self, x: torch.Tensor) -> Fp8Rows:
        """[N, C] -> [N, C]."""
        return quantise_gelu(x)


def saved_bytes(flow: FlowTransformer) -> int:
    """What the weights of a flow take less than in its own precision."""
    layers = [cast(nn.Linear, block.get_submodule(path)) for block in flow.blocks for path in LAYERS]
    factor = torch.float32.itemsize
    return sum(x.weight.numel() * (x.weight.element_size() - 1) - x.out_features * factor for x in layers)


def check_fp8(device: torch.device) -> None:
    """Raises MachineError where the device does not multiply 8-bit floats."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < CAPABILITY:
        raise MachineError(
            "The precision fp8 needs an NVIDIA GPU of the Ada generation or newer.", "Choose the precision bf16."
        )


def use_fp8(flow: FlowTransformer, device: torch.device) -> bool:
    """Replace the large linear layers of every block; False where that was done before."""
    blocks = [cast(FlowBlock, block) for block in flow.blocks]
    if isinstance(blocks[0].self_attn.to_qkv, Fp8Linear):
        return False
    with torch.inference_mode(False), torch.no_grad():  # as weights are made: they are moved outside of inference too
        for block in blocks:
            for path in LAYERS:
                parent, name = path.rsplit(".", 1)
                holder = block.get_submodule(parent)
                setattr(holder, name, Fp8Linear(getattr(holder, name), device))
            block.mlp.mlp[1] = Fp8Gelu()
            block.row_ops = FP8
    flow.recordings.clear()  # they read the weights that were just freed
    return True
