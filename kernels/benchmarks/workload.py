"""Workloads of real size and honest timing, shared by all benchmarks here."""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def voxel_shell(count: int, device: torch.device) -> torch.Tensor:
    """About `count` voxels int32 [N, 4] of a sphere's shell 1.25 voxels thick, in lexicographic order."""
    radius = math.sqrt(count / (4 * math.pi * 1.25))
    side = 2 * math.ceil(radius) + 2
    line = torch.arange(side, device=device, dtype=torch.float32) - (side - 1) / 2
    slabs = []
    for begin in range(0, side, 64):
        part = line[begin : begin + 64]
        distance = (part[:, None, None] ** 2 + line[None, :, None] ** 2 + line[None, None, :] ** 2).sqrt_()
        slab = torch.nonzero((distance > radius - 1.25) & (distance <= radius))
        slabs.append(slab + torch.tensor([begin, 0, 0], device=device))
    return torch.nn.functional.pad(torch.cat(slabs), (1, 0)).to(torch.int32)


def benchmark(op: str, cases: Callable[[torch.device, int], Iterator[dict[str, object]]]) -> int:
    """The command line of one op's benchmark: passes the op's tests, then times its cases; the last line is JSON.

    `cases(device, rows)` yields one row of figures after another. Returns the exit status.
    """
    parser = argparse.ArgumentParser(description=f"Times {op} after its tests have passed.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", type=int, default=300_000, help="about how many voxels")
    options = parser.parse_args()
    command = [sys.executable, "-m", "pytest", "-q", f"tests/kernels/test_{op}.py"]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        return 1
    device = torch.device(options.device)
    report(list(cases(device, options.rows)), device)
    return 0


def milliseconds(run: Callable[[], object], device: torch.device, *, repeats: int = 5, warm: int = 2) -> float:
    """Median wall-clock milliseconds of a call, the device idle before and after it."""
    for _ in range(warm):
        run()
    times = []
    for _ in range(repeats):
        settle(device)
        begin = time.perf_counter()
        run()
        settle(device)
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def settle(device: torch.device) -> None:
    """Waits for everything queued on a CUDA device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> dict[str, object]:
    """What a figure must be quoted with."""
    head = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": head.stdout.strip(),
    }


def report(rows: list[dict[str, object]], device: torch.device) -> None:
    """Prints the rows as a table and, last, everything as one line of JSON."""
    for row in rows:
        print(
            "  ".join(
                f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            )
        )
    print(json.dumps({"machine": machine(device), "rows": rows}))
