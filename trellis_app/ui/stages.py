"""What the stage row shows, as frozen data: each event, stop or error turns one view into the next."""

from __future__ import annotations

import base64
import io
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from PIL import Image

from trellis_app.errors import TrellisError
from trellis_app.types import Stage, StageEvent

THUMB_SIDE = 192
PICTURE, MESH = "picture", "mesh"  # kinds of run: a picture becomes an asset, or a mesh gets a texture
_CARDS = {
    PICTURE: {
        Stage.STRUCTURE: ("Structure", "in blocks"),
        Stage.SHAPE: ("Shape", "in clay"),
        Stage.MATERIAL: ("Material", "in colour"),
        Stage.FINISH: ("Finish", "as files"),
    },
    MESH: {
        Stage.SHAPE: ("Mesh", "yours, in clay"),
        Stage.MATERIAL: ("Material", "in colour"),
        Stage.FINISH: ("Finish", "as files"),
    },
}
_HINTS = {
    PICTURE: "Choose a picture and press Generate.",
    MESH: "Choose a mesh and a picture, then press Texture the mesh.",
}


@dataclass(frozen=True)
class StageCard:
    """One card of the row."""

    name: str
    label: str
    note: str
    state: str = "waiting"  # waiting | running | done | stopped
    percent: int = 0
    picture: str = ""  # data URI of the thumbnail, empty until the stage is done
    began: float = 0.0  # seconds into the run


@dataclass(frozen=True)
class StageView:
    """The whole row; `state` also steers the page's style (static/page.css)."""

    state: str  # idle | waiting | running | done | stopped | error
    title: str
    detail: str
    stages: tuple[StageCard, ...]
    elapsed: float | None = None
    remaining: float | None = None
    beat: int = 0
    kind: str = PICTURE
    percent: int = 0  # of what comes before the stages

    def props(self) -> dict[str, object]:
        """The value of the HTML component, safe to put into its template."""
        values = asdict(self)
        values["title"], values["detail"] = plain(self.title), plain(self.detail)
        values["has_preview"] = "yes" if any(card.picture for card in self.stages) else "no"
        for name in ("elapsed", "remaining"):
            values[name] = "" if values[name] is None else round(values[name], 1)
        return values


def idle(kind: str = PICTURE) -> StageView:
    """Nothing has been asked for."""
    cards = tuple(StageCard(stage.value, label, note) for stage, (label, note) in _CARDS[kind].items())
    return StageView("idle", "Ready.", _HINTS[kind], cards, kind=kind)


def waiting(view: StageView | None = None) -> StageView:
    """A run has been asked for and stands in line; cards of `view` stay."""
    detail = "Your run starts as soon as the machine is free."
    return replace(view or idle(), state="waiting", title="Waiting.", detail=detail, elapsed=None, remaining=None)


def after(view: StageView, event: StageEvent) -> StageView:
    """The row after one more event of a run."""
    cards = tuple(_card_after(card, event) for card in view.stages)
    title, beat = f"{event.label}.", view.beat + 1
    percent = round(100 * event.step / max(event.steps, 1)) if event.stage is Stage.IMAGE else 0
    return StageView("running", title, "", cards, event.elapsed, event.remaining, beat, view.kind, percent)


def beaten(view: StageView, *, after: StageView) -> StageView:
    """The row with the beat that follows another row's, to show that the run is alive."""
    return replace(view, beat=after.beat + 1)


def with_thumb(view: StageView, stage: Stage, picture: Path) -> StageView:
    """The row with the picture of a finished stage on its card."""
    uri = thumb_uri(picture)
    cards = tuple(replace(card, picture=uri) if card.name == stage.value else card for card in view.stages)
    return replace(view, stages=cards)


def done(view: StageView, notes: tuple[str, ...] = ()) -> StageView:
    """Everything is made; the notes say what is worth knowing about it."""
    detail = " ".join(("Your files are ready.", *notes))
    return replace(view, state="done", title="Done.", detail=detail, remaining=None)


def stopped(view: StageView) -> StageView:
    """The user stopped the run."""
    kept = "What was finished is kept." if any(card.picture for card in view.stages) else "Nothing was finished yet."
    return replace(_halted(view), state="stopped", title="Stopped.", detail=kept)


def failed(view: StageView, error: TrellisError) -> StageView:
    """The run ended with an error: what happened and what to do."""
    return replace(_halted(view), state="error", title=error.what, detail=error.to_do)


def thumb_uri(picture: Path | Image.Image, side: int = THUMB_SIDE) -> str:
    """A small WebP of the picture as a data URI; transparency is kept."""
    image = picture if isinstance(picture, Image.Image) else Image.open(picture)
    small = image.convert("RGBA")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, format="WEBP", quality=86)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def plain(text: str) -> str:
    """The template is evaluated as a JavaScript template string: keep text from reaching it as code."""
    return text.replace("\\", "/").replace("${", "{").replace("`", "'")


def _card_after(card: StageCard, event: StageEvent) -> StageCard:
    if card.name != event.stage.value:
        behind = card.state == "running"
        return replace(card, state="done", percent=100, note=_took(card, event.elapsed)) if behind else card
    began = card.began if card.state == "running" else event.elapsed
    if event.result is not None:
        return replace(card, state="done", percent=100, note=_took(replace(card, began=began), event.elapsed))
    percent = round(100 * event.step / max(event.steps, 1))
    note = event.label.partition(": ")[2] or "working"
    return replace(card, state="running", percent=percent, note=note, began=began)


def _took(card: StageCard, elapsed: float) -> str:
    return f"{elapsed - card.began:.1f} s"


def _halted(view: StageView) -> StageView:
    cards = tuple(replace(c, state="stopped", note="stopped") if c.state == "running" else c for c in view.stages)
    return replace(view, stages=cards, remaining=None)
