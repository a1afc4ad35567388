"""How files are made, as the page offers it: four purposes, and behind them one control a field of FinishOptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trellis_app.settings import FinishOptions

PURPOSES = {
    "Draft": FinishOptions(faces=10_000, texture_size=512, normal_map=False),
    "Game": FinishOptions(),
    "Print": FinishOptions(faces=200_000, surface="watertight"),
    "Full": FinishOptions(faces=1_000_000, texture_size=2048),
}
FIELDS = ("surface", "faces", "texture_size", "alpha", "normal_map")  # the order of the controls on the page
SURFACE_CHOICES = [("One surface", "single"), ("Watertight, for 3D printing", "watertight"), ("As decoded", "decoded")]
ALPHA_CHOICES = [("Automatic", "auto"), ("None", "opaque"), ("Cut out", "mask"), ("See-through", "blend")]


def values_of(options: FinishOptions) -> list[Any]:
    """Control values of the options, in the order of FIELDS."""
    return [getattr(options, name) for name in FIELDS]


def options_of(values: Sequence[Any]) -> FinishOptions:
    """Options of control values in the order of FIELDS; whole-number fields stay whole. Raises SettingsError."""
    default = FinishOptions()
    given = {name: type(getattr(default, name))(value) for name, value in zip(FIELDS, values, strict=True)}
    return FinishOptions(**given)


def purpose_of(options: FinishOptions) -> str | None:
    """The purpose that these options serve, None for one's own mixture."""
    return next((name for name, known in PURPOSES.items() if known == options), None)
