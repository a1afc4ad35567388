"""Measured seconds and memory of the whole job, each run in a fresh process: the `bench` command."""

from __future__ import annotations

import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from trellis_app.errors import MachineError
from trellis_app.settings import PROJECT_ROOT

MIB = 2**20


@dataclass(frozen=True)
class Measurement:
    """One run of `generate`, from the start of Python to the files on disk."""

    seconds: float
    peak_memory_mb: float
    stages: dict[str, float]  # seconds by stage and finishing step
    counts: dict[str, int]


def measure(picture: Path, arguments: list[str]) -> Measurement:
    """Run `python -m trellis_app generate` once. Raises MachineError with its last line where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "trellis_app", "generate", str(picture), "--out", folder, *arguments]
        timed = [sys.executable, "-c", _TIMER, *command]
        done = subprocess.run(timed, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise MachineError(f"The measured run failed: {last}", "Run the same generate command by hand.")
        seconds, peak = json.loads(done.stdout.strip().splitlines()[-1])
        record = json.loads((Path(folder) / f"{picture.stem}.json").read_text())
    return Measurement(seconds, peak / MIB, record["seconds"], record["counts"])


# Linux reports ru_maxrss in KiB, macOS in bytes.
_TIMER = """
import json, resource, subprocess, sys, time
start = time.monotonic()
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
seconds = time.monotonic() - start
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit]))
sys.exit(code)
"""


def bench_generate(picture: Path, runs: int, arguments: list[str]) -> dict[str, object]:
    """Median of several runs, with every run and the machine beside it."""
    measured = [measure(picture, arguments) for _ in range(runs)]
    return {
        "picture": picture.name,
        "arguments": arguments,
        "median_seconds": round(statistics.median(m.seconds for m in measured), 2),
        "peak_memory_mb": round(max(m.peak_memory_mb for m in measured)),
        "runs": [asdict(m) for m in measured],
        "machine": machine("cpu"),
        "commit": commit(),
    }


def machine(device: str) -> dict[str, object]:
    """What a figure was measured on."""
    found: dict[str, object] = {
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    return {**found, "gpu": torch.cuda.get_device_name(device)} if device.startswith("cuda") else found


def commit() -> str:
    """Short name of the checkout's commit, empty outside a checkout."""
    command = ["git", "-C", str(PROJECT_ROOT), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


@contextmanager
def warnings_heard() -> Iterator[list[str]]:
    """What the application warns of during the block."""
    heard: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    ear, logger = Ear(logging.WARNING), logging.getLogger("trellis_app")
    logger.addHandler(ear)
    try:
        yield heard
    finally:
        logger.removeHandler(ear)
