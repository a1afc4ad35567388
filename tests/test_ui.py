"""The page without a browser: what each handler changes, in every state, on a tiny bundle of the real classes."""

from __future__ import annotations

import json
import runpy
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
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
from trellis_app.export.formats import FORMATS
from trellis_app.pipeline import ImageTo3D
from trellis_app.progress import RunClock
from trellis_app.settings import PROJECT_ROOT, AppSettings, FinishOptions, SamplerSettings
from trellis_app.texturing import texture
from trellis_app.types import Stage, StageEvent
from trellis_app.ui import downloads, finishing, stages
from trellis_app.ui.build import arrange, build_ui, launch_options
from trellis_app.ui.controls import preset_label, ranged_fields, sliders, with_values
from trellis_app.ui.handlers import STAGES, Handlers, Work
from trellis_app.ui.health_card import health_card
from trellis_app.ui.page import Page
from trellis_app.ui.session import Run, Visitor, new_visitor
from trellis_app.ui.stages import MESH, PICTURE


@pytest.fixture(scope="module", autouse=True)
def _small_pictures() -> Iterator[None]:
    """Rendering for people takes time that no test here needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trellis_app.ui.previews.PICTURE_SIDE", 64)
        yield


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> ImageTo3D:
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("bundle"))
    return ImageTo3D.load(AppSettings(bundle=str(bundle), device="cpu"))


@pytest.fixture(scope="module")
def page(pipeline: ImageTo3D, tmp_path_factory: pytest.TempPathFactory) -> Page:
    with gr.Blocks():
        return arrange(pipeline, AppSettings(output_folder=tmp_path_factory.mktemp("outputs")))


@pytest.fixture
def handlers(pipeline: ImageTo3D, page: Page) -> Handlers:
    return Handlers(work_of(pipeline), page)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    image = Image.new("RGBA", (120, 90))
    ImageDraw.Draw(image).ellipse((30, 10, 90, 80), fill=(180, 60, 40, 255))
    path = tmp_path / "red egg!.png"
    image.save(path)
    return path


def work_of(pipeline: ImageTo3D) -> Work:
    finish = partial(pipeline.finish, clock=RunClock({Stage.FINISH: 1.0}))
    return Work(pipeline, pipeline.prepare, pipeline.generate, finish, partial(texture, pipeline))


def choose(handlers: Handlers, path: Path | None, room: float = 1.0) -> dict[Any, Any]:
    return handlers.choose_picture(str(path) if path else None, True, room, PICTURE, None)


def chosen(handlers: Handlers, path: Path) -> Any:
    return choose(handlers, path)[handlers.page.chosen]


def values(handlers: Handlers, *, faces: int = 2000, texture_size: int = 256) -> list[Any]:
    return [*finishing.values_of(FinishOptions(faces, texture_size)), *handlers.restore_samplers()]


def start(handlers: Handlers, path: Path, folder: Path, seed: int = 3) -> Iterator[dict[Any, Any]]:
    return run_picture(handlers, wanted(folder), chosen(handlers, path), seed)


def run_picture(
    handlers: Handlers, numbered: tuple[Visitor, int], picture: Any, seed: int = 3, preset: str = "64"
) -> Iterator[dict[Any, Any]]:
    return handlers.generate(*numbered, PICTURE, picture, None, seed, preset, *values(handlers))


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
        changes = choose(handlers, write_bad(tmp_path, kind))
        card = changes[handlers.page.picture.cutout]
        assert card["state"] == "refused"
        assert card["title"].endswith(".")
        assert card["notes"][0].endswith(".")
        assert changes[handlers.page.chosen] is None
        assert changes[handlers.page.picture.run.generate]["interactive"] is False

    def test_good_picture_shows_its_cutout_and_allows_generate(self, handlers: Handlers, picture: Path) -> None:
        changes = choose(handlers, picture, 0.8)
        card = changes[handlers.page.picture.cutout]
        assert card["state"] == "ready"
        assert card["picture"].startswith("data:image/webp;base64,")
        assert changes[handlers.page.picture.run.generate]["interactive"] is True

    def test_clearing_the_picture_empties_the_card(self, handlers: Handlers) -> None:
        changes = choose(handlers, None)
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
            *(f"red-egg.{ending}" for ending in ("glb", "json", "png")),
            "cutout.png",
        }
        assert changes[-1][page.asset.downloads]["main"]["name"] == "red-egg.glb"

    def test_the_glb_is_real_and_the_record_tells_its_making(
        self, handlers: Handlers, picture: Path, tmp_path: Path
    ) -> None:
        run: Run = last_of(list(start(handlers, picture, tmp_path / "s")), handlers.page.run)
        assert texture_size(run.folder / "red-egg.glb") == (256, 256)
        sidecar = json.loads((run.folder / "red-egg.json").read_text())
        assert sidecar["seed"] == 3
        assert sidecar["seconds"]["structure"] >= 0

    def test_a_picture_named_like_a_stage_overwrites_no_preview(self, handlers: Handlers, tmp_path: Path) -> None:
        image = Image.new("RGBA", (64, 64), (90, 90, 200, 255))
        image.paste((0, 0, 0, 0), (0, 0, 20, 64))
        image.save(tmp_path / "structure.png")
        run: Run = last_of(list(start(handlers, tmp_path / "structure.png", tmp_path / "s")), handlers.page.run)
        assert run.models[Stage.STRUCTURE] != run.models[Stage.FINISH]

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
        halted = handlers.stop(Visitor(tmp_path), run, PICTURE)[handlers.page.stage.stages]
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
        (change,) = run_picture(handlers, wanted(tmp_path), None)
        assert change[handlers.page.stage.stages]["title"] == "There is no picture yet."

    def test_unknown_resolution_is_an_error_in_the_page(
        self, handlers: Handlers, picture: Path, tmp_path: Path
    ) -> None:
        changes = list(run_picture(handlers, wanted(tmp_path), chosen(handlers, picture), preset="4096"))
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
        def full(*_: Any, **__: Any) -> None:
            raise MachineError("The disk is full.", "Free some space.")

        monkeypatch.setattr("trellis_app.ui.recording.write_all", full)
        changes = list(start(handlers, picture, tmp_path / "s"))
        assert changes[-1][handlers.page.stage.stages]["title"] == "The disk is full."
        run: Run = changes[-1][handlers.page.run]
        assert run.asset is not None
        assert handlers.weigh(run, *finishing.values_of(run.request.finish))[1]["interactive"] is True
        assert not [path for path in run.folder.iterdir() if path.name.startswith(("red-egg", "."))]

    def test_files_are_updated_without_sampling(self, handlers: Handlers, picture: Path, tmp_path: Path) -> None:
        run: Run = last_of(list(start(handlers, picture, tmp_path / "s")), handlers.page.run)
        handlers.work = replace(handlers.work, generate=None)  # type: ignore[arg-type]
        wanted_values = finishing.values_of(FinishOptions(1000, 512, "opaque"))
        changes = list(handlers.finish_again(*wanted(tmp_path), run, *wanted_values))
        again: Run = changes[-1][handlers.page.run]
        assert changes[-1][handlers.page.stage.stages]["state"] == "done"
        assert again.models[Stage.FINISH] != run.models[Stage.FINISH]
        assert run.models[Stage.FINISH].is_file()
        assert texture_size(again.models[Stage.FINISH]) == (512, 512)

    def test_a_stopped_update_keeps_the_files_before(self, handlers: Handlers, picture: Path, tmp_path: Path) -> None:
        run: Run = last_of(list(start(handlers, picture, tmp_path / "s")), handlers.page.run)
        visitor, number = wanted(tmp_path)
        updating = handlers.finish_again(visitor, number, run, *finishing.values_of(FinishOptions(1000, 512)))
        next(updating)
        handlers.stop(visitor, run, PICTURE)
        last = list(updating)[-1]
        assert last[handlers.page.stage.stages]["state"] == "stopped"
        assert last[handlers.page.asset.downloads]["main"]["name"] == "red-egg.glb"
        assert handlers.weigh(last[handlers.page.run], *finishing.values_of(FinishOptions(1000, 512)))[1]["interactive"]

    def test_same_seed_same_file_other_seed_other_file(self, handlers: Handlers, picture: Path, tmp_path: Path) -> None:
        runs = [last_of(list(start(handlers, picture, tmp_path / "s", seed)), handlers.page.run) for seed in (1, 1, 2)]
        first, second, other = (run.models[Stage.FINISH].read_bytes() for run in runs)
        assert first == second != other

    def test_waiting_draws_a_seed_only_when_asked(self, handlers: Handlers) -> None:
        seed = handlers.page.picture.run.seed
        visitor = Visitor(Path("unused"))
        assert handlers.begin(visitor, PICTURE, False, 7)[seed] == 7
        assert {handlers.begin(visitor, PICTURE, True, 7)[seed] for _ in range(3)} != {7}
        assert handlers.begin(visitor, PICTURE, False, 7)[handlers.page.stage.stages]["state"] == "waiting"
        assert visitor.begun == 5

    def test_a_stop_ends_the_run_before_its_next_step(self, handlers: Handlers, picture: Path, tmp_path: Path) -> None:
        visitor, number = wanted(tmp_path / "s")
        events = run_picture(handlers, (visitor, number), chosen(handlers, picture))
        next(events)
        assert handlers.stop(visitor, None, PICTURE)[handlers.page.stage.stages]["state"] == "stopped"
        (last,) = events
        assert last[handlers.page.stage.stages]["state"] == "stopped"
        assert list(run_picture(handlers, (visitor, number), None)) == [], (
            "a stopped run that still stood in line does nothing"
        )

    def test_a_stopped_run_is_silent_once_the_next_one_began(
        self, handlers: Handlers, picture: Path, tmp_path: Path
    ) -> None:
        visitor, number = wanted(tmp_path / "s")
        events = run_picture(handlers, (visitor, number), chosen(handlers, picture))
        next(events)
        handlers.stop(visitor, None, PICTURE)
        following = visitor.begin()
        assert list(events) == []
        assert visitor.wants(following)

    def test_an_unforeseen_error_is_told_and_keeps_what_is_done(
        self, handlers: Handlers, picture: Path, tmp_path: Path
    ) -> None:
        run: Run = last_of(list(start(handlers, picture, tmp_path / "s")), handlers.page.run)
        changes = handlers.unexpected(run, PICTURE)
        assert changes[handlers.page.stage.stages]["state"] == "error"
        assert changes[handlers.page.run].finished == run.finished

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

    @pytest.mark.parametrize(("typed", "meant"), [(None, 1000), (-5, 1000), (2500, 2500), (99_999_999, 1_000_000)])
    def test_a_number_beyond_the_range_means_its_end(self, typed: float | None, meant: float) -> None:
        with gr.Blocks():
            faces, _ = sliders(FinishOptions(), prefix="y")
        assert faces.preprocess(typed) == meant

    def test_slider_values_keep_whole_numbers_whole(self) -> None:
        settings = with_values(SamplerSettings(), [5.0, 2.0, 0.1, 1.0])
        assert settings == SamplerSettings(steps=5, guidance_strength=2.0, guidance_rescale=0.1, rescale_t=1.0)
        assert isinstance(settings.steps, int)

    def test_request_puts_every_value_in_its_place(self, handlers: Handlers) -> None:
        finish = FinishOptions(1500, 512, "mask", "decoded", False)
        samplers = (*range(1, 3), 0.5, 2, 3, 4, 0.25, 1, 5, 6, 0.75, 3)
        request = handlers.request("64", 9, (*finishing.values_of(finish), *samplers))
        assert request.structure == replace(request.structure, steps=1, guidance_strength=2, guidance_rescale=0.5)
        assert request.shape == replace(request.shape, steps=3, guidance_strength=4, guidance_rescale=0.25)
        assert request.material == replace(request.material, steps=5, guidance_strength=6, guidance_rescale=0.75)
        assert request.finish == finish
        assert request.seed == 9

    @pytest.mark.parametrize(
        ("name", "words"), [("256", "256³"), ("1024_cascade", "1024³ in two passes"), ("draft", "draft")]
    )
    def test_preset_words(self, name: str, words: str) -> None:
        assert preset_label(name) == words


class TestMesh:
    """Texture a mesh: a coloured box from the CLI's own classes, on the tiny bundle."""

    @pytest.fixture
    def box(self, tmp_path: Path) -> Path:
        path = tmp_path / "my box.glb"
        trimesh.creation.box((2.0, 1.0, 0.5)).export(path)
        return path

    def choose_mesh(self, handlers: Handlers, path: Path, folder: Path, picture: Any = None) -> dict[Any, Any]:
        return handlers.choose_mesh(Visitor(folder), str(path), 90, "y", "auto", picture)

    def test_a_mesh_shows_in_clay_and_waits_for_a_picture(
        self, handlers: Handlers, box: Path, picture: Path, tmp_path: Path
    ) -> None:
        changes = self.choose_mesh(handlers, box, tmp_path / "s")
        page = handlers.page
        assert changes[page.picture.mesh.card]["title"] == "12 triangles"
        assert changes[page.stage.stages]["has_preview"] == "yes"
        assert Path(changes[page.stage.viewer].value["path"]).is_file()
        assert changes[page.picture.run.generate]["interactive"] is False
        ready = self.choose_mesh(handlers, box, tmp_path / "s", chosen(handlers, picture))
        assert ready[page.picture.run.generate]["interactive"] is True

    @pytest.mark.parametrize(
        ("name", "content"),
        [("a.txt", b"hello"), ("a.glb", b""), ("a.glb", b"glTF broken"), ("a.ply", b"ply\n"), ("a.gltf", b"{}"),
         ("a.obj", b"v 0 0 0\n"), ("a.stl", b"solid x\nendsolid x\n"),
         ("a.obj", b"v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")],
    )  # fmt: skip
    def test_a_bad_mesh_gets_its_sentences(self, handlers: Handlers, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        changes = self.choose_mesh(handlers, tmp_path / name, tmp_path / "s")
        card = changes[handlers.page.picture.mesh.card]
        assert card["state"] == "refused"
        assert card["title"].endswith(".")
        assert card["notes"][0].endswith(".")
        assert changes[handlers.page.mesh] is None

    def test_a_mesh_gets_its_texture_and_new_files_without_sampling(
        self, handlers: Handlers, box: Path, picture: Path, tmp_path: Path
    ) -> None:
        page, folder = handlers.page, tmp_path / "s"
        mesh = self.choose_mesh(handlers, box, folder)[page.mesh]
        arguments = (MESH, chosen(handlers, picture), mesh, 5, "64", *values(handlers))
        changes = list(handlers.generate(*wanted(folder), *arguments))
        view = changes[-1][page.stage.stages]
        assert view["state"] == "done"
        assert [card["label"] for card in view["stages"]] == ["Mesh", "Material", "Finish"]
        assert "layout" in view["detail"] or "UVs" in view["detail"]
        run: Run = changes[-1][page.run]
        assert run.folder.name == "001-my-box-textured-seed5"
        made = trimesh.load(run.folder / "my-box-textured.glb")
        assert np.allclose(made.bounds, trimesh.load(box).bounds)
        everything = list(downloads.make(run, "zip", 100.0))[-1]
        assert "failed" not in {row["state"] for row in everything["rows"]}  # type: ignore[attr-defined]
        handlers.work = replace(handlers.work, texture=None)  # type: ignore[arg-type]
        again = list(handlers.finish_again(*wanted(folder), run, *finishing.values_of(FinishOptions(2000, 512))))
        assert texture_size(again[-1][page.run].models[Stage.FINISH]) == (512, 512)

    def test_without_a_mesh_it_says_what_to_do(self, handlers: Handlers, picture: Path, tmp_path: Path) -> None:
        arguments = (MESH, chosen(handlers, picture), None, 5, "64", *values(handlers))
        (change,) = handlers.generate(*wanted(tmp_path), *arguments)
        assert change[handlers.page.stage.stages]["title"] == "There is no mesh yet."

    def test_the_mode_changes_what_a_run_needs(self, handlers: Handlers, picture: Path) -> None:
        ready = chosen(handlers, picture)
        page = handlers.page
        texturing = handlers.choose_mode(MESH, ready, None)
        assert texturing[page.picture.mesh.frame]["visible"] is True
        assert texturing[page.picture.run.generate]["interactive"] is False
        assert texturing[page.stage.stages]["kind"] == MESH
        back = handlers.choose_mode(PICTURE, ready, None)
        assert back[page.picture.run.generate]["interactive"] is True
        assert len(back[page.stage.stages]["stages"]) == 4


class TestFiles:
    """One run for all: rows of the list, the files behind them, and what finishing controls say."""

    @pytest.fixture(scope="class")
    def finished(self, pipeline: ImageTo3D, page: Page, tmp_path_factory: pytest.TempPathFactory) -> Run:
        folder = tmp_path_factory.mktemp("files")
        handlers = Handlers(work_of(pipeline), page)
        image = Image.new("RGBA", (64, 64))
        ImageDraw.Draw(image).ellipse((10, 5, 50, 60), fill=(40, 60, 180, 255))
        image.save(folder / "egg.png")
        run: Run = last_of(list(start(handlers, folder / "egg.png", folder)), page.run)
        return run

    def test_every_format_has_a_row_and_only_the_glb_exists(self, finished: Run) -> None:
        listed = downloads.download_list(finished, 100.0)
        rows: list[dict[str, str]] = listed["rows"]  # type: ignore[assignment]
        assert {row["key"] for row in rows} >= {*FORMATS} - {"glb"} | {"zip"}
        assert all(row["label"] and row["help"].endswith(".") for row in rows)
        assert listed["main"]["state"] == "made"  # type: ignore[index]
        assert {row["state"] for row in rows} == {"offered"}

    def test_a_row_makes_its_file_and_no_other(self, finished: Run) -> None:
        before = {path.name for path in finished.folder.iterdir()}
        last = list(downloads.make(finished, "ply", 100.0))[-1]
        row = next(row for row in last["rows"] if row["key"] == "ply")  # type: ignore[attr-defined]
        assert row["state"] == "made"
        assert {path.name for path in finished.folder.iterdir()} - before == {row["name"]}
        assert len(trimesh.load(finished.folder / row["name"]).vertices) > 0

    def test_a_smaller_glb_stands_beside_the_first(self, finished: Run) -> None:
        list(downloads.make(finished, "jpeg", 100.0))
        first, smaller = (finished.folder / f"egg{ending}.glb" for ending in ("", "-jpeg"))
        assert 0 < smaller.stat().st_size < first.stat().st_size

    def test_a_print_size_names_the_file(self, finished: Run) -> None:
        listed = downloads.download_list(finished, 80.0)
        names = {row["key"]: row["name"] for row in listed["rows"]}  # type: ignore[attr-defined]
        assert all(names[key].startswith("egg-80mm.") for key, row in FORMATS.items() if "size_mm" in row.options)
        assert names["ply"] == "egg.ply"

    def test_everything_is_one_zip(self, finished: Run) -> None:
        (finished.folder / "egg.ply").unlink(missing_ok=True)
        states = list(downloads.make(finished, "zip", 100.0))
        assert len(states) > 1, "the list grows file by file"
        with zipfile.ZipFile(finished.folder / "egg-100mm.zip") as archive:
            assert archive.testzip() is None
            assert {"egg.glb", "egg.json"} < set(archive.namelist())
            assert len(archive.namelist()) == len(FORMATS) + 1

    def test_a_file_that_cannot_be_made_says_why_in_its_row(
        self, finished: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any, **__: Any) -> None:
            raise MachineError("The disk is full.", "Free some space.")

        monkeypatch.setattr("trellis_app.ui.downloads.write_all", full)
        (last,) = downloads.make(finished, "webp", 100.0)
        row = next(row for row in last["rows"] if row["key"] == "webp")  # type: ignore[attr-defined]
        assert (row["state"], row["help"]) == ("failed", "The disk is full. Free some space.")

    def test_links_stay_inside_the_run_and_are_quoted(self, finished: Run, tmp_path: Path) -> None:
        odd = tmp_path / "a `b` ${c} d.glb"
        odd.write_bytes(b"x")
        assert not set("`${} ") & set(downloads.file_link(odd))
        for offer in downloads.offers(finished, 100.0):
            assert offer.path.parent == finished.folder

    def test_health_is_told_at_once_and_then_closer(self, handlers: Handlers, finished: Run) -> None:
        assert finished.finished is not None
        first = health_card(finished.finished.source.asset.health)
        assert first["note"] == "Looking closer ..."
        closer = handlers.examine(Visitor(finished.folder), finished)
        assert closer["state"] in ("good", "fair", "poor")
        assert {row["name"] for row in closer["rows"]} > {row["name"] for row in first["rows"]}  # type: ignore[attr-defined]
        assert closer["note"].endswith(".")
        assert handlers.examine(Visitor(finished.folder), None)["state"] == "none"

    def test_other_controls_make_the_button_useful(self, handlers: Handlers, finished: Run) -> None:
        same = finishing.values_of(finished.request.finish)
        assert handlers.weigh(finished, *same)[1]["interactive"] is False
        *values_of_game, button = handlers.choose_purpose(finished, "Print")
        assert button["interactive"] is True
        assert finishing.options_of(values_of_game) == finishing.PURPOSES["Print"]
        assert handlers.weigh(finished, *values_of_game)[0] == "Print"
        assert handlers.weigh(None, *same)[1]["interactive"] is False
        assert handlers.weigh(finished, "single", 3000, 512, "auto", True)[0] is None


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
def test_the_app_refuses_bad_settings_with_a_sentence(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal_of(flags, monkeypatch, capsys).startswith("error: ")


def test_a_truncated_checkpoint_stops_the_app_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_tiny_bundle(tmp_path)
    encoder = bundle / "ckpts" / "image_encoder.safetensors"
    encoder.write_bytes(encoder.read_bytes()[:200])
    assert "image_encoder.safetensors" in refusal_of(["--bundle", str(bundle)], monkeypatch, capsys)


def refusal_of(flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of `python app.py` with these flags, which ends with exit code 2."""
    monkeypatch.setattr(sys, "argv", ["app.py", *flags])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PROJECT_ROOT / "app.py"), run_name="__main__")
    assert ended.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]
