"""The README of a trained bundle: what it is, from which data, how long it was trained, how good, and its limits."""

from __future__ import annotations

import json
from pathlib import Path

from trellis_app.training.configs import Sizes
from trellis_app.training.journal import read_journal

EVALUATION_FILE = "evaluation.json"
NOTES_FILE = "notes.md"  # what a person wants to add about this run
KINDS = {
    "reconstruction": "autoencoders, round trip",
    "generation": "**generated from a picture**",
    "nearest": "nearest training object",
    "random": "random training object",
}
MEASURES = {
    "f1": "F1 at 1 voxel",
    "f_005": "F at 0.05",
    "f_002": "F at 0.02",
    "iou": "silhouette IoU",
    "psnr": "colour PSNR (dB)",
    "open": "open edges a triangle",
}

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
        training="\n".join(filter(None, map(recipe_line, sorted(out.glob("*.jsonl"))))) or "Not recorded.",
        metrics=metrics_table(out / EVALUATION_FILE),
        notes=run_notes(out / NOTES_FILE),
    )


def data_paragraph(notes: str) -> str:
    """The text of a library's README up to its table of arrays."""
    lines = [line for line in notes.splitlines() if not line.startswith("#")]
    text = "\n".join(lines).split("\nOne object =")[0]
    return text.strip()


def recipe_line(journal: Path) -> str:
    """Steps and minutes of a recipe, from its journal; empty where it was not trained."""
    lines = read_journal(journal)
    steps = [int(line["step"]) for line in lines if "step" in line]
    if not steps:
        return ""
    seconds = [float(line["seconds"]) for line in lines]
    minutes = sum(a for a, b in zip(seconds, [*seconds[1:], 0.0], strict=True) if b < a) / 60
    name = journal.stem.replace("_", " ")
    return f"- {name}: {max(steps):,} steps, {minutes:.0f} minutes, averaged weights"


def metrics_table(path: Path) -> str:
    """Table of an evaluation's JSON: a row a kind of answer, a column a measure."""
    if not path.is_file():
        return "Not measured yet: run `python -m trellis_app evaluate`."
    measured: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    rows = [f"| | {' | '.join(MEASURES.values())} |", "|---" * (1 + len(MEASURES)) + "|"]
    for kind, title in KINDS.items():
        values = [measured.get(f"{kind}_{measure}") for measure in MEASURES]
        cells = " | ".join("" if value is None else f"{value:.3g}" for value in values)
        rows.append(f"| {title} | {cells} |")
    count = f"{measured['objects']:.0f} objects, {measured['pictures']:.0f} pictures"
    return f"On the validation library ({count}; `python -m trellis_app evaluate`):\n\n" + "\n".join(rows)


def run_notes(path: Path) -> str:
    """The notes of the run, if there are any."""
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
