"""Controls that follow from the settings: one slider for each numeric field that carries a range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any, TypeVar

import gradio as gr

from trellis_app.settings import FileOptions, FinishOptions, SamplerSettings

Numeric = TypeVar("Numeric", gr.Slider, gr.Number)
Settings = SamplerSettings | FinishOptions | FileOptions


def ranged_fields(settings: Settings) -> tuple[str, ...]:
    """Names of the fields that become sliders, in the order of the dataclass."""
    return tuple(entry.name for entry in fields(settings) if "low" in entry.metadata)


def sliders(settings: Settings, *, prefix: str) -> list[gr.Slider]:
    """One slider a ranged field, at the value of `settings`; `prefix` starts the element ids."""
    made = []
    for entry in fields(settings):
        if "low" not in entry.metadata:
            continue
        slider = gr.Slider(
            minimum=entry.metadata["low"],
            maximum=entry.metadata["high"],
            step=entry.metadata["step"],
            value=getattr(settings, entry.name),
            label=entry.metadata["label"],
            info=entry.metadata["help"],
            buttons=[],
            elem_id=f"{prefix}-{entry.name}",
        )
        made.append(forgiving(slider))
    return made


def with_values(settings: SamplerSettings, values: Sequence[float]) -> SamplerSettings:
    """`settings` with its ranged fields replaced by slider values, in order; whole-number fields stay whole.

    Raises SettingsError when a value is out of range.
    """
    changed: dict[str, Any] = {}
    for name, value in zip(ranged_fields(settings), values, strict=True):
        changed[name] = type(getattr(settings, name))(value)
    return replace(settings, **changed)


def forgiving(control: Numeric) -> Numeric:
    """Make a number typed beyond the range mean the range's end; Gradio itself would refuse the whole event."""
    assert control.minimum is not None
    assert control.maximum is not None
    control.preprocess = partial(_within, low=control.minimum, high=control.maximum)  # type: ignore[method-assign]
    return control


def _within(value: float | None, *, low: float, high: float) -> float:
    """What the number field shows once it is left."""
    return min(max(low if value is None else value, low), high)


def preset_label(preset: str) -> str:
    """Plain words for a preset name: '1024_cascade' -> '1024³ in two passes'."""
    side, _, rest = preset.partition("_")
    words = f"{side}³" if side.isdigit() else side
    return f"{words} in two passes" if rest == "cascade" else f"{words} {rest}".strip()
