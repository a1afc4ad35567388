"""Arranges the page and connects its parts to the handlers."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from trellis_app.catalogue import Catalogue
from trellis_app.settings import AppSettings
from trellis_app.ui.cutout_card import EXAMPLES
from trellis_app.ui.handlers import Handlers, Work
from trellis_app.ui.page import STATIC, Page
from trellis_app.ui.panels import asset_panel, header, picture_panel, stage_panel
from trellis_app.ui.session import new_visitor
from trellis_app.ui.theme import studio_theme

DAY = 24 * 3600  # seconds
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
RUNS: dict[str, Any] = {
    "concurrency_id": "runs",
    "trigger_mode": "multiple",  # "once" would drop a run that is asked for while a stopped one ends its step
    **QUIET,
}
FILES: dict[str, Any] = {"concurrency_limit": 2, "concurrency_id": "files", **QUIET}
AT_ONCE: dict[str, Any] = {"queue": False, **QUIET}


def build_ui(work: Work, settings: AppSettings) -> gr.Blocks:
    """The whole page. Launch it with `launch_options(settings)`."""
    options: dict[str, Any] = {"analytics_enabled": False, "fill_width": True}
    # Uploads and copies for the viewer go after a day; what runs made is in the output folder and stays.
    with gr.Blocks(title="TRELLIS.2 Studio", delete_cache=(DAY // 24, DAY), **options) as blocks:
        page = arrange(work.catalogue, settings)
        connect(page, Handlers(work, page), runs_at_once=max(1, settings.workers))
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


def arrange(catalogue: Catalogue, settings: AppSettings) -> Page:
    """Make every part, in its place."""
    header(catalogue.bundle)
    with gr.Row(elem_id="studio"):
        with gr.Column(elem_id="picture-panel"):
            picture = picture_panel(catalogue)
        with gr.Column(elem_id="stage-panel"):
            stage = stage_panel()
        with gr.Column(elem_id="asset-panel"):
            asset = asset_panel()
    visitor = gr.State(partial(new_visitor, settings.output_folder))
    return Page(picture, stage, asset, gr.State(None), gr.State(None), visitor, gr.State(0), gr.State(None))


def connect(page: Page, handlers: Handlers, *, runs_at_once: int = 1) -> None:
    """Say what happens on each action."""
    _connect_picture(page, handlers)
    _connect_mesh(page, handlers)
    _connect_runs(page, handlers, {**RUNS, "concurrency_limit": runs_at_once})
    _connect_files(page, handlers)
    stage, seen = page.stage, [page.stage.viewer, page.asset.rendering]
    stage.shown.change(handlers.show, [stage.shown, page.run, stage.viewer], seen, **AT_ONCE)
    stage.stages.select(handlers.look_back, [page.run, stage.viewer], seen, **AT_ONCE)


def _connect_picture(page: Page, handlers: Handlers) -> None:
    picture, advanced = page.picture, page.picture.advanced
    gr.on(
        [picture.upload.change, advanced.keep_alpha.change, advanced.room.release],
        handlers.choose_picture,
        [picture.upload, advanced.keep_alpha, advanced.room, picture.mode, page.mesh],
        [page.chosen, picture.cutout, picture.run.generate],
        concurrency_limit=1,
        **QUIET,
    )
    picture.examples.select(handlers.pick_example, None, picture.upload, **QUIET)
    advanced.restore.click(handlers.restore_samplers, None, list(advanced.samplers), **AT_ONCE)


def _connect_mesh(page: Page, handlers: Handlers) -> None:
    mode, mesh, asset = page.picture.mode, page.picture.mesh, page.asset
    emptied = [page.stage.stages, page.stage.viewer, asset.rendering, page.run, asset.facts, asset.health]
    changed = [page.picture.run.generate, asset.downloads, *emptied]
    shown = [mesh.frame, page.picture.advanced.tabs, *changed]
    mode.input(handlers.choose_mode, [mode, page.chosen, page.mesh], shown, **AT_ONCE)
    gr.on(
        [mesh.upload.change, mesh.side.input, mesh.up.input, mesh.uv.input],
        handlers.choose_mesh,
        [page.visitor, mesh.upload, mesh.side, mesh.up, mesh.uv, page.chosen],
        [page.mesh, mesh.card, *changed],
        concurrency_limit=1,
        **QUIET,
    )


def _connect_runs(page: Page, handlers: Handlers, queued: dict[str, Any]) -> None:
    run, stage, asset, finish = page.picture.run, page.stage, page.asset, page.asset.finish
    mode, controls = page.picture.mode, list(finish.controls)
    made = [stage.stages, stage.shown, page.run, asset.facts, asset.health, asset.downloads]
    settings = [run.seed, run.preset, *controls, *page.picture.advanced.samplers]
    numbered = [page.visitor, page.number]
    wanted = run.generate.click(
        handlers.begin, [page.visitor, mode, run.randomise, *settings], [page.number, run.seed, *made], **AT_ONCE
    )
    generated = wanted.success(handlers.generate, [*numbered, mode, page.chosen, page.mesh, *settings], made, **queued)
    wanted_again = finish.update.click(
        handlers.begin_again, [page.visitor, page.run, *controls], [page.number, stage.stages], **AT_ONCE
    )
    finished = wanted_again.success(handlers.finish_again, [*numbered, page.run, *controls], made, **queued)
    stopped = run.stop.click(handlers.stop, [page.visitor, page.run, mode], made, **AT_ONCE)
    for event in (generated, finished):
        event.failure(handlers.unexpected, [page.run, mode], made, **AT_ONCE)
    for event in (generated, finished):
        event.then(handlers.examine, [page.visitor, page.run], asset.health, **FILES)
    for event in (wanted, generated, finished, stopped):
        event.then(handlers.weigh, [page.run, *controls], [finish.purpose, finish.update], **AT_ONCE).then(
            handlers.list_files, [page.run, finish.print_size], asset.downloads, **AT_ONCE
        )


def _connect_files(page: Page, handlers: Handlers) -> None:
    asset, finish = page.asset, page.asset.finish
    finish.purpose.input(
        handlers.choose_purpose, [page.run, finish.purpose], [*finish.controls, finish.update], **AT_ONCE
    )
    gr.on(
        [control.release if isinstance(control, gr.Slider) else control.input for control in finish.controls],
        handlers.weigh,
        [page.run, *finish.controls],
        [finish.purpose, finish.update],
        trigger_mode="always_last",
        **AT_ONCE,
    )
    asset.downloads.select(
        handlers.make_file,
        [page.visitor, page.run, finish.print_size],
        asset.downloads,
        **FILES,
    )
    finish.print_size.release(handlers.list_files, [page.run, finish.print_size], asset.downloads, **AT_ONCE)
