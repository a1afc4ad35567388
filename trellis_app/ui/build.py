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
from trellis_app.ui.cutout_card import EXAMPLES, cutout_card, example_cards
from trellis_app.ui.handlers import STAGES, Handlers, Work
from trellis_app.ui.page import (
    STATIC,
    Advanced,
    AssetPanel,
    Page,
    PicturePanel,
    RunControls,
    StagePanel,
    markup,
    picture_input,
)
from trellis_app.ui.session import new_visitor
from trellis_app.ui.stages import plain
from trellis_app.ui.theme import studio_theme
from trellis_app.weights import FULL_BUNDLE, Bundle

FRONT_CAMERA = (75, 72, None)  # degrees: a little to the right of and above the side seen in the picture
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
ONE_AT_A_TIME: dict[str, Any] = {
    "concurrency_limit": 1,
    "concurrency_id": "one run at a time",
    "trigger_mode": "multiple",  # "once" would drop a run that is asked for while a stopped one ends its step
    **QUIET,
}
AT_ONCE: dict[str, Any] = {"queue": False, **QUIET}


def build_ui(work: Work, settings: AppSettings) -> gr.Blocks:
    """The whole page. Launch it with `launch_options(settings)`."""
    with gr.Blocks(title="TRELLIS.2 Studio", analytics_enabled=False, fill_width=True) as blocks:
        page = arrange(work.pipeline, settings)
        connect(page, Handlers(work, page))
    return blocks


def launch_options(settings: AppSettings) -> dict[str, Any]:
    """Arguments for `Blocks.launch`."""
    return {
        "server_name": settings.host,
        "server_port": settings.port or None,
        "theme": studio_theme(),
        "css_paths": [STATIC / "page.css"],
        "favicon_path": STATIC / "favicon.svg",
        "allowed_paths": [str(settings.output_folder.resolve()), str(EXAMPLES)],
        "max_file_size": "128mb",
        "ssr_mode": False,
        "run_history": False,
        "footer_links": [],
        "show_error": False,
    }


def arrange(pipeline: ImageTo3D, settings: AppSettings) -> Page:
    """Make every part, in its place."""
    _html("header", _model_line(pipeline.bundle))
    with gr.Row(elem_id="studio"):
        with gr.Column(elem_id="picture-panel"):
            picture = _picture_panel(pipeline)
        with gr.Column(elem_id="stage-panel"):
            stage = _stage_panel()
        with gr.Column(elem_id="asset-panel"):
            asset = _asset_panel()
    visitor = gr.State(partial(new_visitor, settings.output_folder))
    return Page(picture, stage, asset, gr.State(None), visitor, gr.State(0), gr.State(None))


def connect(page: Page, handlers: Handlers) -> None:
    """Say what happens on each action."""
    _connect_picture(page, handlers)
    run, stage, asset = page.picture.run, page.stage, page.asset
    made = [stage.stages, stage.shown, page.run, asset.facts, asset.glb, asset.ply, asset.refinish]
    finish = [*asset.finish, asset.alpha]
    settings = [run.seed, run.preset, *finish, *page.picture.advanced.samplers]

    numbered = [page.visitor, page.number]
    wanted = run.generate.click(
        handlers.begin, [page.visitor, run.randomise, *settings], [page.number, run.seed, *made], **AT_ONCE
    )
    generated = wanted.success(handlers.generate, [*numbered, page.chosen, *settings], made, **ONE_AT_A_TIME)
    wanted_again = asset.refinish.click(
        handlers.begin_again, [page.visitor, page.run, *finish], [page.number, stage.stages], **AT_ONCE
    )
    finished = wanted_again.success(handlers.finish_again, [*numbered, page.run, *finish], made, **ONE_AT_A_TIME)
    for event in (generated, finished):
        event.failure(handlers.unexpected, page.run, made, **AT_ONCE)
    run.stop.click(handlers.stop, [page.visitor, page.run], made, **AT_ONCE)

    seen = [stage.viewer, asset.rendering]
    stage.shown.change(handlers.show, [stage.shown, page.run, stage.viewer], seen, **AT_ONCE)
    stage.stages.select(handlers.look_back, [page.run, stage.viewer], seen, **AT_ONCE)


def _connect_picture(page: Page, handlers: Handlers) -> None:
    picture, advanced = page.picture, page.picture.advanced
    gr.on(
        [picture.upload.change, advanced.keep_alpha.change, advanced.room.release],
        handlers.choose_picture,
        [picture.upload, advanced.keep_alpha, advanced.room],
        [page.chosen, picture.cutout, picture.run.generate],
        concurrency_limit=1,
        **QUIET,
    )
    picture.examples.select(handlers.pick_example, None, picture.upload, **QUIET)
    advanced.restore.click(handlers.restore_samplers, None, list(advanced.samplers), **AT_ONCE)


def _html(name: str, value: object, *, script: bool = False) -> gr.HTML:
    """The component whose markup is static/<name>.html and whose behaviour, if any, is static/<name>.js."""
    return gr.HTML(
        value,
        html_template=markup(f"{name}.html"),
        js_on_load=markup(f"{name}.js") if script else None,
        apply_default_css=False,
        elem_id=name,
    )


def _model_line(bundle: Bundle) -> dict[str, str]:
    """What runs, and how to get the full model where another one runs."""
    full = "" if bundle.name == FULL_BUNDLE else FULL_BUNDLE
    description = "" if bundle.description == bundle.name else bundle.description.rstrip(".")
    return {"name": plain(bundle.name), "description": plain(description), "full": full}


def _picture_panel(pipeline: ImageTo3D) -> PicturePanel:
    _html("heading", "Picture")
    upload = picture_input(
        sources=["upload", "clipboard", "webcam"],
        placeholder="Drop a picture here\n— or —\nclick to choose one",
        show_label=False,
        buttons=["fullscreen"],
        elem_id="upload",
    )
    cutout = _html("cutout", cutout_card(None))
    examples = _html("examples", example_cards(), script=True)
    run = _run_controls(pipeline.bundle)
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        advanced = _advanced(pipeline.samplers())
    return PicturePanel(upload, cutout, examples, run, advanced)


def _run_controls(bundle: Bundle) -> RunControls:
    choices = [(preset_label(name), name) for name in bundle.presets]
    preset = gr.Radio(choices, value=bundle.default_preset, label="Resolution", buttons=[], elem_id="preset")
    with gr.Row(elem_id="seed-row"):
        seed = gr.Number(0, label="Seed", minimum=0, maximum=MAX_SEED, precision=0, elem_id="seed", min_width=80)
        randomise = gr.Checkbox(False, label="New seed each time", elem_id="randomise", min_width=80)
    generate = gr.Button("Generate", variant="primary", size="lg", interactive=False, elem_id="generate")
    stop = gr.Button("Stop", variant="secondary", size="lg", elem_id="stop")
    return RunControls(preset, seed, randomise, generate, stop)


def _advanced(samplers: dict[Stage, SamplerSettings]) -> Advanced:
    keep_alpha = gr.Checkbox(
        True, label="Trust the picture's own transparency", info="Off: the background is always removed again."
    )
    room = gr.Slider(
        0.5,
        1.0,
        value=1.0,
        step=0.05,
        label="Object size in the frame",
        info="1 fills the frame, as the model was trained; smaller leaves room around it.",
        buttons=[],
    )
    made: list[gr.Slider] = []
    with gr.Tabs(elem_id="sampler-tabs"):
        for stage in STAGES:
            with gr.Tab(stage.value.capitalize()):
                made += sliders(samplers[stage], prefix=stage.value)
    restore = gr.Button("Back to the model's own settings", size="sm")
    return Advanced(keep_alpha, room, tuple(made), restore)


def _stage_panel() -> StagePanel:
    with gr.Column(elem_id="viewer-frame"):
        viewer = gr.Model3D(
            camera_position=FRONT_CAMERA, interactive=False, show_label=False, elem_id="viewer", container=False
        )
        _html("empty", None)
    row = _html("stages", stages.idle().props(), script=True)
    return StagePanel(viewer, row, gr.Textbox(visible="hidden", elem_id="shown"))


def _asset_panel() -> AssetPanel:
    _html("heading", "Asset")
    rendering = gr.Image(
        interactive=False,
        type="filepath",
        format="png",
        show_label=False,
        buttons=["download", "fullscreen"],
        elem_id="rendering",
        alt_text="The asset as rendered by the server",
    )
    with gr.Row(elem_id="downloads"):
        glb = gr.DownloadButton("Download GLB", variant="primary", interactive=False, elem_id="glb")
        ply = gr.DownloadButton("Download PLY", interactive=False, elem_id="ply")
    facts = _html("facts", [])
    defaults = FinishOptions()
    finish = sliders(defaults, prefix="finish")
    alpha = gr.Dropdown(
        ALPHA_CHOICES,
        value=defaults.alpha,
        label="Transparency",
        info="Automatic looks at the asset; None makes every face solid.",
        elem_id="alpha",
    )
    refinish = gr.Button("Make the files again", interactive=False, elem_id="refinish")
    return AssetPanel(rendering, glb, ply, facts, tuple(finish), alpha, refinish)
