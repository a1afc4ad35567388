"""Any picture a user may drop -> an upright 8-bit RGB or RGBA image, or one sentence on why not."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from trellis_app.errors import PictureError

MAX_PIXELS = 64_000_000
MAX_BYTES = 100 * 2**20
MIN_SIDE = 16
_WIDE_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")


def read_picture(source: str | Path | bytes | Image.Image) -> Image.Image:
    """Open, verify, turn upright (EXIF), take the first frame, convert to 8-bit RGB or RGBA.

    CMYK, palette, grey, LA and 16-bit pictures are converted; RGBA is kept only where the picture has an alpha channel.
    Raises PictureError for anything that is not a picture, is broken, is too small (under 16 pixels) or too large.
    """
    if isinstance(source, Image.Image):
        return _normalise(source)
    data = _bytes_of(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                _check_size(image)
                image.seek(0)
                image.load()
                return _normalise(image)
    except UnidentifiedImageError as error:
        raise PictureError("The file is not a picture this app can read.", "Use a PNG, JPEG or WebP file.") from error
    except Image.DecompressionBombError as error:
        raise _too_large() from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError) as error:
        # Pillow's decoders raise any of these on damaged data.
        raise PictureError("The picture is damaged or incomplete.", "Save or download it again and retry.") from error


def _bytes_of(source: str | Path | bytes) -> bytes:
    if isinstance(source, bytes):
        data = source
    else:
        path = Path(source)
        if not path.is_file():
            raise PictureError(f"There is no file {path}.", "Check the path of the picture.")
        if path.stat().st_size > MAX_BYTES:
            raise _too_large()
        data = path.read_bytes()
    if not data:
        raise PictureError("The picture file is empty.", "Save or download it again and retry.")
    return data


def _too_large() -> PictureError:
    return PictureError(
        f"The picture is larger than {MAX_PIXELS // 1_000_000} megapixels or {MAX_BYTES // 2**20} MB.",
        "Scale it down; about 1000 pixels on the longest side are enough.",
    )


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large()
    if min(width, height) < MIN_SIDE:
        raise PictureError(
            f"The picture is only {width} x {height} pixels.", "Use one of at least 256 pixels on each side."
        )


def _normalise(image: Image.Image) -> Image.Image:
    _check_size(image)
    upright = ImageOps.exif_transpose(image)
    if upright.mode in _WIDE_MODES:
        return _from_wide(upright).convert("RGB")
    has_alpha = "A" in upright.getbands() or "transparency" in upright.info
    return upright.convert("RGBA" if has_alpha else "RGB")


def _from_wide(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit integer and float grey -> 8-bit grey; Pillow's own conversion clips instead of scaling."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    top = 65535.0 if image.mode != "F" or values.max() > 255 else (255.0 if values.max() > 1 else 1.0)
    return Image.fromarray(np.clip(values / top * 255, 0, 255).round().astype(np.uint8))
