"""The card under the picture: its cut-out on a checkerboard, or why it cannot be used; and the example thumbnails."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from trellis_app.errors import TrellisError
from trellis_app.settings import PROJECT_ROOT
from trellis_app.types import PreparedImage
from trellis_app.ui.stages import plain, thumb_uri

EXAMPLES = PROJECT_ROOT / "assets" / "examples"
CUTOUT_SIDE = 320
EXAMPLE_SIDE = 144


def cutout_card(prepared: PreparedImage | None) -> dict[str, object]:
    """Value of the card for a prepared picture, or for none."""
    if prepared is None:
        return {"state": "empty", "picture": "", "alt": "", "title": "", "notes": []}
    title = "Cut-out: have a look" if prepared.warnings else "Cut-out ready"
    notes = list(prepared.warnings) or ["This is what the model sees."]
    picture = thumb_uri(prepared.cutout, CUTOUT_SIDE)
    return {
        "state": "warning" if prepared.warnings else "ready",
        "picture": picture,
        "alt": "The object cut out of your picture",
        "title": title,
        "notes": notes,
    }


def refused_card(error: TrellisError) -> dict[str, object]:
    """Value of the card for a picture or mesh that cannot be used: what happened, what to do."""
    return {"state": "refused", "picture": "", "alt": "", "title": plain(error.what), "notes": [plain(error.to_do)]}


def example_pictures() -> list[Path]:
    """The shipped example pictures, by name."""
    return sorted(path for path in EXAMPLES.glob("*") if path.suffix in (".png", ".jpg", ".webp"))


def example_cards() -> list[dict[str, str]]:
    """Name and thumbnail of every example."""
    return [
        {"name": path.stem.replace("_", " "), "picture": thumb_uri(Image.open(path), EXAMPLE_SIDE)}
        for path in example_pictures()
    ]
