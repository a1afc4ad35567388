"""Pay for compilation before the first visitor does.

The CPU kernels are compiled by numba at first use and then kept on disk. A small sheet of voxels sent through decoding,
finishing and the previews compiles them all.
"""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path

import torch

from trellis_app.export.finish import finish
from trellis_app.export.formats import FORMATS, write_all
from trellis_app.export.source import ExportSource
from trellis_app.pipeline import ImageTo3D
from trellis_app.render.preview import render_preview_rgba
from trellis_app.settings import FinishOptions
from trellis_app.sparse.tensor import SparseTensor
from trellis_app.types import DualGrid, MaterialLatent, Occupancy, OVoxel, ShapeLatent

LOG = logging.getLogger(__name__)
SIDE = 24  # voxels along the sheet


def warm_up(pipeline: ImageTo3D) -> float:
    """Run every compiled kernel once; returns the seconds it took."""
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
    return seconds


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
    cells = torch.cartesian_prod(*[torch.arange(2, dtype=torch.int32)] * 3)
    coords = torch.nn.functional.pad(cells, (1, 0))
    random = torch.Generator().manual_seed(0)

    def noise(channels: int) -> SparseTensor:
        return SparseTensor(torch.randn(len(coords), channels, generator=random), coords)

    shape = config.shape_normalization.denormalise(noise(len(config.shape_normalization.mean)))
    material = config.material_normalization.denormalise(noise(len(config.material_normalization.mean)))
    resolution = pipeline.bundle.presets[pipeline.bundle.default_preset].resolution
    grid, guides = pipeline.decode_shape(ShapeLatent(shape, (resolution,)))
    pipeline.decode_material(MaterialLatent(material), grid, guides)
