"""The warm-up runs on a real bundle, and its sheet is an asset."""

import numpy as np
import torch

from tests.tiny_bundle import write_tiny_bundle
from trellis_app.export.finish import decoded_surface
from trellis_app.pipeline import ImageTo3D
from trellis_app.warmup import SIDE, voxel_sheet, warm_up
from trellis_app.weights import load_bundle


def test_the_sheet_is_one_flat_surface():
    surface = decoded_surface(voxel_sheet())
    assert len(surface.faces) == 2 * (SIDE - 1) ** 2
    assert np.ptp(surface.vertices[surface.faces.ravel(), 2]) == 0


def test_warm_up_leaves_the_pipeline_ready(tmp_path):
    pipeline = ImageTo3D(load_bundle(write_tiny_bundle(tmp_path)), torch.device("cpu"))
    assert warm_up(pipeline) > 0
