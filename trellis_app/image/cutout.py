"""Picture -> PreparedImage: keep or make the alpha channel, frame the object, say what looks wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from trellis_app.errors import SettingsError
from trellis_app.image.framing import OBJECT_ALPHA, frame_cutout, limit_side, object_box
from trellis_app.types import PreparedImage

TINY_SHARE = 0.01
FULL_SHARE = 0.95


class Matte(Protocol):
    """Finds the object: RGB picture -> 8-bit grey alpha of the same size."""

    def __call__(self, picture: Image.Image) -> Image.Image: ...


@dataclass(frozen=True)
class CutoutOptions:
    """Trust the picture's own transparency or not; share of the frame the object fills (None: no margin)."""

    keep_alpha: bool = True
    foreground_ratio: float | None = None

    def __post_init__(self) -> None:
        if self.foreground_ratio is not None and not 0.3 <= self.foreground_ratio <= 1.0:
            raise SettingsError(f"The foreground ratio is {self.foreground_ratio}.", "Choose a value from 0.3 to 1.")


def has_alpha(picture: Image.Image) -> bool:
    """True where the picture is RGBA and not every pixel is opaque (tested before any resizing)."""
    return picture.mode == "RGBA" and picture.getchannel("A").getextrema()[0] < 255  # type: ignore[operator]


def prepare(picture: Image.Image, matte: Matte, options: CutoutOptions | None = None) -> PreparedImage:
    """Cut the object out and frame it.

    picture: upright RGB or RGBA (see image/reading.py). Raises PictureError when no object is left.
    """
    options = options or CutoutOptions()
    keep = options.keep_alpha and has_alpha(picture)
    cutout = limit_side(picture)
    if not keep:
        rgb = cutout.convert("RGB")
        cutout = rgb.copy()
        cutout.putalpha(matte(rgb))
    square = frame_cutout(cutout, foreground_ratio=options.foreground_ratio)
    return PreparedImage(cutout=cutout, rgb=square, warnings=_warnings(np.asarray(cutout.getchannel("A")), kept=keep))


def _warnings(alpha: np.ndarray, *, kept: bool) -> tuple[str, ...]:
    """Plain sentences about a doubtful mask. alpha: uint8 [H, W] with at least one object pixel."""
    share = float((alpha > OBJECT_ALPHA).mean())
    found = []
    if share < TINY_SHARE:
        found.append("The object covers under 1 % of the picture; crop closer for more detail.")
    if share > FULL_SHARE:
        found.append("Nearly the whole picture counts as the object; check the cut-out before you generate.")
    elif not kept and _touches_border(alpha):
        found.append("The object touches the border of the picture; hidden parts will be guessed.")
    return tuple(found)


def _touches_border(alpha: np.ndarray) -> bool:
    box = object_box(alpha)
    height, width = alpha.shape
    return box is not None and (box[0] == 0 or box[1] == 0 or box[2] == width - 1 or box[3] == height - 1)
