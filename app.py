"""The app, on localhost (`python app.py --help`) and as a Hugging Face Space: settings -> pipelines -> page."""

from __future__ import annotations

import logging
import sys
from contextlib import nullcontext

import spaces  # before anything that touches CUDA
from PIL import Image

from trellis_app.errors import TrellisError
from trellis_app.image.cutout import CutoutOptions
from trellis_app.mesh.user_mesh import UserMesh
from trellis_app.pipeline import ImageTo3D
from trellis_app.progress import RunClock
from trellis_app.serve import started
from trellis_app.settings import FinishOptions, GenerationRequest
from trellis_app.texturing import TextureOptions, texture
from trellis_app.types import OVoxel, PreparedImage, Stage
from trellis_app.ui.build import build_ui, launch_options
from trellis_app.ui.flags import parse_settings
from trellis_app.ui.handlers import Events, Work
from trellis_app.warmup import warm_up


@spaces.GPU(duration=30)
def prepare(picture: Image.Image, options: CutoutOptions) -> PreparedImage:
    """Cut the object out; a Space lends a GPU for it."""
    return PIPELINE.prepare(picture, options)


@spaces.GPU(duration=180)
def generate(prepared: PreparedImage, request: GenerationRequest) -> Events:
    """All stages; a Space lends a GPU for them."""
    yield from PIPELINE.generate(prepared, request)


@spaces.GPU(duration=60)
def finish(asset: OVoxel, options: FinishOptions) -> Events:
    """Other files of a kept asset; a Space lends a GPU for them."""
    yield from PIPELINE.finish(asset, options, RunClock({Stage.FINISH: 1.0}))


@spaces.GPU(duration=120)
def colour(mesh: UserMesh, prepared: PreparedImage, request: GenerationRequest, options: TextureOptions) -> Events:
    """The material stage on a given mesh; a Space lends a GPU for it."""
    yield from texture(PIPELINE, mesh, prepared, request, options)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)
    try:
        SETTINGS = parse_settings()
        with started(SETTINGS) if SETTINGS.workers else nullcontext() as them:
            if them is not None:
                WORK = Work(them.catalogue, them.prepare, them.generate, them.finish, them.texture)
            else:
                PIPELINE = ImageTo3D.load(SETTINGS)
                warm_up(PIPELINE, rest=not SETTINGS.on_space)
                WORK = Work(PIPELINE, prepare, generate, finish, colour)
            build_ui(WORK, SETTINGS).launch(**launch_options(SETTINGS))
    except TrellisError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
