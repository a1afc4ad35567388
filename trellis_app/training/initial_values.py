"""Initial values of the sparse U-nets, so that training starts from something that already carries its input.

The skip path of a U-net averages neighbouring channels on the way down and repeats them on the way up, so it carries
about one number a voxel; what else an attribute needs must pass the residual branches. `pass_through` lets these begin
as a nearly linear pass: a fresh autoencoder returns each latent voxel's mean attributes.

    lane    an attribute v on the channel pair (v, -v). Averaging cancels it on the skip path, repeating leaves the
            difference of the pair alone, and silu(x) - silu(-x) = x, so it passes norm and activation undistorted.
    carrier a constant on the first pair of every four, far larger than the attributes: each layer norm then divides all
            lanes by nearly the same number, and sums over 1 to 8 children keep their ratio to it: they become means.

Halving computes the lanes of each child in the first convolution and adds them up in the second; doubling hands the
parent's lanes to every child. Everything off the lanes starts small and random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from trellis_app.models.sparse_unet import ConvNeXtBlock, DownBlock, SparseDecoder, SparseEncoder, UpBlock
from trellis_app.sparse.layers import SparseConv3d
from trellis_app.sparse.tensor import SparseTensor

LANES = 6  # attributes of a voxel
CARRIER_ENERGY = 32.0  # sum of squares of the carrier over its pairs, where an attribute's is 0 to 1
CHILD_CARRIER = 40.0  # the carrier beside a child's lanes between the two convolutions of a halving
SHRINK = 0.25  # scale of the first norm of a resampling: silu is nearly linear there
NOISE = 0.03  # random weights off the lanes, relative to open branches
RESIDUAL = 1.5  # doubling: size of the branch relative to the skip path
LOUD = 8.0  # size of everything between blocks: norms undo it, and steps of an optimiser weigh less beside it
LATENT_GAIN = 2.0  # latent of an attribute of 1
SURFACE_NEIGHBOURS = 9  # of 27 that exist on a surface, about
CELL = 16  # fine voxels along a latent voxel
CELLS = 256  # cells of the probe


def initialise(networks: nn.ModuleDict, logvar: float) -> None:
    """Fresh values for encoders and decoders by role; a material autoencoder that is wide enough passes through."""
    open_branches(networks)
    if "material_encoder" in networks:
        encoder, decoder = networks["material_encoder"], networks["material_decoder"]
        if (
            isinstance(encoder, SparseEncoder)
            and isinstance(decoder, SparseDecoder)
            and can_pass_through(encoder.params.model_channels)
        ):
            pass_through(encoder, decoder)
    for role, network in networks.items():
        if role.endswith("_encoder"):
            start_sharp(network, logvar)


def open_branches(networks: nn.Module) -> None:
    """Fresh values for the second convolution of every up and down block, which the models leave at zero.

    With both branches of a level closed nothing but the skip path has a gradient on either side.
    """
    for block in networks.modules():
        if isinstance(block, (UpBlock, DownBlock)):
            nn.init.normal_(block.conv2.weight, std=_branch_std(block.conv2))


@torch.no_grad()
def start_sharp(encoder: nn.Module, logvar: float) -> None:
    """Let a fresh encoder's posterior begin with this log variance."""
    bias = encoder.get_parameter("to_latent.bias" if isinstance(encoder, SparseEncoder) else "out_layer.2.bias")
    bias[len(bias) // 2 :] += logvar


def can_pass_through(widths: Sequence[int]) -> bool:
    """Whether every level of a U-net (finest first) has room for lanes and carrier, and averages whole pairs."""
    room = widths[0] >= 2 * LANES + 4 and all(width % (8 * (LANES + 2)) == 0 for width in widths[1:])
    return room and all(coarse <= 4 * fine for fine, coarse in pairwise(widths))


@torch.no_grad()
def pass_through(encoder: SparseEncoder, decoder: SparseDecoder) -> None:
    """Overwrite fresh values so that decoder(encoder(x)) is about the mean of x over each latent voxel.

    Args:
        encoder: of LANES input channels, with widths that `can_pass_through`.
        decoder: its mirror image; the first LANES outputs become the attributes.

    Raises ValueError for other widths.
    """
    widths = encoder.params.model_channels
    if not can_pass_through(widths) or decoder.params.model_channels[::-1] != widths:
        raise ValueError(f"widths {widths} and {decoder.params.model_channels} cannot pass {LANES} attributes through")
    for network in (encoder, decoder):
        for block in network.modules():
            if isinstance(block, ConvNeXtBlock):
                cast(nn.Linear, block.mlp[2]).weight.mul_(NOISE)
                nn.init.normal_(block.conv.weight, std=_branch_std(block.conv))
                nn.init.zeros_(block.conv.bias)
            elif isinstance(block, DownBlock):
                _open_down(block)
            elif isinstance(block, UpBlock):
                _open_up(block)
    _open_ends(encoder, decoder)
    _fit_ends(encoder, decoder)


def lane_layout(channels: int) -> torch.Tensor:
    """float32 [channels, 1 + LANES]: what the carrier (column 0) and each attribute write into the channels.

    Carriers lie on every fourth pair, so each child of a doubling meets the same on its skip path.
    """
    order = sorted(range(channels // 2), key=lambda pair: (pair % 4, pair // 4))
    carriers = [pair for pair in order if pair % 4 == 0]
    free = order[len(carriers) :][:LANES]
    layout = torch.zeros(channels // 2, 2, 1 + LANES)
    layout[carriers, 0, 0] = (CARRIER_ENERGY / len(carriers)) ** 0.5
    layout[free, 0, torch.arange(1, 1 + len(free))] = 1.0
    layout[:, 1] = -layout[:, 0]
    return layout.flatten(0, 1)


def _branch_std(conv: SparseConv3d) -> float:
    return float(0.7 / (SURFACE_NEIGHBOURS * conv.weight.shape[-1]) ** 0.5)


def _quieten(conv: SparseConv3d, silent: torch.Tensor, noise: float = NOISE) -> torch.Tensor:
    """Small random weights, none in the `silent` rows (bool [Co]); returns the centre tap [Co, Ci] to write to."""
    nn.init.normal_(conv.weight, std=noise * _branch_std(conv))
    nn.init.zeros_(conv.bias)
    conv.weight[silent] = 0
    return conv.weight[:, 1, 1, 1, :]


def _used(layout: torch.Tensor) -> torch.Tensor:
    return layout.abs().sum(1) > 0


def _open_down(block: DownBlock) -> None:
    """Sums of the children's lanes.

    Between the convolutions a child has one channel an attribute and the carrier twice, with opposite signs. The norm
    there subtracts the mean over 8 children of all channels, so each sum loses 1/k of the sum of all; undone here.
    """
    width, out = block.conv1.weight.shape[-1], block.conv2.weight.shape[0]
    k = out // 8
    source, target = lane_layout(width), lane_layout(out)
    read = torch.linalg.pinv(source)
    block.norm1.weight.fill_(SHRINK)
    lanes = torch.cat([CHILD_CARRIER * read[:1], -CHILD_CARRIER * read[:1], read[1:]])
    nothing = torch.zeros(k, dtype=torch.bool)
    _quieten(block.conv1, nothing, 0.1 * NOISE)[: len(lanes)] += 2 / SHRINK * lanes  # silu has slope 1/2 at 0
    unmixed = torch.linalg.inv(torch.eye(LANES) - torch.ones(LANES, LANES) / k)
    sums = torch.zeros(out, 8, k)
    sums[:, :, 0] = target[:, :1] / (2 * CHILD_CARRIER)
    sums[:, :, 1] = -sums[:, :, 0]
    sums[:, :, 2 : 2 + LANES] = (target[:, 1:] @ unmixed)[:, None]
    centre = _quieten(block.conv2, _used(target))
    centre += LOUD * CHILD_CARRIER / 16 * sums.flatten(1)


def _open_up(block: UpBlock) -> None:
    """The parent's lanes for every child; the skip path's carrier, which is a constant, is taken off again."""
    width, out = block.conv1.weight.shape[-1], block.conv2.weight.shape[0]
    source, target = lane_layout(width), lane_layout(out)
    block.norm1.weight.fill_(SHRINK)
    centre = _quieten(block.conv1, _used(target).repeat(8))
    centre += 2 / SHRINK * (target @ torch.linalg.pinv(source)).repeat(8, 1)
    size = LOUD * RESIDUAL * (2 * (CARRIER_ENERGY + 2) / out) ** 0.5
    centre = _quieten(block.conv2, _used(target))
    centre += 2 * size * target @ torch.linalg.pinv(target)
    skip = source[:, 0].view(8, -1).repeat_interleave(8 * out // width, dim=1)
    block.conv2.bias.sub_(LOUD * RESIDUAL * skip.mean(0))


def _open_ends(encoder: SparseEncoder, decoder: SparseDecoder) -> None:
    fine, coarse = lane_layout(len(encoder.input_layer.weight)), lane_layout(len(decoder.from_latent.weight))
    encoder.input_layer.weight.copy_(LOUD * fine[:, 1:])
    encoder.input_layer.bias.copy_(LOUD * fine[:, 0])
    weight = decoder.from_latent.weight
    nn.init.normal_(weight, std=0.5 / weight.shape[1] ** 0.5)
    weight[_used(coarse)] = 0
    weight[:, :LANES] = LOUD / LATENT_GAIN * coarse[:, 1:]
    decoder.from_latent.bias.copy_(LOUD * coarse[:, 0])
    half = len(encoder.to_latent.weight) // 2
    nn.init.normal_(encoder.to_latent.weight, std=0.5 / encoder.to_latent.weight.shape[1] ** 0.5)
    encoder.to_latent.weight[half:] *= 0.1
    nn.init.normal_(decoder.output_layer.weight, std=0.01)


def _fit_ends(encoder: SparseEncoder, decoder: SparseDecoder) -> None:
    """Scale and offset of the lanes in the first latents and in the output, by least squares on a probe."""
    coords, values = _probe()
    item = coords[:, 0].long()
    means = torch.zeros(CELLS, LANES).index_add_(0, item, values) / torch.bincount(item)[:, None]
    x = SparseTensor(values, coords)
    rows = _inputs_of(encoder.to_latent, lambda: encoder(x))
    _fit_rows(encoder.to_latent, rows, LATENT_GAIN * means)
    latent = encoder(x).mean
    rows = _inputs_of(decoder.output_layer, lambda: decoder(latent))
    _fit_rows(decoder.output_layer, rows, means[item])


def _probe() -> tuple[torch.Tensor, torch.Tensor]:
    """Coords int32 [M, 4] of tilted planes, one item a latent voxel, and their attributes [M, LANES] in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    cells = torch.cartesian_prod(*[torch.arange(CELL)] * 3)
    planes = []
    for index in range(CELLS):
        normal = F.normalize(torch.randn(3, generator=generator), dim=0)
        distance = (cells - (CELL - 1) / 2 + 3 * torch.randn(3, generator=generator)) @ normal
        rows = cells[distance.abs() < 0.6]
        planes.append(torch.cat([torch.full((len(rows), 1), index), rows], dim=1))
    coords = torch.cat(planes).int()
    item = coords[:, 0].long()
    centres = 2 * torch.rand(CELLS, LANES, generator=generator) - 1
    slopes = 0.3 * torch.randn(CELLS, 3, LANES, generator=generator)
    offset = (coords[:, 1:] - (CELL - 1) / 2) / (CELL / 2)
    values = centres[item] + torch.einsum("mi,mil->ml", offset, slopes[item])
    return coords, values.clamp(-1, 1)


def _inputs_of(layer: nn.Linear, run: Callable[[], object]) -> torch.Tensor:
    """What `layer` is given while `run` runs."""
    seen: list[torch.Tensor] = []
    with layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        run()
    return seen[0]


def _fit_rows(layer: nn.Linear, rows: torch.Tensor, target: torch.Tensor) -> None:
    """Let the first LANES outputs be gain * lane + offset, the closest to the target [N, LANES]."""
    read = torch.linalg.pinv(lane_layout(rows.shape[1]))[1:]
    lanes = rows @ read.T
    centred = lanes - lanes.mean(0)
    gain = (centred * (target - target.mean(0))).sum(0) / centred.square().sum(0)
    layer.weight[:LANES] = gain[:, None] * read
    layer.bias[:LANES] = target.mean(0) - gain * lanes.mean(0)
