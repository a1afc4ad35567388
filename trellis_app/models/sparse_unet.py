"""The sparse U-net autoencoder under the shape and the material VAE (`SparseUnetVaeEncoder`, `SparseUnetVaeDecoder`).

    encoder: voxels ─ input_layer ─▶ [ ConvNeXt blocks ▶ halve ] x 4 ▶ ConvNeXt blocks ─ to_latent ─▶ mean, logvar
    decoder: latent ─ from_latent ─▶ [ ConvNeXt blocks ▶ double ] x 4 ▶ ConvNeXt blocks ─ output_layer ─▶ voxels

Doubling needs to know which children exist. They come from the encoder's record where there is one (so training is
teacher-forced), else from the shape decoder's own prediction or, in the material decoder, from the shape decoder's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from trellis_app.models.layers import convert_torso, full_precision, working_dtype
from trellis_app.sparse.layers import LayerNorm32, NormSilu, SparseConv3d
from trellis_app.sparse.rowwise import AUTOMATIC, RowOps
from trellis_app.sparse.tensor import Children, SparseTensor, space_to_channel
from trellis_app.sparse.workspace import AMPLE, Workspace

_CONVNEXT, _UP, _DOWN = "SparseConvNeXtBlock3d", "SparseResBlockC2S3d", "SparseResBlockS2C3d"
_CPU_ROWS = 1 << 16  # rows of an MLP at once at inference on a CPU, whose cache they should fit
_MLP_COPIES = 2 * 4 + 2  # values of a row that an MLP holds at once, in widths of the row


def check_levels(channels: Sequence[int], num_blocks: Sequence[int], kinds: Sequence[str], allowed: str) -> None:
    """Raise ValueError where the lists of a U-net do not fit each other or name an unknown block."""
    if len(channels) != len(num_blocks):
        raise ValueError(f"model_channels has {len(channels)} levels, num_blocks {len(num_blocks)}")
    if unknown := set(kinds) - {allowed}:
        raise ValueError(f"unknown block {', '.join(sorted(unknown))}, expected {allowed}")
    for pair in pairwise(channels):
        wide, narrow = max(pair), min(pair)
        if wide % 8 or (8 * narrow) % wide:
            raise ValueError(f"neighbouring widths {wide} and {narrow}: the wider must be 8 n and divide 8 x the other")


@dataclass(frozen=True)
class EncoderParams:
    """Constructor arguments of an encoder, finest level first."""

    model_channels: tuple[int, ...]
    latent_channels: int
    num_blocks: tuple[int, ...]
    in_channels: int = 6
    block_type: tuple[str, ...] = ()
    down_block_type: tuple[str, ...] = ()
    use_fp16: bool = False

    def __post_init__(self) -> None:
        check_levels(self.model_channels, self.num_blocks, self.block_type, _CONVNEXT)
        check_levels(self.model_channels, self.num_blocks, self.down_block_type, _DOWN)

    @property
    def torso_dtype(self) -> torch.dtype:
        return torch.float16 if self.use_fp16 else torch.float32


@dataclass(frozen=True)
class DecoderParams:
    """Constructor arguments of a decoder, coarsest level first."""

    model_channels: tuple[int, ...]
    latent_channels: int
    num_blocks: tuple[int, ...]
    out_channels: int = 6
    block_type: tuple[str, ...] = ()
    up_block_type: tuple[str, ...] = ()
    use_fp16: bool = False
    pred_subdiv: bool = True

    def __post_init__(self) -> None:
        check_levels(self.model_channels, self.num_blocks, self.block_type, _CONVNEXT)
        check_levels(self.model_channels, self.num_blocks, self.up_block_type, _UP)

    @property
    def torso_dtype(self) -> torch.dtype:
        return torch.float16 if self.use_fp16 else torch.float32


@dataclass(frozen=True, eq=False)
class Posterior:
    """Diagonal Gaussian of a latent; the mean is the latent used at inference."""

    mean: SparseTensor  # feats float32 [N, C]; its cache records the children for a decoder
    logvar: torch.Tensor  # float32 [N, C]

    def sample(self, generator: torch.Generator | None = None) -> SparseTensor:
        """mean + exp(logvar / 2) * noise."""
        mean = self.mean.feats
        noise = torch.randn(mean.shape, dtype=mean.dtype, device=mean.device, generator=generator)
        return self.mean.replace(mean + torch.exp(0.5 * self.logvar) * noise)


@dataclass(frozen=True, eq=False)
class Decoding:
    """Result of a decoder: raw channels of the fine voxels, and the subdivision logits of each level, if predicted."""

    raw: SparseTensor  # feats float32 [M, out_channels]
    subdivisions: tuple[SparseTensor, ...]  # per level: logits [P, 8] on the coarse voxels; children exist where > 0

    def targets(self) -> list[torch.Tensor]:
        """Per level the true children, bool [P, 8], recorded by the encoder that made the latent."""
        records = [logits.cache.recorded for logits in self.subdivisions]
        if any(record is None for record in records):
            raise ValueError("the latent did not come from an encoder, so no true children are recorded")
        return [r.mask(len(x.coords)) for r, x in zip(records, self.subdivisions, strict=True) if r is not None]


class ConvNeXtBlock(nn.Module):
    """Convolution, norm, and a two-layer MLP four times as wide, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = LayerNorm32(channels, eps=1e-6)
        self.conv = SparseConv3d(channels, channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, channels))

    def forward(self, x: SparseTensor, space: Workspace = AMPLE) -> SparseTensor:
        if torch.is_grad_enabled():
            return x.replace(x.feats + self.mlp(self.norm(self.conv(x.feats, x.cache))))
        h = self.conv(x.feats, x.cache, space)
        count = space.rows(_MLP_COPIES * h.shape[1] * h.element_size())
        count = count if h.is_cuda else min(count, _CPU_ROWS)
        for feats, rows in zip(x.feats.split(count), h.split(count), strict=True):
            torch.add(feats, self.mlp(self.norm(rows)), out=rows)
        return x.replace(h)


class DownBlock(nn.Module):
    """Halves the resolution: the channels of 8 children become channels of their parent."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = NormSilu(channels, eps=1e-6)
        self.norm2 = NormSilu(out_channels, eps=1e-6, elementwise_affine=False)
        self.conv1 = SparseConv3d(channels, out_channels // 8)
        self.conv2 = SparseConv3d(out_channels, out_channels)

    def forward(self, x: SparseTensor) -> SparseTensor:
        coarse = x.cache.coarsen()
        h = self.conv1(self.norm1(x.feats), x.cache)
        h = self.conv2(self.norm2(space_to_channel(h, coarse)), coarse)
        skip = space_to_channel(x.feats, coarse).unflatten(1, (h.shape[1], -1)).mean(dim=2)
        return SparseTensor(h + skip, coarse.coords, coarse)


class UpBlock(nn.Module):
    """Doubles the resolution: channels of a parent become channels of its existing children."""

    row_ops: RowOps = AUTOMATIC

    def __init__(self, channels: int, out_channels: int, *, predict: bool) -> None:
        super().__init__()
        self.norm1 = NormSilu(channels, eps=1e-6)
        self.norm2 = NormSilu(out_channels, eps=1e-6, elementwise_affine=False)
        self.conv1 = SparseConv3d(channels, 8 * out_channels)
        self.conv2 = SparseConv3d(out_channels, out_channels)
        self.to_subdiv = nn.Linear(channels, 8) if predict else None

    def existing(self, x: SparseTensor, logits: SparseTensor | None) -> Children:
        """The recorded children, else those with a logit above 0."""
        if x.cache.recorded is not None:
            return x.cache.recorded
        if logits is None:
            raise ValueError(
                "no children: this decoder needs the subdivisions of a shape decoder or a recorded encoder"
            )
        if len(logits.feats) != len(x.feats):
            raise ValueError(f"the subdivision has {len(logits.feats)} rows, the features have {len(x.feats)}")
        return logits.cache.subdivide(logits.feats > 0)

    def subdivided(self, x: SparseTensor, guide: SparseTensor | None) -> tuple[Children, SparseTensor | None]:
        """The fine voxels, and the subdivision logits if this block predicts them."""
        logits = x.replace(self.to_subdiv(x.feats)) if self.to_subdiv is not None else None
        return self.existing(x, logits if guide is None else guide), logits

    def forward(
        self, x: SparseTensor, guide: SparseTensor | None, space: Workspace = AMPLE
    ) -> tuple[SparseTensor, SparseTensor | None]:
        """Fine features, and the subdivision logits if this block predicts them."""
        children, logits = self.subdivided(x, guide)
        fine = children.cache
        h = self.conv1.to_children(self.norm1(x.feats), x.cache, children, space)
        h = space.overwritten(h, lambda rows, _: self.norm2(rows))
        h = self.conv2(h, fine, space)  # one name for all of them: each is freed as soon as the next is there
        h = space.overwritten(h, lambda rows, at: self.row_ops.add_parents(rows, x.feats, children.slots[at]))
        return SparseTensor(h, fine.coords, fine), logits


def _initialise(module: nn.Module) -> None:
    """Xavier-uniform linear layers without bias; the second convolution of a residual block starts at zero."""
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.xavier_uniform_(child.weight)
            nn.init.zeros_(child.bias)
        elif isinstance(child, (UpBlock, DownBlock)):
            nn.init.zeros_(child.conv2.weight)
            nn.init.zeros_(child.conv2.bias)


class SparseEncoder(nn.Module):
    """Voxels to the Gaussian of a latent at 1 / 2^(levels - 1) of the resolution."""

    def __init__(self, params: EncoderParams) -> None:
        super().__init__()
        self.params = params
        self.torso_dtype = torch.float32
        widths = params.model_channels
        self.input_layer = nn.Linear(params.in_channels, widths[0])
        self.blocks = nn.ModuleList()
        for level, (width, depth) in enumerate(zip(widths, params.num_blocks, strict=True)):
            blocks: list[nn.Module] = [ConvNeXtBlock(width) for _ in range(depth)]
            if level + 1 < len(widths):
                blocks.append(DownBlock(width, widths[level + 1]))
            self.blocks.append(nn.ModuleList(blocks))
        self.to_latent = nn.Linear(widths[-1], 2 * params.latent_channels)
        _initialise(self)

    def set_precision(self, dtype: torch.dtype) -> None:
        """Run the blocks in `dtype`; norms, first and last layer stay float32."""
        convert_torso(self.blocks, dtype)
        self.torso_dtype = dtype

    def forward(self, x: SparseTensor) -> Posterior:
        """feats [M, in_channels] -> posterior on the coarse voxels, which are in lexicographic order."""
        with full_precision(x.feats):
            h = x.replace(self.input_layer(x.feats.float()).to(working_dtype(x.feats, self.torso_dtype)))
        for blocks in self.blocks:
            for block in cast(nn.ModuleList, blocks):
                h = block(h)
        with full_precision(x.feats):
            normed = F.layer_norm(h.feats.float(), h.feats.shape[-1:], eps=1e-5)
            mean, logvar = self.to_latent(normed).chunk(2, dim=1)
        return Posterior(mean=h.replace(mean), logvar=logvar)


class SparseDecoder(nn.Module):
    """A latent to voxels at 2^(levels - 1) times the resolution."""

    row_ops: RowOps = AUTOMATIC

    def __init__(self, params: DecoderParams) -> None:
        super().__init__()
        self.params = params
        self.torso_dtype = torch.float32
        widths = params.model_channels
        self.from_latent = nn.Linear(params.latent_channels, widths[0])
        self.blocks = nn.ModuleList()
        for level, (width, depth) in enumerate(zip(widths, params.num_blocks, strict=True)):
            blocks: list[nn.Module] = [ConvNeXtBlock(width) for _ in range(depth)]
            if level + 1 < len(widths):
                blocks.append(UpBlock(width, widths[level + 1], predict=params.pred_subdiv))
            self.blocks.append(nn.ModuleList(blocks))
        self.output_layer = nn.Linear(widths[-1], params.out_channels)
        _initialise(self)

    def set_precision(self, dtype: torch.dtype) -> None:
        """Run the blocks in `dtype`; norms, first and last layer stay float32."""
        convert_torso(self.blocks, dtype)
        self.torso_dtype = dtype

    def _enter(self, z: SparseTensor) -> SparseTensor:
        with full_precision(z.feats):
            return z.replace(self.from_latent(z.feats.float()).to(working_dtype(z.feats, self.torso_dtype)))

    def forward(
        self, z: SparseTensor, guides: Sequence[SparseTensor] | None = None, space: Workspace = AMPLE
    ) -> Decoding:
        """Decode denormalised latents.

        Args:
            z: feats [N, latent_channels]. If an encoder made its cache, the recorded children are used.
            guides: `Decoding.subdivisions` of the shape decoder, for a decoder that predicts none.
            space: for temporary results, at inference; it decides the memory, not the result.

        Raises ValueError for guides handed to a predicting decoder, or none where they are needed.
        """
        if guides is not None and self.params.pred_subdiv:
            raise ValueError("this decoder predicts its subdivisions and takes no guides")
        h, subdivisions = self._enter(z), []
        for level, blocks in enumerate(self.blocks):
            for block in cast(nn.ModuleList, blocks):
                if isinstance(block, UpBlock):
                    h, logits = block(h, guides[level] if guides is not None else None, space)
                    subdivisions += [logits] if logits is not None else []
                else:
                    h = block(h, space)
        return Decoding(raw=h.replace(self._leave(h.feats, space)), subdivisions=tuple(subdivisions))

    def _leave(self, feats: torch.Tensor, space: Workspace) -> torch.Tensor:
        """Fine rows [M, C] -> float32 [M, out_channels]."""
        count = max(1, len(feats)) if torch.is_grad_enabled() else space.rows(4 * (feats.shape[1] + 7))
        with full_precision(feats):
            parts = feats.split(count)
            return torch.cat([self.output_layer(self.row_ops.norm(x, None, None, 1e-5, torch.float32)) for x in parts])

    def upsample(self, z: SparseTensor, levels: int, space: Workspace = AMPLE) -> torch.Tensor:
        """int32 [M, 4] coords after `levels` doublings; nothing beyond them is computed."""
        if not 0 < levels < len(self.blocks):
            raise ValueError(f"levels is {levels}, expected 1 to {len(self.blocks) - 1}")
        h = self._enter(z)
        for blocks in list(self.blocks)[: levels - 1]:
            *plain, up = cast(nn.ModuleList, blocks)
            for block in plain:
                h = block(h, space)
            h, _ = up(h, None, space)
        *plain, up = cast(nn.ModuleList, self.blocks[levels - 1])
        for block in plain:
            h = block(h, space)
        return cast(UpBlock, up).subdivided(h, None)[0].cache.coords
