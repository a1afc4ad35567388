"""The README of a trained bundle: what it is, from which data, how long it was trained, how good, and its limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trellis_app.training.configs import Sizes
from trellis_app.training.journal import read_journal

RECIPES = ("autoencoders", "flows", "matting")
EVALUATION_FILE = "evaluation.json"

TEMPLATE = Path(__file__).with_name("model_card.md")


def model_card(family: Sizes, counts: dict[str, int], out: Path, credits_file: Path | None) -> str:
    """Markdown text, filled from the run's journals and its evaluation, as far as they exist."""
    networks = "\n".join(
        f"- `{role}` ({family[role].name}): {count / 1e6:.2f} M" for role, count in sorted(counts.items())
    )
    notes = credits_file.read_text(encoding="utf-8") if credits_file and credits_file.is_file() else ""
    return TEMPLATE.read_text(encoding="utf-8").format(
        name=family.name,
        resolution=family.resolution,
        total=sum(counts.values()) / 1e6,
        networks=networks,
        credits=data_paragraph(notes) or "Procedural objects only (`trellis_app/training/shapes.py`).",
        training="\n".join(filter(None, (recipe_line(out, recipe) for recipe in RECIPES))) or "Not recorded.",
        metrics=metrics_table(out / EVALUATION_FILE),
    )


def data_paragraph(notes: str) -> str:
    """The text of a library's README up to its table of arrays."""
    lines = [line for line in notes.splitlines() if not line.startswith("#")]
    text = "\n".join(lines).split("\nOne object =")[0]
    return text.strip()


def recipe_line(out: Path, recipe: str) -> str:
    """Steps and minutes of a recipe, from its journal; empty where it was not trained."""
    lines = read_journal(out / f"{recipe}.jsonl")
    steps = [int(line["step"]) for line in lines if line["kind"] == "step"]
    if not steps:
        return ""
    seconds = [float(line["seconds"]) for line in lines]
    minutes = sum(a for a, b in zip(seconds, [*seconds[1:], 0.0], strict=True) if b < a) / 60
    return f"- {recipe}: {max(steps):,} steps, {minutes:.0f} minutes on one H200-class GPU, bf16, EMA weights"


def metrics_table(path: Path) -> str:
    """Table of an evaluation's JSON."""
    if not path.is_file():
        return "Not measured yet: run `python -m trellis_app evaluate`."
    measured: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rows = ["| measure | value |", "|---|---|"]
    rows += [f"| {key} | {value:.4g} |" for key, value in measured.items() if isinstance(value, int | float)]
    return "\n".join(rows)
