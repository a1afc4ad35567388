"""What runs in a worker's process: the pipeline on a GPU of its own, one run at a time, each stopped where it is asked.

Nothing here knows Ray; `serve.py` starts these classes as deployments. Pictures, settings and tensors in main memory
cross the processes. An error that a user may see is a value, so that it arrives as it was raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from PIL import Image

from trellis_app.devices import choose_device
from trellis_app.errors import TrellisError
from trellis_app.image.background import NoMatte, load_matte
from trellis_app.image.cutout import CutoutOptions, Matte, prepare
from trellis_app.mesh.user_mesh import UserMesh
from trellis_app.pipeline import ImageTo3D
from trellis_app.progress import RunClock
from trellis_app.settings import AppSettings, FinishOptions, GenerationRequest
from trellis_app.texturing import TextureOptions, texture
from trellis_app.types import OVoxel, PreparedImage, Stage, StageEvent
from trellis_app.warmup import warm_up
from trellis_app.weights import load_bundle, resolve_source

Value = TypeVar("Value")
Events = Generator[StageEvent, None, None]
Stream = AsyncGenerator[StageEvent | TrellisError, None]


class Replica:
    """One thread that does the work, so that the process can be asked to stop it, and what it works with."""

    def __init__(self, load: Callable[[], None]) -> None:
        """load: run at once; what it raises is told to everyone who asks for something."""
        self._thread = ThreadPoolExecutor(1)
        self._failure: TrellisError | None = None
        try:
            load()
        except TrellisError as error:
            self._failure = error

    async def failure(self) -> TrellisError | None:
        """Why this replica can do nothing, if so."""
        return self._failure

    async def _call(self, work: Callable[[], Value]) -> Value:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _stream(self, start: Callable[[], Events]) -> Stream:
        """The events, and at last the error that ended them. Cancelled, it closes them after the step at work."""
        if self._failure is not None:
            yield self._failure
            return
        events = start()
        try:
            while (event := await self._call(partial(next, events, None))) is not None:
                yield event
        except TrellisError as error:
            yield error
        finally:
            await self._call(events.close)


class Studio(Replica):
    """Makes and finishes assets."""

    def __init__(self, settings: AppSettings) -> None:
        super().__init__(partial(self._load, settings))

    def _load(self, settings: AppSettings) -> None:
        self._pipeline = ImageTo3D.load(settings, matte=NoMatte())
        warm_up(self._pipeline)

    async def generate(self, prepared: PreparedImage, request: GenerationRequest) -> Stream:
        """Events of `ImageTo3D.generate`."""
        async for item in self._stream(lambda: self._pipeline.generate(prepared, request)):
            yield item

    async def finish(self, asset: OVoxel, options: FinishOptions) -> Stream:
        """Events of `ImageTo3D.finish`."""
        clock = RunClock({Stage.FINISH: 1.0})
        async for item in self._stream(lambda: self._pipeline.finish(asset, options, clock)):
            yield item

    async def texture(
        self, mesh: UserMesh, prepared: PreparedImage, request: GenerationRequest, options: TextureOptions
    ) -> Stream:
        """Events of `texturing.texture`."""
        async for item in self._stream(lambda: texture(self._pipeline, mesh, prepared, request, options)):
            yield item


class Cutter(Replica):
    """Cuts objects out of pictures, at hand while every Studio is at work."""

    def __init__(self, settings: AppSettings) -> None:
        super().__init__(partial(self._load, settings))

    def _load(self, settings: AppSettings) -> None:
        device = choose_device(settings.device)
        bundle = load_bundle(resolve_source(settings.bundle, device))
        self._matte: Matte = load_matte(bundle, device, original=settings.original_encoders)

    async def prepare(self, picture: Image.Image, options: CutoutOptions) -> PreparedImage | TrellisError:
        """`cutout.prepare` with the bundle's background remover."""
        if self._failure is not None:
            return self._failure
        try:
            return await self._call(partial(prepare, picture, self._matte, options))
        except TrellisError as error:
            return error
