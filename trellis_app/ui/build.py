"""Arranges the page and connects its parts to the handlers. Looks live in theme.py and static/."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from trellis_app.pipeline import ImageTo3D
from trellis_app.settings import MAX_SEED, AppSettings, FinishOptions, SamplerSettings
from trellis_app.types import Stage
from trellis_app.ui import stages
from trellis_app.ui.controls import ALPHA_CHOICES, preset_label, sliders
from trellis_app.ui.cutout_card import cutout_card, example_cards
from trellis_app.ui.handlers import STAGES, Handlers, Work
from trellis_app.ui.page import STATIC, Page, markup, picture_input
from trellis_app.ui.session import new_session_folder
from trellis_app.ui.theme import studio_theme
from trellis_app.weights import Bundle

FRONT_CAMERA = (75, 72, None)  # degrees: a little to the right of and above the side seen in the picture
ONE_AT_A_TIME = "one run at a time"


def build_ui(work: Work, settings: AppSettings) -> gr.Blocks:
    """The whole page. Launch it with `launch_options(settings)`."""
    pipeline = work.pipeline
    with gr.Blocks(title="TRELLIS.2 Studio", analytics_enabled=False, fill_width=True) as blocks:
        _html("header", {"model": pipeline.bundle.description})
        with gr.Row(elem_id="studio"):
            with gr.Column(elem_id="picture-panel"):
                left = _picture_panel(pipeline)
            with gr.Column(elem_id="stage-panel"):
                centre = _stage_panel()
            with gr.Column(elem_id="asset-panel"):
                right = _asset_panel()
        states = {
            "picture_state": gr.State(None),
            "folder_state": gr.State(partial(new_session_folder, settings.output_folder)),
            "run_state": gr.State(None),
        }
        page = Page(**left, **centre, **right, **states)
        _connect(page, Handlers(work, page))
    return blocks


def launch_options(settings: AppSettings) -> dict[str, Any]:
    """Arguments for `Blocks.launch`."""
    return {
        "server_name": settings.host,
        "server_port": settings.port or None,
        "theme": studio_theme(),
        "css_paths": [STATIC / "page.css"],
        "favicon_path": STATIC / "favicon.svg",
        "allowed_paths": [str(settings.output_folder.resolve())],
        "max_file_size": "128mb",
        "ssr_mode": False,
        "run_history": False,
        "footer_links": [],
        "show_error": False,
    }


def _html(name: str, value: object, *, script: bool = False) -> gr.HTML:
    """The component whose markup is static/<name>.html and whose behaviour, if any, is static/<name>.js."""
    return gr.HTML(
        value,
        html_template=markup(f"{name}.html"),
        js_on_load=markup(f"{name}.js") if script else None,
        apply_default_css=False,
        elem_id=name,
    )


def _picture_panel(pipeline: ImageTo3D) -> dict[str, Any]:
    _html("heading", "Picture")
    parts: dict[str, Any] = {
        "upload": picture_input(
            sources=["upload", "clipboard", "webcam"],
            placeholder="Drop a picture here\n— or —\nclick to choose one",
            show_label=False,
            buttons=["fullscreen"],
            elem_id="upload",
        ),
        "cutout": _html("cutout", cutout_card(None)),
    }
    parts["examples"] = _html("examples", example_cards(), script=True)
    parts |= _run_controls(pipeline.bundle)
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        parts |= _advanced(pipeline.samplers())
    return parts


def _run_controls(bundle: Bundle) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    parts["preset"] = gr.Radio(
        [(preset_label(name), name) for name in bundle.presets],
        value=bundle.default_preset,
        label="Resolution",
        buttons=[],
        elem_id="preset",
    )
    with gr.Row(elem_id="seed-row"):
        parts["seed"] = gr.Number(
            0, label="Seed", minimum=0, maximum=MAX_SEED, precision=0, elem_id="seed", min_width=80
        )
        parts["randomise"] = gr.Checkbox(False, label="New seed each time", elem_id="randomise", min_width=80)
    parts["generate"] = gr.Button("Generate", variant="primary", size="lg", interactive=False, elem_id="generate")
    parts["stop"] = gr.Button("Stop", variant="secondary", size="lg", elem_id="stop")
    return parts


def _advanced(samplers: dict[Stage, SamplerSettings]) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "keep_alpha": gr.Checkbox(
            True, label="Trust the picture's own transparency", info="Off: the background is always removed again."
        ),
        "room": gr.Slider(
            0.5,
            1.0,
            value=1.0,
            step=0.05,
            label="Object size in the frame",
            info="1 fills the frame, as the model was trained; smaller leaves room around it.",
            buttons=[],
        ),
    }
    made: list[gr.Slider] = []
    with gr.Tabs(elem_id="sampler-tabs"):
        for stage in STAGES:
            with gr.Tab(stage.value.capitalize()):
                made += sliders(samplers[stage], prefix=stage.value)
    parts["samplers"] = tuple(made)
    parts["restore"] = gr.Button("Back to the model's own settings", size="sm")
    return parts


def _stage_panel() -> dict[str, Any]:
    with gr.Column(elem_id="viewer-frame"):
        viewer = gr.Model3D(
            camera_position=FRONT_CAMERA, interactive=False, show_label=False, elem_id="viewer", container=False
        )
        _html("empty", None)
    return {
        "viewer": viewer,
        "stages": _html("stages", stages.idle().props(), script=True),
        "shown": gr.Textbox(visible="hidden", elem_id="shown"),
    }


def _asset_panel() -> dict[str, Any]:
    _html("heading", "Asset")
    parts: dict[str, Any] = {
        "rendering": gr.Image(
            interactive=False,
            type="filepath",
            format="png",
            show_label=False,
            buttons=["download", "fullscreen"],
            elem_id="rendering",
            alt_text="The asset as rendered by the server",
        )
    }
    with gr.Row(elem_id="downloads"):
        parts["glb"] = gr.DownloadButton("Download GLB", variant="primary", interactive=False, elem_id="glb")
        parts["ply"] = gr.DownloadButton("Download PLY", interactive=False, elem_id="ply")
    parts["facts"] = _html("facts", [])
    parts["finish"] = tuple(sliders(FinishOptions(), prefix="finish"))
    parts["alpha"] = gr.Dropdown(
        ALPHA_CHOICES,
        value=FinishOptions().alpha,
        label="Transparency",
        info="Automatic looks at the asset; None makes every face solid.",
        elem_id="alpha",
    )
    parts["refinish"] = gr.Button("Make the files again", interactive=False, elem_id="refinish")
    return parts


def _connect(page: Page, handlers: Handlers) -> None:
    choice = [page.upload, page.keep_alpha, page.room]
    prepared = [page.picture_state, page.cutout, page.generate]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    gr.on(
        [page.upload.change, page.keep_alpha.change, page.room.release],
        handlers.choose_picture, choice, prepared, concurrency_limit=1, **quiet,
    )  # fmt: skip
    page.examples.select(handlers.pick_example, None, page.upload, **quiet)
    page.restore.click(handlers.restore_samplers, None, list(page.samplers), queue=False, **quiet)

    made = [page.stages, page.run_state, page.shown, page.facts, page.glb, page.ply, page.refinish]
    finish = [*page.finish, page.alpha]
    begin = page.generate.click(
        handlers.begin, [page.randomise, page.seed], [page.seed, *made], queue=False, **quiet
    )  # fmt: skip
    run = begin.then(
        handlers.generate,
        [page.picture_state, page.folder_state, page.preset, page.seed, *finish, *page.samplers],
        made, concurrency_limit=1, concurrency_id=ONE_AT_A_TIME, **quiet,
    )  # fmt: skip
    again = page.refinish.click(
        handlers.finish_again, [page.run_state, *finish], made,
        concurrency_limit=1, concurrency_id=ONE_AT_A_TIME, **quiet,
    )  # fmt: skip
    for event in (run, again):
        event.failure(handlers.unexpected, [page.run_state, page.stages], made, queue=False, **quiet)
    page.stop.click(handlers.stop, page.run_state, made, cancels=[run, again], queue=False, **quiet)

    shown = [page.viewer, page.rendering]
    page.shown.change(handlers.show, [page.shown, page.run_state, page.viewer], shown, queue=False, **quiet)
    page.stages.select(handlers.look_back, [page.run_state, page.viewer], shown, queue=False, **quiet)
