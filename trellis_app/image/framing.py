"""Cut-out to square model input: crop to the object, black background (spec/models.md 3.1)."""

from __future__ import annotations

import numpy as np
from PIL import Image

from trellis_app.errors import PictureError

MAX_SIDE = 1024
OBJECT_ALPHA = 204  # 0.8 * 255: a pixel above it belongs to the object


def limit_side(image: Image.Image, side: int = MAX_SIDE) -> Image.Image:
    """Shrink (never enlarge) so that the longest side is at most `side` pixels; LANCZOS, size truncated."""
    scale = min(1.0, side / max(image.size))
    if scale == 1.0:
        return image
    width, height = (max(1, int(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def object_box(alpha: np.ndarray) -> tuple[int, int, int, int] | None:
    """First and last column and row (x0, y0, x1, y1, inclusive) with alpha > 204, or None when there is none.

    alpha: uint8 [H, W].
    """
    mask = alpha > OBJECT_ALPHA
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if columns.size == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def square_crop(box: tuple[int, int, int, int], foreground_ratio: float | None = None) -> tuple[float, ...]:
    """Square around `box` without margin, or with the object filling `foreground_ratio` (0, 1] of the side."""
    x0, y0, x1, y1 = box
    center_x, center_y = (x0 + x1) / 2, (y0 + y1) / 2
    size = int(max(x1 - x0, y1 - y0))
    if foreground_ratio is not None:
        size = round(size / foreground_ratio)
    half = size // 2
    return center_x - half, center_y - half, center_x + half, center_y + half


def frame_cutout(cutout: Image.Image, *, foreground_ratio: float | None = None) -> Image.Image:
    """RGBA cut-out -> square RGB picture of the object, premultiplied on black, side about the object's extent.

    Raises PictureError when no pixel is opaque enough or the object is a single pixel.
    """
    box = object_box(np.asarray(cutout.getchannel("A")))
    if box is None:
        raise PictureError(
            "Nothing is left of the picture after the background is removed.",
            "Use a picture with one clear object, or one with its own transparent background.",
        )
    crop = square_crop(box, foreground_ratio)
    if crop[2] - crop[0] < 2:
        raise PictureError(
            "The object in the picture is only a pixel or two wide.", "Use a picture where the object is larger."
        )
    # Pillow rounds the four numbers to nearest even; outside the picture is transparent black.
    square = np.asarray(cutout.crop(crop), dtype=np.float32) / 255  # type: ignore[arg-type]
    premultiplied = square[..., :3] * square[..., 3:]
    return Image.fromarray((premultiplied * 255).astype(np.uint8))
