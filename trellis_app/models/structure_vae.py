"""Stage 1 autoencoder: dense occupancy <-> structure latent (`SparseStructureEncoder`, `SparseStructureDecoder`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from trellis_app.models.layers import convert_torso, full_precision, working_dtype


@dataclass(frozen=True)
class StructureParams:
    """What encoder and decoder share; `channels` runs from the input side to the output side."""

    latent_channels: int
    num_res_blocks: int
    channels: tuple[int, ...]
    num_res_blocks_middle: int = 2
    norm_type: str = "layer"
    use_fp16: bool = False

    def __post_init__(self) -> None:
        if self.norm_type != "layer":
            raise ValueError(f"norm_type is {self.norm_type!r}, only 'layer' is supported")

    @property
    def torso_dtype(self) -> torch.dtype:
        return torch.float16 if self.use_fp16 else torch.float32


@dataclass(frozen=True)
class StructureEncoderParams(StructureParams):
    in_channels: int = 1


@dataclass(frozen=True)
class StructureDecoderParams(StructureParams):
    out_channels: int = 1


@dataclass(frozen=True, eq=False)
class StructurePosterior:
    """Diagonal Gaussian of the structure latent."""

    mean: torch.Tensor  # float32 [B, C, R, R, R]
    logvar: torch.Tensor  # float32 [B, C, R, R, R]

    def sample(self, generator: torch.Generator | None = None) -> torch.Tensor:
        """mean + exp(logvar / 2) * noise."""
        mean = self.mean
        noise = torch.randn(mean.shape, dtype=mean.dtype, device=mean.device, generator=generator)
        return mean + torch.exp(0.5 * self.logvar) * noise


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of [B, C, R, R, R] at each cell, in float32 and cast back."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = F.layer_norm(x.movedim(1, -1).float(), self.normalized_shape, self.weight, self.bias, self.eps)
        return normed.to(x.dtype).movedim(-1, 1)


class ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels)
        self.norm2 = ChannelNorm(channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class UpsampleBlock(nn.Module):
    """Convolution to 8 times the channels: channel c * 8 + dx * 4 + dy * 2 + dz becomes c of a finer cell."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, out_channels * 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv(x).unflatten(1, (-1, 2, 2, 2))  # [B, c, dx, dy, dz, X, Y, Z]
        return h.permute(0, 1, 5, 2, 6, 3, 7, 4).flatten(6, 7).flatten(4, 5).flatten(2, 3)


class DownsampleBlock(nn.Module):
    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, out_channels, 2, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def _levels(params: StructureParams, change: type[UpsampleBlock] | type[DownsampleBlock]) -> nn.ModuleList:
    blocks = nn.ModuleList()
    for level, width in enumerate(params.channels):
        blocks.extend(ResidualBlock(width) for _ in range(params.num_res_blocks))
        if level + 1 < len(params.channels):
            blocks.append(change(width, params.channels[level + 1]))
    return blocks


def _middle(params: StructureParams, width: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(width) for _ in range(params.num_res_blocks_middle)))


def _output(width: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(ChannelNorm(width), nn.SiLU(), nn.Conv3d(width, out_channels, 3, padding=1))


class StructureTorso(nn.Module):
    """First layer float32, torso in the set precision, output layer float32."""

    input_layer: nn.Conv3d
    middle_block: nn.Sequential
    blocks: nn.ModuleList
    out_layer: nn.Sequential

    def __init__(self) -> None:
        super().__init__()
        self.torso_dtype = torch.float32

    def set_precision(self, dtype: torch.dtype) -> None:
        """Run the residual blocks in `dtype`; norms, first and last layer stay float32."""
        convert_torso(self.blocks, dtype)
        convert_torso(self.middle_block, dtype)
        self.torso_dtype = dtype

    def _enter(self, x: torch.Tensor) -> torch.Tensor:
        with full_precision(x):
            return self.input_layer(x.float()).to(working_dtype(x, self.torso_dtype))

    def _leave(self, h: torch.Tensor) -> torch.Tensor:
        with full_precision(h):
            return self.out_layer(h.float())


class StructureEncoder(StructureTorso):
    """Occupancy to the Gaussian of its latent, at 1 / 2^(levels - 1) of the side."""

    def __init__(self, params: StructureEncoderParams) -> None:
        super().__init__()
        self.params = params
        self.input_layer = nn.Conv3d(params.in_channels, params.channels[0], 3, padding=1)
        self.blocks = _levels(params, DownsampleBlock)
        self.middle_block = _middle(params, params.channels[-1])
        self.out_layer = _output(params.channels[-1], 2 * params.latent_channels)

    def forward(self, x: torch.Tensor) -> StructurePosterior:
        """Occupancy [B, in_channels, R, R, R], 0 or 1."""
        h = self._enter(x)
        for block in self.blocks:
            h = block(h)
        mean, logvar = self._leave(self.middle_block(h)).chunk(2, dim=1)
        return StructurePosterior(mean, logvar)


class StructureDecoder(StructureTorso):
    """A latent to occupancy logits, at 2^(levels - 1) times the side."""

    def __init__(self, params: StructureDecoderParams) -> None:
        super().__init__()
        self.params = params
        self.input_layer = nn.Conv3d(params.latent_channels, params.channels[0], 3, padding=1)
        self.middle_block = _middle(params, params.channels[0])
        self.blocks = _levels(params, UpsampleBlock)
        self.out_layer = _output(params.channels[-1], params.out_channels)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """[B, latent_channels, R, R, R] -> float32 logits [B, out_channels, R', R', R']; occupied where > 0."""
        h = self.middle_block(self._enter(z))
        for block in self.blocks:
            h = block(h)
        return self._leave(h)
