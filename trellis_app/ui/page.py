"""The page's parts by name, so that handlers say which part they change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData

Control = gr.Radio | gr.Slider | gr.Dropdown | gr.Checkbox
STATIC = Path(__file__).parent / "static"
FRONT_CAMERA = (75, 72, None)  # degrees: a little to the right of and above the side seen in the picture


@dataclass(frozen=True)
class RunControls:
    """What to generate."""

    preset: gr.Radio
    seed: gr.Number
    randomise: gr.Checkbox
    generate: gr.Button
    stop: gr.Button


@dataclass(frozen=True)
class Advanced:
    """Behind "Advanced": framing and sampler settings, stage by stage."""

    keep_alpha: gr.Checkbox
    room: gr.Slider
    tabs: gr.Tabs
    samplers: tuple[gr.Slider, ...]
    restore: gr.Button


@dataclass(frozen=True)
class MeshPanel:
    """The mesh to be textured, in place of one that is made."""

    frame: gr.Column  # hidden while an asset is to be made
    upload: gr.File
    card: gr.HTML
    side: gr.Radio
    up: gr.Radio
    uv: gr.Radio


@dataclass(frozen=True)
class PicturePanel:
    """Left: the picture and what to make of it."""

    mode: gr.Radio
    mesh: MeshPanel
    upload: gr.Image
    cutout: gr.HTML
    examples: gr.HTML
    run: RunControls
    advanced: Advanced


@dataclass(frozen=True)
class StagePanel:
    """Centre: the viewer and the row of stages."""

    viewer: gr.Model3D
    stages: gr.HTML
    shown: gr.Textbox  # hidden; names the stage that the viewer is to show


@dataclass(frozen=True)
class FinishPanel:
    """How the files are made."""

    purpose: gr.Radio
    controls: tuple[Control, ...]  # one a field, in the order of finishing.FIELDS
    print_size: gr.Slider
    update: gr.Button


@dataclass(frozen=True)
class AssetPanel:
    """Right: the result as a picture, as files, its health, its numbers, and how the files are made."""

    rendering: gr.Image
    downloads: gr.HTML
    health: gr.HTML
    facts: gr.HTML
    finish: FinishPanel


@dataclass(frozen=True)
class Page:
    """The three panels and what each visitor's session remembers."""

    picture: PicturePanel
    stage: StagePanel
    asset: AssetPanel
    chosen: gr.State  # session.Picture or None
    mesh: gr.State  # mesh_card.ChosenMesh or None
    visitor: gr.State  # session.Visitor
    number: gr.State  # of the newest run
    run: gr.State  # session.Run or None


def picture_input(**options: Any) -> gr.Image:
    """An image input that hands the upload on unopened: whether it is a picture is for image/reading.py to say.

    (A subclass would do, but Gradio writes a .pyi file beside the module of every component subclass.)
    """
    image = gr.Image(**options)
    image.preprocess = _path_of_upload  # type: ignore[method-assign]
    return image


def markup(name: str) -> str:
    """The text of a file in static/."""
    return (STATIC / name).read_text(encoding="utf-8")


def _path_of_upload(payload: ImageData | None) -> str | None:
    return payload.path if payload else None
