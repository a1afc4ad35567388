"""The page without a browser: what each handler changes, in every state, on a tiny bundle of the real classes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import trimesh
from PIL import Image, ImageDraw

from tests.tiny_bundle import write_tiny_bundle
from trellis_app.errors import EmptyAssetError, MachineError
from trellis_app.pipeline import ImageTo3D
from trellis_app.settings import PROJECT_ROOT, AppSettings, FinishOptions, SamplerSettings
from trellis_app.types import Stage, StageEvent
from trellis_app.ui import stages
from trellis_app.ui.build import arrange, build_ui, launch_options
from trellis_app.ui.controls import preset_label, ranged_fields, sliders, with_values
from trellis_app.ui.handlers import STAGES, Handlers, Work
from trellis_app.ui.page import Page
from trellis_app.ui.session import Run, Visitor, new_visitor


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> ImageTo3D:
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("bundle"))
    return ImageTo3D.load(AppSettings(bundle=str(bundle), device="cpu"))


@pytest.fixture
def handlers(pipeline: ImageTo3D, tmp_path: Path) -> Handlers:
    settings = AppSettings(output_folder=tmp_path / "outputs")
    with gr.Blocks():
        page = arrange(pipeline, settings)
    return Handlers(Work(pipeline, pipeline.prepare, pipeline.generate), page)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    image = Image.new("RGBA", (120, 90))
    ImageDraw.Draw(image).ellipse((30, 10, 90, 80), fill=(180, 60, 40, 255))
    path = tmp_path / "red egg!.png"
    image.save(path)
    return path


def chosen(handlers: Handlers, path: Path) -> Any:
    return handlers.choose_picture(str(path), True, 1.0)[handlers.page.chosen]


def values(handlers: Handlers, *, faces: int = 2000, texture_size: int = 256) -> list[Any]:
    return [faces, texture_size, "auto", *handlers.restore_samplers()]


def start(handlers: Handlers, path: Path, folder: Path, seed: int = 3) -> Iterator[dict[Any, Any]]:
    return handlers.generate(*wanted(folder), chosen(handlers, path), seed, "64", *values(handlers))


def wanted(folder: Path) -> tuple[Visitor, int]:
    """A visitor whose first run has begun."""
    visitor = Visitor(folder)
    return visitor, visitor.begin()


def texture_size(glb: Path) -> tuple[int, int]:
    """Of the base colour texture; a GLB may hold an opaque and a translucent part that share it."""
    sizes = {mesh.visual.material.baseColorTexture.size for mesh in trimesh.load(glb).geometry.values()}
    (size,) = sizes
    return size


def last_of(changes: list[dict[Any, Any]], part: Any) -> Any:
    return next(change[part] for change in reversed(changes) if part in change)


def write_bad(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.png"
    if kind == "text":
        path.write_bytes(b"this is not a picture")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "one-pixel":
        Image.new("RGB", (1, 1)).save(path)
    elif kind == "transparent":
        Image.new("RGBA", (64, 64)).save(path)
    elif kind == "huge":
        Image.new("1", (10_000, 10_000)).save(path)
    else:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:600])
    return path


class TestPicture:
    @pytest.mark.parametrize("kind", ["text", "empty", "one-pixel", "transparent", "huge", "cut-off"])
    def test_bad_picture_gets_its_sentences(self, handlers: Handlers, tmp_path: Path, kind: str) -> None:
        changes = handlers.choose_picture(str(write_bad(tmp_path, kind)), True, 1.0)
        card = changes[handlers.page.picture.cutout]
        assert card["state"] == "refused"
        assert card["title"].endswith(".")
        assert card["notes"][0].endswith(".")
        assert changes[handlers.page.chosen] is None
        assert changes[handlers.page.picture.run.generate]["interactive"] is False

    def test_good_picture_shows_its_cutout_and_allows_generate(self, handlers: Handlers, picture: Path) -> None:
        changes = handlers.choose_picture(str(picture), True, 0.8)
        card = changes[handlers.page.picture.cutout]
        assert card["state"] == "ready"
        assert card["picture"].startswith("data:image/webp;base64,")
        assert changes[handlers.page.picture.run.generate]["interactive"] is True

    def test_clearing_the_picture_empties_the_card(self, handlers: Handlers) -> None:
        changes = handlers.choose_picture(None, True, 1.0)
        assert changes[handlers.page.picture.cutout]["state"] == "empty"
        assert changes[handlers.page.chosen] is None

    def test_upload_reaches_the_handler_unopened(self, handlers: Handlers, tmp_path: Path) -> None:
        upload = handlers.page.picture.upload
        path = write_bad(tmp_path, "text")
        assert upload.preprocess(SimpleNamespace(path=str(path))) == str(path)  # type: ignore[arg-type]


class TestRun:
    def test_all_stages_appear_in_turn_and_files_are_kept(
        self, handlers: Handlers, picture: Path, tmp_path: Path
    ) -> None:
        folder = new_visitor(tmp_path / "outputs").folder
        changes = list(start(handlers, picture, folder))
        page = handlers.page
        tokens = [change[page.stage.shown].split(":")[1] for change in changes if page.stage.shown in change]
        assert tokens == ["structure", "shape", "material", "finish"]
        assert changes[0][page.stage.stages]["state"] == "running"
        final = changes[-1][page.stage.stages]
        assert final["state"] == "done"
        assert [card["state"] for card in final["stages"]] == ["done"] * 4
        beats = [change[page.stage.stages]["beat"] for change in changes[:-1]]
        assert beats == sorted(set(beats)), "every event is one beat"
        run: Run = changes[-1][page.run]
        assert run.folder == folder / "001-red-egg-seed3"
        assert {path.name for path in run.folder.iterdir()} == {
            *(f"{stage}.{ending}" for stage in ("structure", "shape", "material") for ending in ("glb", "png")),
            *(f"red-egg.{ending}" for ending in ("glb", "ply", "json", "png")),
            "cutout.png",
        }
        assert changes[-1][page.asset.glb].value
        assert changes[-1][page.asset.ply].interactive

    def test_downloads_are_real(self, handlers: Handlers, picture: Path, tmp_path: Path) -> None:
        run: Run = last_of(list(start(handlers, picture, tmp_path / "s")), handlers.page.run)
        assert texture_size(run.files["glb"]) == (256, 256)
        assert len(trimesh.load(run.files["ply"]).vertices) > 0
        sidecar = json.loads((run.folder / "red-egg.json").read_text())
        assert sidecar["seed"] == 3
        assert sidecar["seconds"]["structure"] >= 0

    def test_closing_the_run_keeps_what_is_done_and_the_next_run_works(
        self, handlers: Handlers, picture: Path, tmp_path: Path
    ) -> None:
        events = start(handlers, picture, tmp_path / "s")
        run: Run | None = None
        for change in events:
            run = change.get(handlers.page.run, run)
            if handlers.page.stage.shown in change:
                break
        events.close()  # type: ignore[attr-defined]
        assert run is not None
        assert run.models[Stage.STRUCTURE].is_file()
        halted = handlers.stop(Visitor(tmp_path), run)[handlers.page.stage.stages]
        assert halted["state"] == "stopped"
        assert halted["has_preview"] == "yes"
        again = list(start(handlers, picture, tmp_path / "s"))
        assert last_of(again, handlers.page.run).folder.name.startswith("002-")
        assert again[-1][handlers.page.stage.stages]["state"] == "done"

    def test_an_empty_stage_says_so_and_keeps_the_stages_before(
        self, handlers: Handlers, picture: Path, tmp_path: Path
    ) -> None:
        def fails_after_structure(*arguments: Any) -> Iterator[StageEvent]:
            for event in pipeline_events(*arguments):
                yield event
                if event.result is not None:
                    raise EmptyAssetError("The shape stage produced no surface.", "Try another seed.")

        pipeline_events = handlers.work.generate
        handlers.work = replace(handlers.work, generate=fails_after_structure)  # type: ignore[arg-type]
        changes = list(start(handlers, picture, tmp_path / "s"))
        view = changes[-1][handlers.page.stage.stages]
        assert (view["state"], view["title"]) == ("error", "The shape stage produced no surface.")
        assert view["detail"] == "Try another seed."
        assert view["stages"][0]["picture"]
        assert changes[-1][handlers.page.run].pictures[Stage.STRUCTURE].is_file()

    def test_without_a_picture_it_says_what_to_do(self, handlers: Handlers, tmp_path: Path) -> None:
        (change,) = handlers.generate(*wanted(tmp_path), None, 0, "64", *values(handlers))
        assert change[handlers.page.stage.stages]["title"] == "There is no picture yet."

    def test_unknown_resolution_is_an_error_in_the_page(
        self, handlers: Handlers, picture: Path, tmp_path: Path
    ) -> None:
        changes = list(handlers.generate(*wanted(tmp_path), chosen(handlers, picture), 0, "4096", *values(handlers)))
        assert changes[-1][handlers.page.stage.stages]["state"] == "error"
        assert "4096" in changes[-1][handlers.page.stage.stages]["title"]

    def test_a_folder_that_cannot_be_written_is_an_error_in_the_page(
        self, handlers: Handlers, picture: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("in the way")
        changes = list(start(handlers, picture, tmp_path / "file" / "session"))
        assert changes[-1][handlers.page.stage.stages]["state"] == "error"

    def test_a_full_disk_at_the_end_leaves_no_half_file(
        self, handlers: Handlers, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any) -> None:
            raise MachineError("The disk is full.", "Free some space.")

        monkeypatch.setattr("trellis_app.ui.recording.write_all", full)
        changes = list(start(handlers, picture, tmp_path / "s"))
        assert changes[-1][handlers.page.stage.stages]["title"] == "The disk is full."
        run: Run = changes[-1][handlers.page.run]
        assert run.asset is not None
        assert changes[-1][handlers.page.asset.refinish]["interactive"] is True
        assert not [path for path in run.folder.iterdir() if path.name.startswith(("red-egg", "."))]

    def test_files_are_made_again_without_sampling(self, handlers: Handlers, picture: Path, tmp_path: Path) -> None:
        run: Run = last_of(list(start(handlers, picture, tmp_path / "s")), handlers.page.run)
        handlers.work = replace(handlers.work, generate=None)  # type: ignore[arg-type]
        changes = list(handlers.finish_again(*wanted(tmp_path), run, 1000, 512, "opaque"))
        again: Run = changes[-1][handlers.page.run]
        assert changes[-1][handlers.page.stage.stages]["state"] == "done"
        assert again.files["glb"] != run.files["glb"]
        assert run.files["glb"].is_file()
        assert texture_size(again.files["glb"]) == (512, 512)

    def test_same_seed_same_file_other_seed_other_file(self, handlers: Handlers, picture: Path, tmp_path: Path) -> None:
        runs = [last_of(list(start(handlers, picture, tmp_path / "s", seed)), handlers.page.run) for seed in (1, 1, 2)]
        first, second, other = (run.files["glb"].read_bytes() for run in runs)
        assert first == second != other

    def test_waiting_draws_a_seed_only_when_asked(self, handlers: Handlers) -> None:
        seed = handlers.page.picture.run.seed
        visitor = Visitor(Path("unused"))
        assert handlers.begin(visitor, False, 7)[seed] == 7
        assert {handlers.begin(visitor, True, 7)[seed] for _ in range(3)} != {7}
        assert handlers.begin(visitor, False, 7)[handlers.page.stage.stages]["state"] == "waiting"
        assert visitor.begun == 5

    def test_a_stop_ends_the_run_before_its_next_step(self, handlers: Handlers, picture: Path, tmp_path: Path) -> None:
        visitor, number = wanted(tmp_path / "s")
        arguments = (visitor, number, chosen(handlers, picture), 0, "64", *values(handlers))
        events = handlers.generate(*arguments)
        next(events)
        assert handlers.stop(visitor, None)[handlers.page.stage.stages]["state"] == "stopped"
        (last,) = events
        assert last[handlers.page.stage.stages]["state"] == "stopped"
        assert list(handlers.generate(*arguments)) == [], "a stopped run that still stood in line does nothing"

    def test_a_stopped_run_is_silent_once_the_next_one_began(
        self, handlers: Handlers, picture: Path, tmp_path: Path
    ) -> None:
        visitor, number = wanted(tmp_path / "s")
        events = handlers.generate(visitor, number, chosen(handlers, picture), 0, "64", *values(handlers))
        next(events)
        handlers.stop(visitor, None)
        following = visitor.begin()
        assert list(events) == []
        assert visitor.wants(following)

    def test_an_unforeseen_error_is_told_and_keeps_what_is_done(
        self, handlers: Handlers, picture: Path, tmp_path: Path
    ) -> None:
        run: Run = last_of(list(start(handlers, picture, tmp_path / "s")), handlers.page.run)
        changes = handlers.unexpected(run)
        assert changes[handlers.page.stage.stages]["state"] == "error"
        assert changes[handlers.page.run].files == run.files

    def test_the_viewer_keeps_the_camera(self, handlers: Handlers, picture: Path, tmp_path: Path) -> None:
        run: Run = last_of(list(start(handlers, picture, tmp_path / "s")), handlers.page.run)
        viewer = SimpleNamespace(camera_position=(12.0, 34.0, 5.0))
        model, rendering = handlers.show("abc:shape", run, viewer)  # type: ignore[arg-type]
        assert model.camera_position == (12.0, 34.0, 5.0)
        assert Path(rendering) == run.pictures[Stage.SHAPE]
        back, _ = handlers.look_back(SimpleNamespace(value="structure"), run, viewer)  # type: ignore[arg-type]
        assert back.camera_position == (12.0, 34.0, 5.0)


class TestControls:
    def test_every_ranged_setting_has_a_slider_with_words(self, handlers: Handlers) -> None:
        with gr.Blocks():
            made = sliders(SamplerSettings(), prefix="x") + sliders(FinishOptions(), prefix="y")
        assert [s.label for s in made] == [
            "Steps", "Guidance", "Softening", "Time on layout", "Triangles", "Texture size",
        ]  # fmt: skip
        assert all(s.info and s.minimum < s.maximum for s in made)
        assert len(handlers.page.picture.advanced.samplers) == len(STAGES) * len(ranged_fields(SamplerSettings()))

    def test_slider_values_keep_whole_numbers_whole(self) -> None:
        settings = with_values(SamplerSettings(), [5.0, 2.0, 0.1, 1.0])
        assert settings == SamplerSettings(steps=5, guidance_strength=2.0, guidance_rescale=0.1, rescale_t=1.0)
        assert isinstance(settings.steps, int)

    def test_request_puts_every_value_in_its_place(self, handlers: Handlers) -> None:
        request = handlers.request("64", 9, (1500, 512, "mask", *range(1, 3), 0.5, 2, 3, 4, 0.25, 1, 5, 6, 0.75, 3))
        assert request.structure == replace(request.structure, steps=1, guidance_strength=2, guidance_rescale=0.5)
        assert request.shape == replace(request.shape, steps=3, guidance_strength=4, guidance_rescale=0.25)
        assert request.material == replace(request.material, steps=5, guidance_strength=6, guidance_rescale=0.75)
        assert request.finish == FinishOptions(1500, 512, "mask")
        assert request.seed == 9

    @pytest.mark.parametrize(
        ("name", "words"), [("256", "256³"), ("1024_cascade", "1024³ in two passes"), ("draft", "draft")]
    )
    def test_preset_words(self, name: str, words: str) -> None:
        assert preset_label(name) == words


class TestStages:
    def test_text_cannot_become_code(self) -> None:
        view = stages.failed(stages.idle(), MachineError("Bad ${alert(1)} `name`\\.", "Fix it."))
        assert not set("`\\") & set(str(view.props()["title"]))
        assert "${" not in str(view.props()["title"])

    def test_idle_view_has_four_waiting_cards(self) -> None:
        props = stages.idle().props()
        assert props["has_preview"] == "no"
        assert props["elapsed"] == ""
        assert [card["name"] for card in props["stages"]] == ["structure", "shape", "material", "finish"]  # type: ignore[attr-defined]

    def test_a_step_moves_the_bar(self) -> None:
        event = StageEvent(Stage.SHAPE, "Shape: step 3 of 12", 3, 12, 4.0, 6.0)
        view = stages.after(stages.idle(), event)
        card = view.stages[1]
        assert (card.state, card.percent, card.note) == ("running", 25, "step 3 of 12")
        assert (view.title, view.remaining) == ("Shape: step 3 of 12.", 6.0)


def test_the_page_is_served_whole_from_this_machine(handlers: Handlers, tmp_path: Path) -> None:
    settings = AppSettings(port=0, output_folder=tmp_path)
    blocks = build_ui(handlers.work, settings)
    assert isinstance(handlers.page, Page)
    _, url, _ = blocks.launch(**launch_options(settings), prevent_thread_lock=True, quiet=True)
    try:
        import httpx

        text = httpx.get(url).text
        assert "TRELLIS.2 Studio" in text
        assert "fonts.googleapis.com" not in text
    finally:
        blocks.close()


@pytest.mark.parametrize("flags", [["--bundle", "/nowhere/bundle"], ["--device", "toaster"]])
def test_the_app_refuses_bad_settings_with_a_sentence(flags: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "app.py", *flags], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_truncated_checkpoint_stops_the_app_with_a_sentence(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path)
    encoder = bundle / "ckpts" / "image_encoder.safetensors"
    encoder.write_bytes(encoder.read_bytes()[:200])
    done = subprocess.run(
        [sys.executable, "app.py", "--bundle", str(bundle)],
        cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "image_encoder.safetensors" in done.stderr
