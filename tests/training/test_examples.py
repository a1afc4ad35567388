"""The shipped example pictures are what the generator makes, and are listed with their origin."""

from pathlib import Path

import numpy as np
from PIL import Image

from trellis_app.training.examples import EXAMPLES, example_pictures

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "assets" / "examples"


def test_shipped_pictures_are_reproduced() -> None:
    for name, made in example_pictures():
        with Image.open(FOLDER / f"{name}.png") as shipped:
            assert shipped.mode == made.mode
            difference = np.abs(np.asarray(shipped, int) - np.asarray(made, int))
        # libm may differ in a last bit between machines; after a change of shapes or light: examples.write_examples
        assert difference.mean() < 0.05, name


def test_every_picture_is_small_and_listed() -> None:
    origins = (ROOT / "assets" / "ORIGINS.md").read_text()
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert set(files) == {f"{name}.png" for name in EXAMPLES}
    assert max(files.values()) < 300_000
    for name, example in EXAMPLES.items():
        assert f"| {name}.png | {example.family} | {example.seed} |" in origins
