"""Three visitors of a page with two workers: two runs at once, Stop lets the third in, a dead worker is told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.tiny_bundle import write_tiny_bundle
from trellis_app.settings import PROJECT_ROOT
from trellis_app.ui.cutout_card import example_pictures

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'ray[serve]'")
pytestmark = pytest.mark.browser

MINI = (PROJECT_ROOT / "assets" / "mini" / "pipeline.json").is_file()
PATIENCE = 300_000  # milliseconds


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of an app with two workers; it is stopped as by Ctrl-C and must leave no process behind."""
    bundle = "mini" if MINI else str(write_tiny_bundle(tmp_path_factory.mktemp("bundle")))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    outputs = str(tmp_path_factory.mktemp("outputs"))
    options = ["--workers", "2", "--port", str(port), "--bundle", bundle, "--device", "cpu", "--output-folder", outputs]
    process = subprocess.Popen([sys.executable, "app.py", *options], cwd=PROJECT_ROOT)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(480):
            assert process.poll() is None, "app.py ended before it served the page"
            try:
                if httpx.get(address).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        yield address
    finally:
        before = workers()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    assert before
    time.sleep(1)
    assert not set(before) & set(workers())


def workers() -> list[int]:
    """Processes of the workers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(b"ray::ServeReplica:Studio"):
                found.append(int(folder.name))
        except OSError:  # ended meanwhile
            continue
    return found


def shown(page: playwright.Page) -> str:  # type: ignore[name-defined]
    return " ".join(page.locator(".stages").first.inner_text().split())


def state(page: playwright.Page, name: str, timeout: float = PATIENCE) -> None:  # type: ignore[name-defined]
    page.wait_for_selector(f".stages[data-state={name}]", timeout=timeout)


def working(page: playwright.Page) -> None:  # type: ignore[name-defined]
    """Wait until a worker is at the run."""
    page.wait_for_selector(".stage[data-state=running]", timeout=PATIENCE)


def test_three_visitors_and_two_workers(url: str, tmp_path: Path) -> None:
    folder = tmp_path
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        pages = [chromium.new_context(viewport={"width": 1440, "height": 900}).new_page() for _ in range(3)]
        for number, page in enumerate(pages):
            page.goto(url)
            page.locator(".example").nth(number % len(example_pictures())).click()
        for page in pages:
            page.wait_for_selector("#generate:not([disabled])", timeout=60_000)
        first, second, third = pages
        for page in (first, second):
            page.click("#generate")
        for page in (first, second):
            working(page)
        third.click("#generate")
        state(third, "waiting")
        assert first.locator(".stages[data-state=running]").count() == 1
        assert second.locator(".stages[data-state=running]").count() == 1
        for number, page in enumerate(pages):
            page.screenshot(path=folder / f"three-{number}.png")
        second.click("#stop")
        state(second, "stopped", timeout=2000)
        working(third)  # on the worker that was freed, while the other one works on
        assert first.locator(".stages[data-state=running]").count() == 1
        for page in (first, third):
            state(page, "done")
            assert page.locator("#downloads a[href]").count() > 0
        first.screenshot(path=folder / "done.png")

        second.click("#generate")
        working(second)
        for worker in workers():
            os.kill(worker, signal.SIGKILL)
        state(second, "error", timeout=5000)
        assert "The worker of this run stopped working." in shown(second)
        second.screenshot(path=folder / "died.png")
        second.click("#generate")  # while the workers are started again
        second.wait_for_selector("text=Waiting for a worker", timeout=5000)
        second.screenshot(path=folder / "restarting.png")
        second.click("#stop")
        state(second, "stopped", timeout=2000)
        second.click("#generate")
        state(second, "done")
        chromium.close()
