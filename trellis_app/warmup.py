"""Pay for compilation before the first visitor does.

The CPU kernels are compiled by numba at first use and then kept on disk. A small sheet of voxels sent through decoding,
finishing and the previews compiles what nearly every job needs; a leaky vessel, finished in a thread while the page is
already there, compiles the rest: watertight surfaces, inner walls, and a GPU's finishing and convolutions.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from trellis_app.devices import on_device
from trellis_app.errors import TrellisError
from trellis_app.export.finish import finish
from trellis_app.export.formats import FORMATS, write_all
from trellis_app.export.source import ExportSource
from trellis_app.memory import LEAST_SPACE
from trellis_app.mesh.survey import level_set
from trellis_app.models.shape_vae import ShapeDecoder
from trellis_app.pipeline import ImageTo3D
from trellis_app.render.preview import render_preview_rgba
from trellis_app.settings import FinishOptions
from trellis_app.sparse.tensor import SparseTensor
from trellis_app.sparse.workspace import Workspace
from trellis_app.types import DualGrid, MaterialLatent, Occupancy, OVoxel, ShapeLatent
from trellis_app.weights import Bundle

LOG = logging.getLogger(__name__)
SIDE = 24  # voxels along the sheet


def warm_up(pipeline: ImageTo3D, *, rest: bool = False) -> float:
    """Run the compiled kernels that nearly every job needs once; returns the seconds it took.

    rest: start a thread for the others. Not on a Space: it may lend its GPU to forked processes, which threads disturb.
    """
    LOG.info("preparing the kernels; the first start on a machine compiles them, which takes about half a minute")
    started = time.monotonic()
    if pipeline.device.type == "cpu":
        _decode_noise(pipeline)
    sheet = voxel_sheet()
    cells = torch.nn.functional.pad(sheet.grid.coords // 4, (1, 0)).unique(dim=0)
    for stage in (Occupancy(cells, 16), sheet.grid, sheet):
        render_preview_rgba(stage, size=64)
    for step in finish(sheet, FinishOptions(faces=500, texture_size=64)):
        if step.asset is not None:
            render_preview_rgba(step.asset, size=64)
            with tempfile.TemporaryDirectory() as folder:
                write_all(ExportSource(step.asset, sheet), Path(folder), "sheet", tuple(FORMATS))
    seconds = time.monotonic() - started
    LOG.info("kernels ready in %.1f s", seconds)
    if rest:
        warm_up_later(pipeline)
    return seconds


def warm_up_later(pipeline: ImageTo3D) -> threading.Thread:
    """Start compiling what the first job needs late or not at all; the thread logs a failure and stops nothing."""
    thread = threading.Thread(target=_compile_the_rest, args=(pipeline,), name="warm-up", daemon=True)
    thread.start()
    return thread


def _compile_the_rest(pipeline: ImageTo3D) -> None:
    started = time.monotonic()
    try:
        if pipeline.device.type == "cuda":
            decode_without_weights(pipeline.bundle, pipeline.device)
        _finish_vessel(pipeline.device)
    except (TrellisError, RuntimeError) as error:
        LOG.warning("the rest of the kernels is not prepared: %s", error)
        return
    LOG.info("the rest of the kernels ready in %.1f s", time.monotonic() - started)


@torch.inference_mode()
def decode_without_weights(bundle: Bundle, device: torch.device) -> int:
    """Compile a GPU's convolutions for every width of the decoders; returns the voxels that were decoded.

    The shape decoder does it, made of zeros but for the biases that let every child exist: nothing is loaded.
    """
    decoder = bundle.unfilled("shape_slat_decoder", device).to_empty(device=device)
    assert isinstance(decoder, ShapeDecoder)
    for name, parameter in decoder.named_parameters():
        parameter.fill_(1.0 if name.endswith("to_subdiv.bias") else 0.0)
    coords = _few_cells().to(device)
    latent = SparseTensor(torch.zeros(len(coords), decoder.params.latent_channels, device=device), coords)
    return len(decoder(latent, space=Workspace(LEAST_SPACE)).raw.coords)


def _finish_vessel(device: torch.device) -> None:
    vessel = on_device(leaky_vessel(), device)
    for mode in ("single", "watertight"):
        for _ in finish(vessel, FinishOptions(faces=2000, texture_size=64, surface=mode)):
            pass


def _few_cells() -> torch.Tensor:
    """int32 [8, 4] coordinates of a cube of latent voxels."""
    cells = torch.cartesian_prod(*[torch.arange(2, dtype=torch.int32)] * 3)
    return torch.nn.functional.pad(cells, (1, 0))


def leaky_vessel() -> OVoxel:
    """A thick hollow ball with a narrow mouth: it has what the sheet lacks, inner walls and an inside."""
    x, y, z = np.meshgrid(*[np.arange(-SIDE, SIDE + 1)] * 3, indexing="ij")
    distance = np.sqrt(x * x + y * y + z * z)
    grid = level_set((distance - 20.2) * (distance - 14.2), 2 * SIDE, cut=(np.hypot(x, y) < 2) & (z > 0))
    return OVoxel(grid, torch.full((len(grid.coords), 6), 0.5))


def voxel_sheet() -> OVoxel:
    """A flat square of voxels whose quads face up: the smallest asset that every step accepts."""
    line = torch.arange(8, 8 + SIDE, dtype=torch.int32)
    coords = torch.cartesian_prod(line, line, torch.tensor([20], dtype=torch.int32))
    crossed = torch.tensor([False, False, True]).expand(len(coords), 3)
    grid = DualGrid(coords, torch.full((len(coords), 3), 0.5), crossed, None, resolution=64)
    return OVoxel(grid, torch.full((len(coords), 6), 0.5))


@torch.inference_mode()
def _decode_noise(pipeline: ImageTo3D) -> None:
    """A few random latents through both decoders: their convolutions meet every channel count."""
    config = pipeline.bundle.config
    coords = _few_cells()
    random = torch.Generator().manual_seed(0)

    def noise(channels: int) -> SparseTensor:
        return SparseTensor(torch.randn(len(coords), channels, generator=random), coords)

    shape = config.shape_normalization.denormalise(noise(len(config.shape_normalization.mean)))
    material = config.material_normalization.denormalise(noise(len(config.material_normalization.mean)))
    resolution = pipeline.bundle.presets[pipeline.bundle.default_preset].resolution
    grid, guides = pipeline.decode_shape(ShapeLatent(shape, (resolution,)))
    pipeline.decode_material(MaterialLatent(material), grid, guides)
