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
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

import numpy as np
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


@dataclass(frozen=True)
class Peer:
    """The same work by another package, through its public functions."""

    package: str
    run: Callable[[], object] | None  # None where the package is not installed


@dataclass(frozen=True)
class Case:
    """One call to time, and what its result must be."""

    name: str
    run: Callable[[], object]
    wanted: Callable[[], object] | None = None  # the same by the reference; None: the op's tests have to do
    tolerance: float = 0.0  # largest difference from it, relative to the largest value wanted
    peer: Peer | None = None
    gflop: float = 0.0  # operations of the call, for the rate


Cases = Callable[[torch.device, int], Iterator[Case]]


def measure(case: Case, device: torch.device, *, repeats: int = 5) -> dict[str, object]:
    """One row of figures: seconds of the first and of a warm call, ours and the peer's; `failed` if a check fails."""
    row: dict[str, object] = {"case": case.name}
    found, row["first_seconds"] = timed(case.run, device)
    if case.wanted is not None:
        row["difference"] = difference(found, case.wanted())
        if not row["difference"] <= case.tolerance:  # type: ignore[operator]  # nan fails too
            return row | {"failed": f"differs from the reference by more than {case.tolerance:g}"}
    row["seconds"] = 1e-3 * milliseconds(case.run, device, repeats=repeats, warm=1)
    if case.gflop:
        row["gflop_per_second"] = case.gflop / row["seconds"]  # type: ignore[operator]
    if case.peer is not None:
        row["peer"] = case.peer.package
        row |= measure_peer(case.peer, found, device, repeats) if case.peer.run else {"peer_seconds": "not installed"}
    return row


def measure_peer(peer: Peer, ours: object, device: torch.device, repeats: int) -> dict[str, object]:
    """The peer's first and warm seconds, and how far its result is from ours where both are tensors."""
    assert peer.run is not None
    try:
        theirs, first = timed(peer.run, device)
    except RuntimeError as error:
        return {"peer_seconds": f"failed: {error}"}
    seconds = 1e-3 * milliseconds(peer.run, device, repeats=repeats, warm=1)
    row: dict[str, object] = {"peer_first_seconds": first, "peer_seconds": seconds}
    comparable = isinstance(theirs, torch.Tensor) and isinstance(ours, torch.Tensor)
    return row | {"peer_difference": difference(theirs, ours)} if comparable else row


def timed(run: Callable[[], object], device: torch.device) -> tuple[object, float]:
    """The result of one call and its seconds."""
    settle(device)
    begin = time.perf_counter()
    found = run()
    settle(device)
    return found, time.perf_counter() - begin


def difference(found: object, wanted: object) -> float:
    """Largest difference between results of one kind, relative to the largest value wanted; inf if shapes differ."""
    if isinstance(wanted, torch.Tensor):
        assert isinstance(found, torch.Tensor)
        if found.shape != wanted.shape:
            return math.inf
        if not wanted.numel() or torch.equal(found, wanted):
            return 0.0
        finite = wanted.isfinite()
        if not torch.equal(found.isfinite(), finite):
            return math.inf
        gap = (found.double() - wanted.double())[finite].abs().max()
        return float(gap / wanted[finite].double().abs().max().clamp_min(1e-12))
    if isinstance(wanted, np.ndarray):
        return difference(torch.from_numpy(np.asarray(found)), torch.from_numpy(wanted))
    if is_dataclass(wanted):
        pairs = [(getattr(found, f.name), getattr(wanted, f.name)) for f in fields(wanted)]
    else:
        pairs = list(zip(found, wanted, strict=True))  # type: ignore[call-overload]
    return max(difference(one, other) for one, other in pairs)


def benchmark(op: str, cases: Cases) -> int:
    """The command line of one op's benchmark: passes the op's tests, then times its cases; the last line is JSON.

    `cases(device, rows)` yields one case after another. Returns the exit status.
    """
    parser = argparse.ArgumentParser(description=f"Times {op} after its tests have passed.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", type=int, default=300_000, help="about how many voxels")
    options = parser.parse_args()
    command = [sys.executable, "-m", "pytest", "-q", f"tests/kernels/test_{op}.py"]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        return 1
    device = torch.device(options.device)
    rows = [{"op": op} | measure(case, device) for case in cases(device, options.rows)]
    report(rows, device)
    return 1 if any("failed" in row for row in rows) else 0


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
