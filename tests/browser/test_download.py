"""A bundle that is still on the hub: the page shows its download, Stop ends it, the next run makes files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import test_page as pages
from tests.browser.test_page import App, Visit, browser, visit  # noqa: F401 (fixtures)
from tests.hub_mirror import Mirror, serving
from tests.tiny_bundle import write_tiny_bundle
from trellis_app.settings import PROJECT_ROOT

pytestmark = pytest.mark.browser
SLOW = "shape_slat_flow_model_64.safetensors"


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    folder = tmp_path_factory.mktemp("hub")
    write_tiny_bundle(folder / "owner" / "tiny")
    with serving(folder) as server:
        yield server


@pytest.fixture(scope="module")
def app(mirror: Mirror, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder, port = tmp_path_factory.mktemp("outputs"), pages.free_port()
    home = {"HF_ENDPOINT": mirror.address, "HF_HOME": str(tmp_path_factory.mktemp("home"))}
    flags = ["--port", str(port), "--bundle", "owner/tiny", "--device", "cpu", "--output-folder", str(folder)]
    process = subprocess.Popen([sys.executable, "app.py", *flags], cwd=PROJECT_ROOT, env={**os.environ, **home})
    found = App(f"http://127.0.0.1:{port}", folder, process)
    try:
        pages.wait_until_served(found.url, process)
        yield found
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_a_run_that_downloads(visit: Visit, mirror: Mirror, tmp_path: Path, pytestconfig: pytest.Config) -> None:  # noqa: F811
    pages.choose_picture(visit, tmp_path)
    mirror.faults.refused["owner/tiny"] = (403, "GatedRepo")
    visit.page.click("#generate")
    visit.state("error", timeout=10_000)
    assert "owner/tiny asks you to accept its licence first. Accept it on" in visit.page.locator(".status").inner_text()
    mirror.faults.refused.clear()
    mirror.faults.pause[SLOW] = 4.0
    visit.page.click("#generate")
    visit.page.wait_for_selector(".stages:has-text('Downloading the model')", timeout=10_000)
    visit.page.wait_for_selector(f".stages:has-text('{SLOW}')", timeout=10_000)
    shown = visit.page.locator(".stages").inner_text()
    assert re.search(r"Downloading the model, \d\.\d of \d\.\d MB \(file \d of \d: " + re.escape(SLOW), shown)
    assert visit.page.locator(".empty-title.when-coming").is_visible()
    assert not visit.page.locator(".empty-title.when-busy").is_visible()
    visit.page.screenshot(path=pytestconfig.getoption("screenshot") or tmp_path / "page.png")
    assert pages.stop(visit) < pages.STOP_SECONDS
    mirror.faults.pause.clear()
    pages.run_once(visit)
    assert pages.download(visit, "#glb", tmp_path).stat().st_size > 1000
    assert mirror.sent[SLOW] <= 2 * (mirror.folder / "owner" / "tiny" / "ckpts" / SLOW).stat().st_size
