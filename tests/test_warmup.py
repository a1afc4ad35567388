"""The warm-up runs on a real bundle, and its sheet is an asset."""

from types import SimpleNamespace

import numpy as np
import torch

from tests.tiny_bundle import write_tiny_bundle
from trellis_app.export.finish import decoded_surface
from trellis_app.mesh import hidden, orient, repair, surface_net
from trellis_app.pipeline import ImageTo3D
from trellis_app.warmup import SIDE, decode_without_weights, leaky_vessel, voxel_sheet, warm_up, warm_up_later
from trellis_app.weights import load_bundle


def test_the_sheet_is_one_flat_surface():
    surface = decoded_surface(voxel_sheet())
    assert len(surface.faces) == 2 * (SIDE - 1) ** 2
    assert np.ptp(surface.vertices[surface.faces.ravel(), 2]) == 0


def test_warm_up_leaves_the_pipeline_ready(tmp_path):
    pipeline = ImageTo3D(load_bundle(write_tiny_bundle(tmp_path)), torch.device("cpu"))
    assert warm_up(pipeline) > 0


def cpu_pipeline():
    """All of a pipeline that the later warm-up asks for on a CPU."""
    return SimpleNamespace(device=torch.device("cpu"))


def test_decoding_without_weights_reaches_every_level(tmp_path):
    bundle = load_bundle(write_tiny_bundle(tmp_path))
    doublings = len(bundle.model("shape_slat_decoder").blocks) - 1
    assert decode_without_weights(bundle, torch.device("cpu")) == 8 * 8**doublings


def test_the_rest_is_compiled_in_a_thread():
    warm_up_later(cpu_pipeline()).join()
    for kernel in (surface_net.net_triangles, hidden._rays_out, orient.opposed_regions, repair._following):
        assert kernel.signatures


def test_a_failure_is_logged_and_stops_nothing(monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("trellis_app.warmup.finish", fail)
    warm_up_later(cpu_pipeline()).join()
    assert "out of memory" in caplog.text


def test_the_vessel_has_an_inner_wall():
    assert len(leaky_vessel().grid.coords) > 5000
