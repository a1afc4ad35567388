"""Our PNG encoder against Pillow's reader: every shape and channel count, on one core and on many."""

import io

import numpy as np
import pytest
from PIL import Image

from trellis_app import parallel
from trellis_app.export.png import encode_png, encode_pngs

SHAPES = [(1, 1, 3), (3, 5, 4), (7, 2), (1, 9, 1), (4, 6, 2), (700, 601, 3), (513, 1025, 4)]


def read(data: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return np.asarray(picture)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["noise", "ramp", "flat"])
def test_pillow_reads_the_same_pixels(shape: tuple[int, ...], kind: str) -> None:
    random = np.random.default_rng(3)
    pixels = random.integers(0, 256, shape, dtype=np.uint8)
    if kind == "ramp":
        pixels = (np.arange(pixels.size) // 7 % 256).astype(np.uint8).reshape(shape)
    if kind == "flat":
        pixels[:] = 77
    np.testing.assert_array_equal(read(encode_png(pixels)).reshape(shape), pixels)


def test_several_pictures_and_any_number_of_cores_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    pictures = [random.integers(0, 60, shape, dtype=np.uint8) for shape in SHAPES]
    many = encode_pngs(pictures)
    monkeypatch.setattr(parallel, "_cores", lambda: 1)
    assert encode_pngs(pictures) == many == [encode_png(picture) for picture in pictures]
    assert encode_pngs([]) == []


def test_smooth_maps_are_not_larger_than_pillows() -> None:
    y, x = np.mgrid[0:512, 0:512] / 512
    waves = np.stack([np.sin(9 * x + 3 * y), np.cos(7 * y), x * y], axis=2) * 100 + 120
    pixels = (waves + np.random.default_rng(0).normal(0, 1.5, waves.shape)).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", compress_level=4)
    assert len(encode_png(pixels)) < 1.02 * len(stream.getvalue())
