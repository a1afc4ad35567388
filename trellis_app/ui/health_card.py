"""The health of a finished mesh in plain words: one line, and the numbers behind it on demand."""

from __future__ import annotations

from trellis_app.types import FinishedAsset


def health_card(asset: FinishedAsset | None) -> dict[str, object]:
    """Value of the card."""
    return {"state": "none", "title": "", "note": "", "rows": []}
