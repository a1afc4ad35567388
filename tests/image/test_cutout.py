"""Preprocessing equals the original's on its golden pictures; doubtful masks are named."""

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from trellis_app.errors import PictureError, SettingsError
from trellis_app.image.cutout import CutoutOptions, has_alpha, prepare
from trellis_app.image.framing import frame_cutout


def refuse(picture: Image.Image) -> Image.Image:
    raise AssertionError("the matte must not run on a picture with its own alpha")


def full(picture: Image.Image) -> Image.Image:
    return Image.new("L", picture.size, 255)


def large_golden_input() -> Image.Image:
    width, height = 1500, 800
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    distance = ((x - 700) / 400) ** 2 + ((y - 430.5) / 330.5) ** 2
    alpha = np.clip((1.08 - distance) * 600, 0, 255)
    channels = [x * 255 // width, y * 255 // height, (x + y) % 256, alpha]
    return Image.fromarray(np.stack([c.astype(np.uint8) for c in channels], axis=-1))


@pytest.mark.parametrize("case", ["small", "odd"])
def test_golden_preprocessing_is_exact(shared, case):
    golden = load_file(shared / "golden/models/preprocess.safetensors")
    prepared = prepare(Image.fromarray(golden[f"out.{case}_in"]), refuse)
    np.testing.assert_array_equal(np.asarray(prepared.rgb), golden[f"out.{case}_out"])


def test_golden_preprocessing_of_a_large_picture(shared):
    golden = load_file(shared / "golden/models/preprocess.safetensors")
    result = np.asarray(prepare(large_golden_input(), refuse).rgb)[::8, ::8].astype(int)
    assert np.abs(result - golden["out.large_out"]).max() <= 1


def test_alpha_is_detected_only_where_it_says_something():
    assert not has_alpha(Image.new("RGBA", (20, 20), (9, 9, 9, 255)))
    assert has_alpha(Image.new("RGBA", (20, 20), (9, 9, 9, 254)))
    assert not has_alpha(Image.new("RGB", (20, 20)))


def test_fully_transparent_picture_gives_a_sentence():
    with pytest.raises(PictureError, match="Nothing is left"):
        prepare(Image.new("RGBA", (64, 64), (200, 10, 10, 0)), refuse)


def test_single_pixel_object_gives_a_sentence():
    picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    picture.putpixel((30, 30), (255, 0, 0, 255))
    with pytest.raises(PictureError, match="pixel"):
        prepare(picture, refuse)


def test_full_and_tiny_masks_are_named():
    assert "whole picture" in prepare(Image.new("RGB", (64, 64)), full).warnings[0]
    picture = Image.new("RGBA", (640, 640), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (300, 300, 310, 310))
    assert "under 1 %" in prepare(picture, refuse).warnings[0]


def test_foreground_ratio_adds_a_margin():
    picture = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (50, 50, 151, 151))
    assert frame_cutout(picture).size == (100, 100)
    assert frame_cutout(picture, foreground_ratio=0.5).size == (200, 200)
    with pytest.raises(SettingsError, match="foreground ratio"):
        CutoutOptions(foreground_ratio=0.1)
