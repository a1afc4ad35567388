"""The texture maps of an asset as picture files: PNG, JPEG or WebP."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from trellis_app.export.png import encode_pngs
from trellis_app.parallel import in_parallel
from trellis_app.progress import Check, go_on
from trellis_app.types import Textures

JPEG_QUALITY = 92
WEBP_QUALITY = 90


@dataclass(frozen=True)
class Map:
    """One encoded texture."""

    name: str  # base_color | metallic_roughness | normal
    data: bytes
    kind: str  # png | jpeg | webp

    @property
    def mime(self) -> str:
        return f"image/{self.kind}"

    @property
    def ending(self) -> str:
        """Of a file of this kind, without the dot."""
        return "jpg" if self.kind == "jpeg" else self.kind


def named_pixels(textures: Textures) -> dict[str, np.ndarray]:
    """The maps there are, by name; the base colour keeps its alpha only where the material uses it."""
    opaque = textures.alpha_mode == "OPAQUE"
    base_color = np.ascontiguousarray(textures.base_color[..., :3]) if opaque else textures.base_color
    maps = {"base_color": base_color, "metallic_roughness": textures.metallic_roughness}
    if textures.normal is not None:
        maps["normal"] = textures.normal
    return maps


def encode_maps(textures: Textures, texture_format: str, check: Check = go_on) -> dict[str, Map]:
    """Every map of the textures as a file, by name. The same maps give the same bytes.

    jpeg: full colour resolution; a base colour with alpha stays PNG, as JPEG has none. webp: the base colour lossy, the
    data maps lossless, since lossy WebP mixes channels and halves the resolution of what it takes for colour.
    """
    pixels = named_pixels(textures)
    kinds = {name: _kind(picture, texture_format) for name, picture in pixels.items()}
    as_png = [name for name, kind in kinds.items() if kind == "png"]
    others = [name for name in pixels if name not in as_png]
    files = dict(zip(as_png, encode_pngs([pixels[name] for name in as_png], check), strict=True))
    small = in_parallel(lambda name: _encode(pixels[name], kinds[name], exact=name != "base_color"), others, check)
    files |= dict(zip(others, small, strict=True))
    return {name: Map(name, files[name], kinds[name]) for name in pixels}


def _kind(pixels: np.ndarray, texture_format: str) -> str:
    """The format a map gets."""
    return "png" if texture_format == "jpeg" and pixels.shape[-1] == 4 else texture_format


def _encode(pixels: np.ndarray, kind: str, *, exact: bool) -> bytes:
    stream = io.BytesIO()
    picture = Image.fromarray(pixels)
    if kind == "jpeg":
        picture.save(stream, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    elif exact:
        picture.save(stream, format="WEBP", lossless=True, quality=50, method=0)
    else:
        picture.save(stream, format="WEBP", quality=WEBP_QUALITY, method=2, exact=True)
    return stream.getvalue()
