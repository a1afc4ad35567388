"""Makes the parts of each panel, in their places. Looks live in theme.py and static/."""

from __future__ import annotations

import gradio as gr

from trellis_app.catalogue import Catalogue
from trellis_app.settings import MAX_SEED, FileOptions, FinishOptions, SamplerSettings
from trellis_app.types import Stage
from trellis_app.ui import finishing, stages
from trellis_app.ui.controls import forgiving, preset_label, sliders
from trellis_app.ui.cutout_card import cutout_card, example_cards
from trellis_app.ui.downloads import download_list
from trellis_app.ui.handlers import STAGES
from trellis_app.ui.health_card import health_card
from trellis_app.ui.mesh_card import SIDES, UP_CHOICES, UV_CHOICES, mesh_card
from trellis_app.ui.page import (
    FRONT_CAMERA,
    Advanced,
    AssetPanel,
    FinishPanel,
    MeshPanel,
    PicturePanel,
    RunControls,
    StagePanel,
    markup,
    picture_input,
)
from trellis_app.ui.stages import plain
from trellis_app.weights import FULL_BUNDLE, Bundle

MODES = [("New asset", stages.PICTURE), ("Texture a mesh", stages.MESH)]


def header(bundle: Bundle) -> None:
    """The name of the page; what runs, and how to get the full model where another one runs."""
    full = "" if bundle.name == FULL_BUNDLE else FULL_BUNDLE
    description = "" if bundle.description == bundle.name else bundle.description.rstrip(".")
    _html("header", {"name": plain(bundle.name), "description": plain(description), "full": full})


def picture_panel(catalogue: Catalogue) -> PicturePanel:
    """Left: the picture and what to make of it."""
    mode = gr.Radio(MODES, value=stages.PICTURE, show_label=False, container=False, buttons=[], elem_id="mode")
    with gr.Column(visible=False, elem_id="mesh-panel") as frame:
        mesh = _mesh_panel(frame)
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
    run = _run_controls(catalogue.bundle)
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        advanced = _advanced(catalogue.samplers())
    return PicturePanel(mode, mesh, upload, cutout, examples, run, advanced)


def stage_panel() -> StagePanel:
    """Centre: the viewer and the row of stages."""
    with gr.Column(elem_id="viewer-frame"):
        viewer = gr.Model3D(
            camera_position=FRONT_CAMERA, interactive=False, show_label=False, elem_id="viewer", container=False
        )
        _html("empty", None)
    row = _html("stages", stages.idle().props(), script=True)
    return StagePanel(viewer, row, gr.Textbox(visible="hidden", elem_id="shown"))


def asset_panel() -> AssetPanel:
    """Right: the result as a picture, as files, its health, its numbers, and how the files are made."""
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
    downloads = _html("downloads", download_list(None, FileOptions().size_mm), script=True)
    health = _html("health", health_card(None), script=True)
    facts = _html("facts", [])
    return AssetPanel(rendering, downloads, health, facts, _finish_panel())


def _html(name: str, value: object, *, script: bool = False, elem_id: str | None = None) -> gr.HTML:
    """The component whose markup is static/<name>.html and whose behaviour, if any, is static/<name>.js."""
    return gr.HTML(
        value,
        html_template=markup(f"{name}.html"),
        js_on_load=markup(f"{name}.js") if script else None,
        apply_default_css=False,
        elem_id=elem_id or name,
    )


def _mesh_panel(frame: gr.Column) -> MeshPanel:
    _html("heading", "Mesh")
    upload = gr.File(show_label=False, height=104, buttons=[], elem_id="mesh-upload")
    card = _html("cutout", mesh_card(None), elem_id="mesh-card")
    side = gr.Radio(SIDES, value=0, label="The picture shows its", buttons=[], elem_id="side")
    with gr.Accordion("More about the mesh", open=False, elem_id="mesh-more"):
        up = gr.Radio(UP_CHOICES, value="y", label="It stands up along", buttons=[])
        uv = gr.Radio(
            UV_CHOICES,
            value="auto",
            label="Layout of the texture",
            info="Automatic keeps the mesh's own (its UVs) where a texture fits on it.",
            buttons=[],
        )
    return MeshPanel(frame, upload, card, side, up, uv)


def _run_controls(bundle: Bundle) -> RunControls:
    choices = [(preset_label(name), name) for name in bundle.presets]
    preset = gr.Radio(choices, value=bundle.default_preset, label="Resolution", buttons=[], elem_id="preset")
    with gr.Row(elem_id="seed-row"):
        seed = forgiving(
            gr.Number(0, label="Seed", minimum=0, maximum=MAX_SEED, precision=0, elem_id="seed", min_width=80)
        )
        randomise = gr.Checkbox(False, label="New seed each time", elem_id="randomise", min_width=80)
    generate = gr.Button("Generate", variant="primary", size="lg", interactive=False, elem_id="generate")
    stop = gr.Button("Stop", variant="secondary", size="lg", elem_id="stop")
    return RunControls(preset, seed, randomise, generate, stop)


def _advanced(samplers: dict[Stage, SamplerSettings]) -> Advanced:
    keep_alpha = gr.Checkbox(
        True, label="Trust the picture's own transparency", info="Off: the background is always removed again."
    )
    room = forgiving(
        gr.Slider(
            0.5,
            1.0,
            value=1.0,
            step=0.05,
            label="Object size in the frame",
            info="1 fills the frame, as the model was trained; smaller leaves room around it.",
            buttons=[],
        )
    )
    made: list[gr.Slider] = []
    with gr.Tabs(elem_id="sampler-tabs") as tabs:
        for stage in STAGES:
            with gr.Tab(stage.value.capitalize(), id=stage.value):
                made += sliders(samplers[stage], prefix=stage.value)
    restore = gr.Button("Back to the model's own settings", size="sm")
    return Advanced(keep_alpha, room, tabs, tuple(made), restore)


def _finish_panel() -> FinishPanel:
    defaults = FinishOptions()
    purpose = gr.Radio(
        list(finishing.PURPOSES), value=finishing.purpose_of(defaults), label="Made for", buttons=[], elem_id="purpose"
    )
    with gr.Accordion("Adjust", open=False, elem_id="adjust"):
        surface = gr.Radio(
            finishing.SURFACE_CHOICES,
            value=defaults.surface,
            label="Surface",
            info="One surface has no inner walls; watertight has no holes either; as decoded is left as it came.",
            buttons=[],
            elem_id="surface",
        )
        ranged = sliders(defaults, prefix="finish")
        alpha = gr.Dropdown(
            finishing.ALPHA_CHOICES,
            value=defaults.alpha,
            label="Transparency",
            info="Automatic looks at the asset; None makes every face solid.",
            elem_id="alpha",
        )
        normal_map = gr.Checkbox(
            defaults.normal_map,
            label="Keep fine relief",
            info="As a normal map: light shows detail that the triangles no longer have.",
            elem_id="normal-map",
        )
        (print_size,) = sliders(FileOptions(), prefix="file")
    update = gr.Button("Update the files", interactive=False, elem_id="refinish")
    return FinishPanel(purpose, (surface, *ranged, alpha, normal_map), print_size, update)
