"""Workers: what a replica does when it is stopped, what the page sees of it, and both together through Ray Serve."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny_bundle import write_tiny_bundle
from trellis_app import serve
from trellis_app.catalogue import Catalogue
from trellis_app.errors import BundleError, EmptyAssetError, MachineError, PictureError, SettingsError
from trellis_app.image.cutout import CutoutOptions
from trellis_app.pipeline import ImageTo3D
from trellis_app.progress import RunClock
from trellis_app.serve_replica import Replica
from trellis_app.settings import AppSettings, FinishOptions, GenerationRequest
from trellis_app.types import FinishedAsset, OVoxel, PreparedImage, Stage, StageEvent
from trellis_app.ui.build import build_ui
from trellis_app.ui.handlers import Work
from trellis_app.weights import load_bundle

SMALL = FinishOptions(faces=1000, texture_size=128)


class Slow(Replica):
    """Counts its steps, a tenth of a second each."""

    def __init__(self) -> None:
        super().__init__(lambda: None)
        self.begun, self.closed = 0, False

    def steps(self, count: int, error: Exception | None = None) -> Iterator[StageEvent]:
        clock = RunClock()
        try:
            for step in range(count):
                self.begun += 1
                time.sleep(0.1)
                yield clock.event(Stage.SHAPE, "step", step, count)
            if error is not None:
                raise error
        finally:
            self.closed = True


def test_a_cancelled_stream_is_closed_after_the_step_at_work():
    async def cancelled() -> Slow:
        replica = Slow()

        async def follow() -> None:
            async for _ in replica._stream(partial(replica.steps, 100)):
                pass

        task = asyncio.create_task(follow())
        await asyncio.sleep(0.35)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return replica

    replica = asyncio.run(cancelled())
    assert replica.closed
    assert 3 <= replica.begun <= 5


def test_an_error_for_the_user_is_the_last_item_and_others_are_raised():
    async def items(error: Exception) -> list[object]:
        replica = Slow()
        return [item async for item in replica._stream(partial(replica.steps, 2, error))]

    found = asyncio.run(items(EmptyAssetError("Nothing.", "Try again.")))
    assert [type(item) for item in found] == [StageEvent, StageEvent, EmptyAssetError]
    with pytest.raises(ZeroDivisionError):
        asyncio.run(items(ZeroDivisionError()))


def test_what_kept_a_replica_from_loading_is_told_to_everyone():
    def load() -> None:
        raise BundleError("The bundle is broken.", "Get another.")

    async def first(replica: Replica) -> object:
        return await anext(replica._stream(iter))

    replica = Replica(load)
    assert isinstance(asyncio.run(first(replica)), BundleError)
    assert isinstance(asyncio.run(replica.failure()), BundleError)


def event(step: int, *, stage: Stage = Stage.SHAPE, elapsed: float = 0.0, result=None) -> StageEvent:
    return StageEvent(stage, f"step {step}", step, 9, elapsed, 8.0, result)


class GoneError(Exception):
    """Stands for a dead process."""


def relayed(stream, cancel=lambda: None) -> Iterator[StageEvent]:
    return serve.relayed(stream, cancel, GoneError)


def test_a_relay_beats_while_nothing_arrives_and_keeps_one_clock():
    gate = threading.Event()

    def stream() -> Iterator[StageEvent]:
        gate.wait()
        yield event(1, elapsed=0.5)
        gate.clear()
        gate.wait()
        yield event(2, elapsed=3.0)

    with closing(relayed(stream())) as events:
        waiting = next(events)
        assert waiting.stage is Stage.IMAGE
        assert waiting.label == "Waiting for a worker"
        gate.set()
        first, again = next(events), next(events)
        gate.set()
        *_, last = events
    assert again.label == first.label
    assert again.elapsed > first.elapsed >= waiting.elapsed
    assert again.remaining < first.remaining
    assert (last.step, last.elapsed) == (2, pytest.approx(first.elapsed + 2.5))


def test_a_beat_after_a_result_does_not_begin_the_stage_again():
    def stream() -> Iterator[StageEvent]:
        yield event(9, result=object())
        time.sleep(0.8)

    done, beat = relayed(stream())
    assert done.result is not None
    assert beat.result is None
    assert beat.stage is Stage.IMAGE


def test_closing_a_relay_cancels_its_stream_at_once():
    cancelled = threading.Event()

    def stream() -> Iterator[StageEvent]:
        yield event(1)
        cancelled.wait(10)

    events = relayed(stream(), cancelled.set)
    next(events)
    begun = time.monotonic()
    events.close()
    assert cancelled.is_set()
    assert time.monotonic() - begun < 1.0


def test_a_relay_ends_with_the_error_of_its_stream():
    def broken(error: Exception) -> Iterator[StageEvent]:
        yield event(1)
        raise error

    with pytest.raises(PictureError, match="Nothing there"):
        list(relayed(iter([event(1), PictureError("Nothing there.", "Take another.")])))
    with pytest.raises(MachineError, match=r"stopped working\. It is started again"):
        list(relayed(broken(GoneError())))
    with pytest.raises(ZeroDivisionError):
        list(relayed(broken(ZeroDivisionError())))


def test_places_of_replicas(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 9)
    share = serve.Share.of(AppSettings(workers=2, device="cpu"))
    assert (share.workers, share.gpus, share.threads) == (2, False, 4)
    assert share.options(0.9)["num_gpus"] == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert serve.Share.of(AppSettings(workers=2)).options(0.9)["num_gpus"] == 0.9
    with pytest.raises(MachineError, match="GPUs for 2 workers, not for 3"):
        serve.Share.of(AppSettings(workers=3))
    with pytest.raises(SettingsError, match="--device names cuda:1"):
        serve.Share.of(AppSettings(workers=2, device="cuda:1"))


def test_the_page_lets_as_many_runs_through_as_there_are_workers(tmp_path):
    work = Work(Catalogue(load_bundle("mini")), *4 * [lambda *_: iter(())])
    for workers, runs in ((0, 1), (3, 3)):
        page = build_ui(work, AppSettings(workers=workers, output_folder=tmp_path))
        limits = {fn.name: fn.concurrency_limit for fn in page.fns.values()}
        assert limits["generate"] == limits["finish_again"] == runs
        assert limits["choose_picture"] == 1


def test_workers_that_cannot_start_are_told():
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("Deploying application Studio failed")

    ray = SimpleNamespace(serve=SimpleNamespace(deployment=lambda kind, **_: SimpleNamespace(bind=str), run=refuse))
    with pytest.raises(MachineError, match=r"could not be started.*The log above says why"):
        serve._deploy(ray.serve, serve.Studio, 2, {}, AppSettings())


def test_without_ray_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(MachineError, match=r"pip install 'ray\[serve\]'"),
        serve.started(AppSettings(workers=2, device="cpu", bundle="mini")),
    ):
        pass


# From here on through Ray Serve: two replicas on this machine.


def picture() -> Image.Image:
    image = Image.new("RGBA", (96, 96), (0, 0, 0, 0))
    image.paste((200, 60, 20, 255), (20, 20, 76, 76))
    return image


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def workers(bundle) -> Iterator[serve.Workers]:
    pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'ray[serve]'")
    with serve.started(AppSettings(workers=2, device="cpu", bundle=str(bundle))) as started:
        yield started


@pytest.fixture(scope="module")
def pipeline(bundle) -> Iterator[ImageTo3D]:
    """In this process, with as many threads as a replica has: sums in the same order."""
    before, share = (
        (torch.get_num_threads(), numba.get_num_threads()),
        serve.Share.of(AppSettings(workers=2, device="cpu")),
    )
    torch.set_num_threads(share.threads)
    numba.set_num_threads(share.threads)  # its OpenMP layer sets the threads of torch as well
    yield ImageTo3D.load(AppSettings(device="cpu", bundle=str(bundle)))
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])


@pytest.fixture(scope="module")
def prepared(workers) -> PreparedImage:
    return workers.prepare(picture(), CutoutOptions())


def results(events) -> dict[type, object]:
    return {type(e.result): e.result for e in events if e.result is not None}


def same(found: dict[type, object], expected: dict[type, object]) -> bool:
    mine, other = found[OVoxel], expected[OVoxel]
    assert torch.equal(mine.grid.coords, other.grid.coords)
    assert torch.equal(mine.grid.dual, other.grid.dual)
    assert torch.equal(mine.attributes, other.attributes)
    np.testing.assert_array_equal(found[FinishedAsset].vertices, expected[FinishedAsset].vertices)
    np.testing.assert_array_equal(found[FinishedAsset].textures.base_color, expected[FinishedAsset].textures.base_color)
    return True


def begun(events: Iterator[StageEvent]) -> StageEvent:
    """The first event that came from a replica."""
    return next(e for e in events if e.stage is not Stage.IMAGE)


def studios() -> list[int]:
    """Processes of the replicas that make assets."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:  # ended meanwhile
            continue
        if command.startswith(b"ray::ServeReplica:Studio"):
            found.append(int(folder.name))
    return found


def test_eight_requests_on_two_replicas_equal_those_of_this_process(workers, pipeline, prepared):
    requests = [GenerationRequest(seed=seed, finish=SMALL) for seed in range(8)]
    with ThreadPoolExecutor(8) as visitors:
        found = list(visitors.map(lambda request: results(workers.generate(prepared, request)), requests))
    mine = pipeline.prepare(picture())
    for request, made in zip(requests, found, strict=True):
        assert same(made, results(pipeline.generate(mine, request)))
    again = results(workers.finish(found[0][OVoxel], replace(SMALL, faces=500)))
    assert len(again[FinishedAsset].faces) <= 500


def test_two_runs_go_on_at_once_and_are_stopped_within_two_seconds(workers, prepared):
    """Baking 2048² textures would keep both replicas for more than five seconds."""
    asset = results(workers.generate(prepared, GenerationRequest(finish=SMALL)))[OVoxel]
    long = [workers.finish(asset, replace(SMALL, texture_size=2048)) for _ in range(2)]
    for run in long:
        assert next(e for e in run if "Bake" in e.label)
    stopped = time.monotonic()
    for run in long:
        run.close()
    later = [workers.generate(prepared, GenerationRequest(seed=seed)) for seed in (1, 2)]
    assert [begun(run).stage for run in later] == [Stage.STRUCTURE] * 2
    assert time.monotonic() - stopped < 2.0
    for run in later:
        run.close()


def test_errors_arrive_as_the_same_two_sentences(workers, prepared):
    with pytest.raises(SettingsError) as caught:
        list(workers.generate(prepared, GenerationRequest(preset="9000")))
    assert (caught.value.what, caught.value.to_do) == (
        f"The bundle {workers.catalogue.bundle.name} has no resolution '9000'.", "Choose one of 64."
    )  # fmt: skip
    with pytest.raises(PictureError):
        workers.prepare(Image.new("RGBA", (64, 64), (9, 9, 9, 0)), CutoutOptions())
    with pytest.raises(Exception, match="NoneType"):
        list(workers.generate(None, GenerationRequest()))
    assert FinishedAsset in results(workers.generate(prepared, GenerationRequest(finish=SMALL)))


def test_a_killed_replica_is_told_and_started_again(workers, pipeline, prepared):
    request = GenerationRequest(seed=3, finish=SMALL)
    run = workers.generate(prepared, request)
    begun(run)
    killed = studios()
    assert len(killed) == 2
    for process in killed:
        os.kill(process, signal.SIGKILL)
    with pytest.raises(MachineError, match=r"stopped working\. It is started again by itself"):
        list(run)
    assert same(results(workers.generate(prepared, request)), results(pipeline.generate(prepared, request)))
    assert not set(killed) & set(studios())


def test_sigterm_ends_the_cluster_without_a_crash():
    pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'ray[serve]'")
    program = (
        "import time; from trellis_app.serve import Share, cluster\n"
        "with cluster(Share(1, False, 1)):\n    print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert any("ready" in line for line in run.stdout)
        run.terminate()
        _, told = run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM
    assert "SIGTERM received" not in told
