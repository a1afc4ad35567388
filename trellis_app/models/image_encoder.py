"""The small image encoder of the mini bundle: a vision transformer with a convolutional stem, trained with the flows.

    picture [B,3,S,S] -> stem (4 strided convolutions) -> + position -> blocks -> layer norm -> [B, 1 + (S/P)^2, C]

It answers like the DINOv3 extractor: `encode(pictures)` gives all tokens (class token first, patches row-major),
normalised over channels without affine parameters, so the flows meet features of the same scale from either encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

STEM_STRIDE = 8  # three convolutions of stride 2


@dataclass(frozen=True)
class MiniImageEncoderParams:
    """Constructor arguments as they stand in the checkpoint's JSON."""

    image_size: int = 256
    patch_size: int = 16
    width: int = 256
    depth: int = 6
    heads: int = 4
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        if self.patch_size % STEM_STRIDE or self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size must be a multiple of {STEM_STRIDE} and divide image_size; "
                f"got {self.patch_size} and {self.image_size}"
            )
        if self.width % self.heads or self.width % 8:
            raise ValueError(f"width must be a multiple of 8 and of heads; got {self.width} and {self.heads}")

    @property
    def tokens(self) -> int:
        """L: the class token and the patches."""
        return 1 + (self.image_size // self.patch_size) ** 2


class EncoderBlock(nn.Module):
    """Pre-norm transformer block: x += Attn(LN x); x += MLP(LN x), full attention over the picture's tokens."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, L, C] -> [B, L, C]
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
        x = x + self.out(attended)
        mlp: torch.Tensor = self.mlp(self.norm2(x))
        return x + mlp


class MiniImageEncoder(nn.Module):
    """Pictures to conditioning tokens [B, L, C]; see the module's drawing."""

    def __init__(self, params: MiniImageEncoderParams) -> None:
        super().__init__()
        self.params = params
        width = params.width
        patch = params.patch_size // STEM_STRIDE
        self.stem = nn.Sequential(
            nn.Conv2d(3, width // 8, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width // 8, width // 4, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width // 4, width // 2, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width // 2, width, patch, stride=patch),
        )
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, params.tokens, width))
        hidden = int(width * params.mlp_ratio)
        self.blocks = nn.ModuleList(EncoderBlock(width, params.heads, hidden) for _ in range(params.depth))

    def initialise(self) -> None:
        """Draw fresh weights for training (a bundle's weights replace them)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for name, parameter in self.blocks.named_parameters():
            if name.endswith(("out.weight", "mlp.2.weight")):
                nn.init.zeros_(parameter)
        nn.init.normal_(self.class_token, std=0.5)
        nn.init.normal_(self.position, std=0.5)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Tokens of pictures.

        Args:
            pixels: float [B, 3, S, S] in [0, 1], premultiplied on black.

        Returns:
            float32 [B, L, C], each token with zero mean and unit variance over its channels.
        """
        size = self.params.image_size
        if pixels.shape[1:] != (3, size, size):
            raise ValueError(f"expected pictures [B, 3, {size}, {size}], got {tuple(pixels.shape)}")
        patches = self.stem(pixels * 2 - 1).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(patches), -1, -1).to(patches.dtype), patches], dim=1)
        tokens = tokens + self.position
        for block in self.blocks:
            tokens = block(tokens)
        return F.layer_norm(tokens.float(), tokens.shape[-1:], eps=1e-5)

    @torch.no_grad()
    def encode(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Tokens float32 [B, L, C] of square RGB pictures, resized with LANCZOS to the encoder's size."""
        size = (self.params.image_size, self.params.image_size)
        arrays = [np.asarray(picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)) for picture in pictures]
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
        weight = self.position
        return self.forward(pixels.to(weight.device, weight.dtype) / 255)
