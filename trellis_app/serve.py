"""Several GPUs through Ray Serve: `--workers N` starts N processes with a pipeline each, to which runs are handed out.

    page ──prepare──▶ Cutter (1 replica)
      │
      └──generate · finish · texture──▶ Ray Serve ──▶ Studio (N replicas, a GPU and one run at a time each)

A run's events stream back; closing the stream cancels the run. A replica that dies is started again, and the run that
it took along ends with a sentence. Ray is an optional package and runs on this machine only.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from trellis_app.catalogue import Catalogue
from trellis_app.devices import choose_device
from trellis_app.errors import MachineError, SettingsError, TrellisError
from trellis_app.heartbeat import BEAT
from trellis_app.image.cutout import CutoutOptions
from trellis_app.mesh.user_mesh import UserMesh
from trellis_app.progress import RunClock
from trellis_app.serve_replica import Cutter, Studio
from trellis_app.settings import AppSettings, FinishOptions, GenerationRequest, set_environment
from trellis_app.texturing import TextureOptions
from trellis_app.types import OVoxel, PreparedImage, Stage, StageEvent
from trellis_app.weights import load_bundle, resolve_source

LOG = logging.getLogger(__name__)
STORE_BYTES = 2 * 10**9  # of main memory for what is on its way between processes; more of it waits on disk
CUTTER_GPU = 0.1  # of a GPU, which it shares with a Studio
DIED = "The worker of this run stopped working.", "It is started again by itself; press the button once more."

Events = Generator[StageEvent, None, None]


@dataclass(frozen=True)
class Share:
    """What one replica gets of the machine."""

    workers: int
    gpus: bool
    threads: int

    @classmethod
    def of(cls, settings: AppSettings) -> Share:
        """One GPU for each worker, or an equal share of the cores. Raises SettingsError or MachineError."""
        count, device = settings.workers, choose_device(settings.device)
        if device.index is not None:
            raise SettingsError(
                f"--workers gives each worker a GPU, but --device names {device}.",
                "Leave --device out, or choose GPUs by CUDA_VISIBLE_DEVICES.",
            )
        gpus = torch.cuda.device_count()
        if device.type == "cuda" and count > gpus:
            raise MachineError(f"This machine has GPUs for {gpus} workers, not for {count}.", f"Use --workers {gpus}.")
        return cls(count, device.type == "cuda", max(1, (os.cpu_count() or 1) // count))

    def options(self, gpu: float) -> dict[str, Any]:
        """A replica's place in Ray's terms."""
        threads = str(self.threads)
        environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment |= {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
        return {"num_cpus": 1, "num_gpus": gpu if self.gpus else 0, "runtime_env": {"env_vars": environment}}


@contextmanager
def started(settings: AppSettings) -> Iterator[Workers]:
    """`settings.workers` replicas, ready to work, for the length of the block.

    Raises MachineError where Ray is not installed or there are fewer GPUs than workers, BundleError as the pipeline
    does.
    """
    share = Share.of(settings)
    with cluster(share), deployed(settings, share, share.workers) as workers:
        yield workers


@contextmanager
def cluster(share: Share) -> Iterator[None]:
    """Ray on this machine for the length of the block. Start it before many threads: it forks this process."""
    ray, serve = _ray()
    gpus = share.workers if share.gpus else 0
    try:
        ray.init(
            address="local", include_dashboard=False, configure_logging=False, object_store_memory=STORE_BYTES,
            num_cpus=share.workers + 1, num_gpus=gpus,
        )  # fmt: skip
    except (RuntimeError, OSError) as error:
        raise MachineError(f"Ray could not be started: {error}.", "Start the app again.") from error
    _end_on_sigterm()
    try:
        serve.start(proxy_location="Disabled")
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


@contextmanager
def deployed(settings: AppSettings, share: Share, count: int, kind: type[Studio] = Studio) -> Iterator[Workers]:
    """So many replicas of a kind on a running cluster, ready to work, for the length of the block."""
    ray, serve = _ray()
    bundle = load_bundle(resolve_source(settings.bundle, choose_device(settings.device)))
    LOG.info("starting workers: %d", count)
    try:
        cutter = _deploy(serve, Cutter, 1, share.options(CUTTER_GPU), settings)
        studio = _deploy(serve, kind, count, share.options(1 - CUTTER_GPU), settings)
        for handle in (cutter, studio):
            _raised(handle.failure.remote().result())
        yield Workers(Catalogue(bundle), studio, cutter, ray.exceptions.RayActorError)
    finally:
        for name in (Cutter.__name__, kind.__name__):
            serve.delete(name)


def _end_on_sigterm() -> None:
    """Let SIGTERM unwind this process in place of Ray's handler, which aborts it with a trace of its own."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _ray() -> tuple[Any, Any]:
    """The modules ray and ray.serve."""
    # Ray reads these when it is imported. The workers are the app, not something in the background.
    set_environment({"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"})
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise MachineError("--workers needs the package ray.", "Run pip install 'ray[serve]'.") from error
    return ray, serve


def _deploy(serve: Any, kind: type, count: int, place: dict[str, Any], settings: AppSettings) -> Any:
    """Replicas of a class and the handle that calls them; returns once all have loaded. Raises MachineError."""
    name = kind.__name__
    deployment = serve.deployment(
        kind, name=name, num_replicas=count, max_ongoing_requests=1, ray_actor_options=place,
        health_check_period_s=2, health_check_timeout_s=60,  # a step may hold Python's lock for long
        graceful_shutdown_wait_loop_s=0.5, graceful_shutdown_timeout_s=5, logging_config={"enable_access_log": False},
    )  # fmt: skip
    try:
        return serve.run(deployment.bind(settings), name=name, route_prefix=None)
    except RuntimeError as error:
        raise MachineError(f"The workers could not be started. ({error})", "The log above says why.") from error


def _raised(value: Any) -> Any:
    """The value, unless it is an error from a replica."""
    if isinstance(value, TrellisError):
        raise value
    return value


class Workers:
    """What the page calls in place of a pipeline of its own."""

    def __init__(self, catalogue: Catalogue, studio: Any, cutter: Any, death: type[Exception]) -> None:
        """studio, cutter: Ray Serve's handles; death: what they raise where a replica is gone."""
        self.catalogue = catalogue
        self._studio, self._cutter, self._death = studio, cutter, death

    def prepare(self, picture: Image.Image, options: CutoutOptions) -> PreparedImage:
        """As `ImageTo3D.prepare`."""
        try:
            prepared: PreparedImage = _raised(self._cutter.prepare.remote(picture, options).result())
        except self._death as error:
            raise MachineError(*DIED) from error
        return prepared

    def generate(self, prepared: PreparedImage, request: GenerationRequest) -> Events:
        """As `ImageTo3D.generate`."""
        return self._events("generate", prepared, request)

    def finish(self, asset: OVoxel, options: FinishOptions) -> Events:
        """As `ImageTo3D.finish`."""
        return self._events("finish", asset, options)

    def texture(
        self, mesh: UserMesh, prepared: PreparedImage, request: GenerationRequest, options: TextureOptions
    ) -> Events:
        """As `texturing.texture`."""
        return self._events("texture", mesh, prepared, request, options)

    def _events(self, method: str, *arguments: object) -> Events:
        stream = self._studio.options(stream=True, method_name=method).remote(*arguments)
        return relayed(iter(stream), stream.cancel, self._death)


def relayed(stream: Iterator[StageEvent | TrellisError], cancel: Callable[[], None], death: type[Exception]) -> Events:
    """The events of a stream from another process, beating also while none arrives; closing them cancels the stream.

    Raises the error that ends the stream, MachineError where `death` says that its process is gone.
    """
    arrived: queue.SimpleQueue[StageEvent | TrellisError | None] = queue.SimpleQueue()
    reader = ThreadPoolExecutor(1)
    reading = reader.submit(_read, stream, arrived)
    try:
        yield from _timed(arrived)
        reading.result()
    except death as error:
        raise MachineError(*DIED) from error
    finally:
        if not reading.done():
            cancel()
        reader.shutdown(wait=False)


def _read(
    stream: Iterator[StageEvent | TrellisError], arrived: queue.SimpleQueue[StageEvent | TrellisError | None]
) -> None:
    try:
        for item in stream:
            arrived.put(item)
    finally:
        arrived.put(None)


def _timed(arrived: queue.SimpleQueue[StageEvent | TrellisError | None]) -> Events:
    """Events up to the None, on one clock that starts now; the newest one once more where none comes for a while."""
    begun, offset = time.monotonic(), None
    event = replace(RunClock().event(Stage.IMAGE, "", 0, 1), label="Waiting for a worker")
    while True:
        try:
            item = arrived.get(timeout=BEAT)
        except queue.Empty:
            yield _again(event, time.monotonic() - begun)
            continue
        if item is None:
            return
        _raised(item)
        assert isinstance(item, StageEvent)
        if offset is None:
            offset = max(0.0, time.monotonic() - begun - item.elapsed)
        event = replace(item, elapsed=item.elapsed + offset)
        yield event


def _again(event: StageEvent, elapsed: float) -> StageEvent:
    """A beat that changes nothing but the clock: a stage that is done stays done."""
    left = None if event.remaining is None else max(0.0, event.remaining - (elapsed - event.elapsed))
    beat = replace(event, elapsed=max(elapsed, event.elapsed), remaining=left, result=None)
    return beat if event.result is None else replace(beat, stage=Stage.IMAGE, step=0)
