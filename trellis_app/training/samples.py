"""Training samples: an augmented object as an O-Voxel asset in the frame of the view, with framed pictures of it.

    Library ─task(index)─▶ worker: augment ─▶ to_view_frame ─┬▶ dual grid + attributes ─┐
                                                             └▶ views, cropped square   ─┴▶ Sample ─spool─▶ in order

Sample i of a stream is a function of (library, seed, options, i) alone, whatever the number of workers.
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import pickle
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType

import numba
import numpy as np
import torch
from PIL import Image

from trellis_app.errors import MeshError, PictureError
from trellis_app.image.framing import object_box, square_crop
from trellis_app.ovoxel.attributes import flat_attributes
from trellis_app.ovoxel.from_mesh import mesh_to_dual_grid
from trellis_app.render.camera import Camera
from trellis_app.training.augment import augment, to_view_frame
from trellis_app.training.library import Library, LibraryObject, check_visible
from trellis_app.training.shapes import random_object
from trellis_app.training.views import random_light, random_view, render_view
from trellis_app.types import Mesh

LOG = logging.getLogger(__name__)
RENDER_SCALE = 1.07  # rendered side by framed side: the camera leaves a margin of 3 % around the object
MEMORY_FOLDER_BYTES = 4 << 30  # free memory disk from which samples pass through it
TRIES = 8  # cameras tried for a view before the object is given up


@dataclass(frozen=True)
class SampleOptions:
    """What a sample holds."""

    resolution: int = 256  # voxels along a side
    views: int = 2  # pictures a sample, all of the same yaw
    view_side: int = 256  # pixels
    procedural: float = 0.2  # share of generated objects
    pairs: float = 0.12  # share of samples with two objects
    augment: bool = True


@dataclass(frozen=True, eq=False)
class Sample:
    """One training example; rows of the voxel arrays are in lexicographic order of the coordinates."""

    name: str
    resolution: int
    yaw: float  # radians; `to_view_frame(object, yaw)` is the mesh of this sample
    coords: np.ndarray  # int16 [M, 3]
    dual: np.ndarray  # uint8 [M, 3] dual vertex within its voxel x 255
    crossed: np.ndarray  # uint8 [M] x + 2 y + 4 z
    attributes: np.ndarray  # uint8 [M, 6] base colour, metallic, roughness, alpha
    views: np.ndarray  # uint8 [K, S, S, 4] RGBA, not premultiplied, cropped as image/framing.py does
    cameras: tuple[Camera, ...]  # [K]


@dataclass(frozen=True)
class Skipped:
    """A task whose object cannot be used, and why."""

    index: int
    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Task:
    """What a worker needs for sample `index`; an object of None is generated."""

    index: int
    seed: int
    options: SampleOptions
    object: LibraryObject | None
    other: LibraryObject | None


def make_sample(
    obj: LibraryObject,
    rng: np.random.Generator,
    *,
    resolution: int = 256,
    views: int = 2,
    view_side: int = 256,
    yaw: float | None = None,
) -> Sample:
    """Turn an object (Y up) by a random or the given yaw, voxelise it and render framed views.

    Raises MeshError where it shows nothing, has no voxel, or cannot be seen.
    """
    yaw = rng.uniform(0, 2 * np.pi) if yaw is None else yaw
    framed = to_view_frame(check_visible(obj), yaw)
    mesh = Mesh(torch.from_numpy(framed.vertices), torch.from_numpy(framed.faces))
    grid = mesh_to_dual_grid(mesh, resolution)
    if not len(grid.coords):
        raise MeshError(f"{obj.name} crosses no edge of the {resolution} grid.", "Leave it out.")
    attributes = flat_attributes(framed.vertices, framed.faces, framed.corner_rgba, framed.metal_rough, grid)
    pictures, cameras = zip(*(framed_view(framed, rng, side=view_side) for _ in range(views)), strict=True)
    return Sample(
        name=obj.name,
        resolution=resolution,
        yaw=float(yaw),
        coords=grid.coords.numpy().astype(np.int16),
        dual=np.clip(grid.dual.numpy() * 255, 0, 255).astype(np.uint8),
        crossed=(grid.crossed.numpy() @ np.array([1, 2, 4], np.uint8)).astype(np.uint8),
        attributes=np.asarray(attributes),
        views=np.stack(pictures),
        cameras=cameras,
    )


def framed_view(framed: LibraryObject, rng: np.random.Generator, *, side: int) -> tuple[np.ndarray, Camera]:
    """A picture uint8 [S, S, 4] from a random camera in random light, cropped; the camera is that before the crop.

    Raises MeshError where the object, thin or clear as it is, cannot be seen from any camera tried.
    """
    used = framed.vertices[np.unique(framed.faces)]
    reason = ""
    for _ in range(TRIES):
        camera = random_view(rng, used)
        picture = render_view(framed, camera, random_light(rng), size=round(RENDER_SCALE * side), supersample=2)
        try:
            return square_view(picture, side), camera
        except PictureError as error:
            reason = error.what
    raise MeshError(f"{framed.name} cannot be seen: {reason}", "Leave it out.")


def square_view(picture: np.ndarray, side: int) -> np.ndarray:
    """Crop RGBA uint8 [H, W, 4] as the product frames a cut-out, and resize to [side, side, 4].

    Raises PictureError where too few pixels are opaque enough to crop by, or the crop cuts off see-through parts.
    """
    box = object_box(picture[..., 3])
    if box is None or max(box[2] - box[0], box[3] - box[1]) < 8:
        raise PictureError("The object covers too few pixels.", "Choose another camera.")
    visible = picture[..., 3] > 51
    if visible[box[1] : box[3] + 1, box[0] : box[2] + 1].sum() < 0.98 * visible.sum():
        raise PictureError("The object is mostly see-through.", "Choose another light.")
    crop = Image.fromarray(picture).crop(square_crop(box))  # type: ignore[arg-type]
    return np.asarray(crop.resize((side, side), Image.Resampling.LANCZOS))


def produce(task: Task) -> Sample | Skipped:
    """Make the sample of a task; an object that cannot be used becomes a Skipped."""
    rng = np.random.default_rng([task.seed, task.index, 1])
    options = task.options
    obj = random_object(rng) if task.object is None else task.object
    try:
        if options.augment:
            obj = augment(obj, rng, task.other)
        return make_sample(obj, rng, resolution=options.resolution, views=options.views, view_side=options.view_side)
    except MeshError as error:
        return Skipped(task.index, obj.name, str(error))


@dataclass(frozen=True)
class Spooled:
    """A sample in a file: the bytes of its arrays, then the pickle that names them (a pipe is three times slower)."""

    path: Path
    sizes: tuple[int, ...]  # bytes of each array; the pickle is the rest


def spool(task: Task, folder: Path) -> Spooled | Skipped:
    """`produce`, with the sample left in a file of the folder for `fetch`."""
    sample = produce(task)
    if isinstance(sample, Skipped):
        return sample
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(sample, protocol=5, buffer_callback=buffers.append)
    arrays = [buffer.raw() for buffer in buffers]
    path = folder / f"{task.index}.sample"
    with path.open("wb") as stream:
        stream.writelines([*arrays, head])
    return Spooled(path, tuple(len(a) for a in arrays))


def fetch(spooled: Spooled) -> Sample:
    """Read a spooled sample and remove its file; the arrays share one block of memory."""
    block = np.fromfile(spooled.path, np.uint8).data
    spooled.path.unlink()
    ends = np.cumsum([0, *spooled.sizes]).tolist()
    arrays = [block[a:b] for a, b in itertools.pairwise(ends)]
    sample: Sample = pickle.loads(block[ends[-1] :], buffers=arrays)
    return sample


def _spool_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder in memory where there is room for it, else among the temporary files."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > MEMORY_FOLDER_BYTES
    return tempfile.TemporaryDirectory(prefix="samples-", dir=memory if roomy else None)


class SampleStream(Iterator[Sample]):
    """An endless, reproducible stream of samples made by worker processes; use it in a `with` block.

    Rank r of n processes passes start=r, stride=n. Objects come in shuffled rounds over the library. Objects
    that cannot be used are logged and left out; any other error of a worker is raised here with the worker's traceback.
    """

    def __init__(
        self,
        library: Library | Sequence[LibraryObject],
        *,
        workers: int,
        seed: int = 0,
        options: SampleOptions = SampleOptions(),
        start: int = 0,
        stride: int = 1,
    ) -> None:
        if workers < 1 or stride < 1 or start < 0:
            raise ValueError(f"workers {workers}, stride {stride} and start {start} must be 1, 1 and 0 at least")
        if not len(library) and options.procedural < 1:
            raise MeshError("The library is empty.", "Give one with objects, or procedural=1.")
        self._library, self._seed, self._options = library, seed, options
        self._next, self._stride, self._window = start, stride, 4 * workers
        context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
        context.set_forkserver_preload([__name__])
        self._closed = False
        self._folder = _spool_folder()
        self._pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_use_one_thread)
        self._pending: deque[Future[Spooled | Skipped]] = deque()
        self._submit(1)  # alone, so that only one worker fills numba's cache

    def __next__(self) -> Sample:
        try:
            while self._pending:
                result = self._pending.popleft().result()
                self._submit(self._window)
                if isinstance(result, Spooled):
                    return fetch(result)
                LOG.warning("sample %d: left out %s: %s", result.index, result.name, result.reason)
        except (CancelledError, RuntimeError, OSError):
            if not self._closed:  # another thread may close the stream while this one waits
                raise
        raise StopIteration

    def _submit(self, window: int) -> None:
        while len(self._pending) < window:
            self._pending.append(self._pool.submit(spool, self._task(self._next), Path(self._folder.name)))
            self._next += self._stride

    def _task(self, index: int) -> Task:
        rng = np.random.default_rng([self._seed, index, 0])
        generated, paired = rng.random(2) < (self._options.procedural, self._options.pairs)
        count = len(self._library)
        obj = None
        if not generated:
            obj = self._library[int(_round(self._seed, index // count, count)[index % count])]
        other = self._library[int(rng.integers(count))] if paired and count and self._options.augment else None
        return Task(index, self._seed, self._options, obj, other)

    def close(self) -> None:
        """Stop the workers; samples under way are thrown away. A closed stream ends."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()
        self._folder.cleanup()

    def __enter__(self) -> SampleStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@lru_cache(maxsize=8)
def _round(seed: int, number: int, count: int) -> np.ndarray:
    """Order of the objects in one round over the library."""
    return np.random.default_rng([seed, number, 2]).permutation(count)


def _use_one_thread() -> None:
    numba.set_num_threads(1)
    torch.set_num_threads(1)


def write_shard(path: str | Path, samples: Sequence[Sample]) -> None:
    """Store samples of one resolution in an uncompressed npz file; it appears whole or not at all."""
    path = Path(path)
    arrays: dict[str, np.ndarray] = {
        "names": np.array([s.name for s in samples], dtype=str),
        "resolution": np.array([s.resolution for s in samples]),
        "yaw": np.array([s.yaw for s in samples]),
        "offsets": np.cumsum([0, *(len(s.coords) for s in samples)]),
        "views": np.stack([s.views for s in samples]),
        "cameras": np.array([[[*astuple(c)[:-1], *c.window] for c in s.cameras] for s in samples]),
        **{name: np.concatenate([getattr(s, name) for s in samples]) for name in VOXEL_ARRAYS},
    }
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
    part.replace(path)


VOXEL_ARRAYS = ("coords", "dual", "crossed", "attributes")


def _camera(row: list[float]) -> Camera:
    yaw, pitch, radius, fov, near, far, *window = row
    return Camera(yaw, pitch, radius, fov, near, far, window=(window[0], window[1], window[2]))


def read_shard(path: str | Path) -> list[Sample]:
    """Read the samples of `write_shard`, equal to those written."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored}
    return [
        Sample(
            name=str(arrays["names"][i]),
            resolution=int(arrays["resolution"][i]),
            yaw=float(arrays["yaw"][i]),
            views=arrays["views"][i],
            cameras=tuple(_camera(row) for row in arrays["cameras"][i].tolist()),
            **{name: arrays[name][arrays["offsets"][i] : arrays["offsets"][i + 1]] for name in VOXEL_ARRAYS},
        )
        for i in range(len(arrays["names"]))
    ]
