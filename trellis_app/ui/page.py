"""The page's parts by name, so that handlers say which part they change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from gradio.data_classes import ImageData

STATIC = Path(__file__).parent / "static"


class PictureInput(gr.Image):
    """An image input that hands the uploaded file on unopened: whether it is a picture is for image/reading.py to say."""

    def get_block_name(self) -> str:
        """The browser draws it as Gradio's own image input."""
        return "image"

    def preprocess(self, payload: ImageData | None) -> str | None:
        """The path of the upload, None when the input was cleared."""
        return payload.path if payload else None


@dataclass(frozen=True)
class Page:
    """Every component a handler reads or changes."""

    upload: gr.Image
    examples: gr.HTML
    cutout: gr.HTML
    keep_alpha: gr.Checkbox
    room: gr.Slider
    preset: gr.Radio
    seed: gr.Number
    randomise: gr.Checkbox
    generate: gr.Button
    stop: gr.Button
    samplers: tuple[gr.Slider, ...]
    restore: gr.Button
    stages: gr.HTML
    viewer: gr.Model3D
    shown: gr.Textbox
    rendering: gr.Image
    finish: tuple[gr.Slider, ...]
    alpha: gr.Dropdown
    refinish: gr.Button
    glb: gr.DownloadButton
    ply: gr.DownloadButton
    facts: gr.HTML
    picture_state: gr.State
    folder_state: gr.State
    run_state: gr.State


def markup(name: str) -> str:
    """The text of a file in static/."""
    return (STATIC / name).read_text(encoding="utf-8")
