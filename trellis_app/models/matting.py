"""The small matting network of the mini bundle: an RGB picture in, the coverage of its main object out.

RGB [B,3,S,S] -> down 5 times -> global mean mixed in at the bottom -> up with skips -> logits [B,1,S,S]
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

GROUP = 8  # channels a normalisation group


@dataclass(frozen=True)
class MattingUNetParams:
    """Constructor arguments as they stand in the checkpoint's JSON; one width a scale, finest first."""

    image_size: int = 256
    widths: tuple[int, ...] = (16, 24, 40, 64, 88, 88)

    def __post_init__(self) -> None:
        if any(width % GROUP for width in self.widths):
            raise ValueError(f"widths must be multiples of {GROUP}; got {self.widths}")
        if self.image_size % 2 ** (len(self.widths) - 1):
            raise ValueError(f"image_size {self.image_size} cannot be halved {len(self.widths) - 1} times")


def conv_block(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, group norm, SiLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1),
        nn.GroupNorm(channels_out // GROUP, channels_out),
        nn.SiLU(),
    )


class MattingUNet(nn.Module):
    """RGB in [0, 1] to alpha logits of the same size; about 0.5 million parameters at the default widths."""

    def __init__(self, params: MattingUNetParams) -> None:
        super().__init__()
        self.params = params
        widths = params.widths
        self.first = conv_block(3, widths[0])
        self.down = nn.ModuleList(
            nn.Sequential(conv_block(a, b, stride=2), conv_block(b, b)) for a, b in pairwise(widths)
        )
        self.context = nn.Linear(widths[-1], widths[-1])
        self.middle = conv_block(widths[-1], widths[-1])
        self.reduce = nn.ModuleList(nn.Conv2d(a + b, b, 1) for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(conv_block(width, width) for width in widths[-2::-1])
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """float [B, 3, S, S] in [0, 1] -> alpha logits [B, 1, S, S]; S a multiple of 2^(scales - 1)."""
        h = self.first(pixels * 2 - 1)
        skips = []
        for down in self.down:
            skips.append(h)
            h = down(h)
        h = h + self.context(h.mean(dim=(2, 3)))[:, :, None, None]
        h = self.middle(h)
        for reduce, up, skip in zip(self.reduce, self.up, reversed(skips), strict=True):
            h = F.interpolate(h, size=skip.shape[2:], mode="nearest")
            h = up(reduce(torch.cat([h, skip], dim=1)))
        logits: torch.Tensor = self.head(h)
        return logits

    @torch.no_grad()
    def alpha(self, picture: Image.Image) -> Image.Image:
        """Coverage of the main object as an 8-bit grey picture of the given picture's size."""
        size = (self.params.image_size, self.params.image_size)
        small = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BILINEAR))
        weight = self.head.weight
        pixels = torch.from_numpy(small.copy()).permute(2, 0, 1)[None].to(weight.device, weight.dtype) / 255
        alpha = torch.sigmoid(self.forward(pixels))[0, 0].float().cpu().numpy()
        grey = Image.fromarray(np.round(alpha * 255).astype(np.uint8), mode="L")
        return grey.resize(picture.size, Image.Resampling.BICUBIC)
