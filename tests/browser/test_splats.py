"""Gaussian splats in Gradio's own viewer: drawn, upright, and in their colours."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from tests.voxel_shapes import ball, voxel_asset
from trellis_app.export.files import write_atomically
from trellis_app.export.splats import splat_chunks
from trellis_app.export.surfels import surfels

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.browser


def red_above_blue(points: np.ndarray) -> np.ndarray:
    """Attributes [M, 6] of points [M, 3]: the upper half red, the lower half blue."""
    values = np.tile(np.float32([0.85, 0.1, 0.1, 0.0, 0.6, 1.0]), (len(points), 1))
    values[points[:, 2] < 0, :3] = (0.1, 0.1, 0.85)
    return values


def test_splats_open_in_the_viewer(tmp_path: Path) -> None:
    discs = surfels(voxel_asset(ball(), 64, red_above_blue))
    splats = write_atomically(tmp_path / "ball.splat.ply", splat_chunks(discs))
    with gr.Blocks(analytics_enabled=False) as page:
        gr.Model3D(value=str(splats), height=420, elem_id="viewer")
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, allowed_paths=[str(tmp_path)])
    try:
        with playwright.sync_playwright() as driver:
            chromium = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            tab = chromium.new_page(viewport={"width": 600, "height": 500})
            tab.goto(url)
            tab.wait_for_selector("#viewer canvas", timeout=20_000)
            tab.wait_for_timeout(2500)  # the viewer sorts the splats before it draws them
            tab.locator("#viewer canvas").screenshot(path=tmp_path / "splats.png")
            chromium.close()
    finally:
        page.close()
    pixels = np.asarray(Image.open(tmp_path / "splats.png").convert("RGB")).astype(int)
    red, blue = (pixels[..., a] > pixels[..., b] + 60 for a, b in ((0, 2), (2, 0)))
    assert red.sum() > 2000
    assert blue.sum() > 2000
    height = np.arange(len(pixels))[:, None]
    assert (height * red).sum() / red.sum() < (height * blue).sum() / blue.sum(), "the splats hang upside down"
