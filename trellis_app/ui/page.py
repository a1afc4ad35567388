"""The page's parts by name, so that handlers say which part they change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData

STATIC = Path(__file__).parent / "static"


def picture_input(**options: Any) -> gr.Image:
    """An image input that hands the upload on unopened: whether it is a picture is for image/reading.py to say.

    (A subclass would do, but Gradio writes a .pyi file beside the module of every component subclass.)
    """
    image = gr.Image(**options)
    image.preprocess = _path_of_upload  # type: ignore[method-assign]
    return image


def _path_of_upload(payload: ImageData | None) -> str | None:
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
