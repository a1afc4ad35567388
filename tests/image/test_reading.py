"""Every odd picture a user may drop becomes an 8-bit upright image or one sentence."""

import io

import numpy as np
import pytest
from PIL import Image

from trellis_app.errors import PictureError
from trellis_app.image.reading import read_picture


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def ramp(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    x = np.linspace(0, 255, size[0], dtype=np.uint8)
    return Image.fromarray(np.broadcast_to(x, (size[1], size[0])).copy()).convert(mode)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "empty"),
        (b"not a picture at all", "not a picture"),
        (encoded(ramp())[:90], "damaged"),
        (encoded(ramp(size=(1, 1))), "only 1 x 1"),
    ],
)
def test_bad_pictures_give_a_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(PictureError, match=sentence):
        read_picture(data)


def test_missing_file(tmp_path):
    with pytest.raises(PictureError, match="no file"):
        read_picture(tmp_path / "nothing.png")


def test_hundred_megapixels_are_refused_without_decoding():
    with pytest.raises(PictureError, match="megapixels"):
        read_picture(encoded(Image.new("L", (10_000, 10_000))))


def test_cmyk_and_palette_and_grey_become_rgb():
    for mode in ("CMYK", "L", "P"):
        image = read_picture(encoded(ramp(mode), "TIFF"))
        assert image.mode == "RGB"
        assert image.size == (64, 48)


def test_sixteen_bit_is_scaled_not_clipped():
    values = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    image = read_picture(encoded(Image.fromarray(values)))
    assert image.mode == "RGB"
    np.testing.assert_allclose(np.asarray(image)[..., 0], values / 257.0, atol=1)


def test_exif_orientation_is_applied():
    image = ramp()
    exif = image.getexif()
    exif[0x0112] = 6  # rotate 90 degrees clockwise to view
    turned = read_picture(encoded(image, "JPEG", exif=exif, quality=100))
    assert turned.size == (48, 64)
    np.testing.assert_allclose(np.asarray(turned.convert("L")), np.asarray(ramp("L"))[::-1].T, atol=3)


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    image = read_picture(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert image.getpixel((5, 5))[:3] == (255, 0, 0) or image.getpixel((5, 5))[:3] == (254, 0, 0)


def test_alpha_is_kept_where_there_is_alpha():
    assert read_picture(encoded(ramp("RGBA"))).mode == "RGBA"
    assert read_picture(encoded(ramp("LA"))).mode == "RGBA"
    assert read_picture(encoded(ramp("RGB"))).mode == "RGB"
