"""Seconds, main memory and bytes of loading the released checkpoints strictly: what `bench loading` runs.

Files of exactly the published sizes are written with random weights, then loaded in two fresh processes: first with the
system's page cache emptied of them, then from the page cache.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from trellis_app.bench import commit, machine
from trellis_app.bench_models import randomised
from trellis_app.errors import MachineError, SettingsError
from trellis_app.manifest import read_manifest
from trellis_app.models.structure_vae import StructureDecoder
from trellis_app.released import CHECKPOINTS, write_descriptions
from trellis_app.settings import PROJECT_ROOT
from trellis_app.weights import build_empty, load_bundle

GB = 1e9
PAGE_CACHE, COLD = "page cache", "cold disk"
LOOK = 0.005  # seconds between two looks at the memory


@dataclass(frozen=True)
class Loading:
    """One process that loaded all models of a preset."""

    source: str  # COLD or PAGE_CACHE
    seconds: dict[str, float]  # by model, until its last byte is on the device
    peak_memory_gb: float  # main memory at most while loading, above what the process had before, pages of files too
    peak_private_gb: float | None  # of it what belongs to no file, by looking often; None where the system does not say
    read_gb: float | None  # from the disk, as the system counts; None where it does not say
    device_gb: float  # weights on the device afterwards

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def bench_loading(
    preset: str, device: torch.device, folder: Path | None = None, *, only: Sequence[str] = ()
) -> dict[str, object]:
    """Write the checkpoints to a temporary folder inside `folder`, load them cold and warm, delete them.

    only: keys of models, for a quick look at some of the preset's.

    Raises MachineError where a written file has another size than the published one, or a loading process fails.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        bundle = Path(name)
        sizes = write_random_bundle(bundle, only or models_of(preset), device)
        runs = [_measured(bundle, tuple(sizes), device, source) for source in (COLD, PAGE_CACHE)]
    return {
        "preset": preset,
        "files_gb": round(sum(sizes.values()) / GB, 3),
        "files": sizes,
        "seconds": {run.source: round(run.total, 2) for run in runs},
        "runs": [asdict(run) for run in runs],
        "machine": machine(str(device)),
        "commit": commit(),
    }


def models_of(preset: str) -> tuple[str, ...]:
    """Keys of the models that a resolution of the released bundle needs. Raises SettingsError for an unknown one."""
    with tempfile.TemporaryDirectory() as name:
        write_descriptions(Path(name))
        presets = read_manifest(Path(name) / "pipeline.json").presets
    if preset not in presets:
        raise SettingsError(f"There is no resolution {preset!r}.", f"Choose one of {', '.join(presets)}.")
    return presets[preset].models


def write_random_bundle(folder: Path, keys: Sequence[str], device: torch.device) -> dict[str, int]:
    """The released layout with random weights for some models; bytes of each file, equal to the published.

    device: where the random numbers are drawn. Raises MachineError where a size differs.
    """
    write_descriptions(folder)
    manifest = read_manifest(folder / "pipeline.json")
    sizes = {}
    for key in keys:
        stem = folder / manifest.models[key]
        target = stem.with_name(f"{stem.name}.safetensors")
        save_file(random_state(stem.with_name(f"{stem.name}.json"), device), target)
        sizes[key], published = target.stat().st_size, CHECKPOINTS[key].file_bytes
        if published not in (None, sizes[key]):
            raise MachineError(f"{target.name} has {sizes[key]:,} bytes, published are {published:,}.", "Report this.")
    return sizes


def random_state(description: Path, device: torch.device) -> dict[str, torch.Tensor]:
    """Random weights in the precision that the released file of this model stores."""
    module = build_empty(description, torch.device("meta")).to_empty(device=device)
    as_it_runs = isinstance(module, StructureDecoder)  # the others are stored in half precision throughout
    half = module.params.torso_dtype  # type: ignore[union-attr]
    state = randomised(module).state_dict()
    return {key: tensor.to(tensor.dtype if as_it_runs else half).cpu() for key, tensor in state.items()}


def load_models(folder: Path, keys: Sequence[str], device: torch.device) -> Loading:
    """Load models one after another, as a run does that keeps them all on the device."""
    bundle = load_bundle(folder)
    if device.type == "cuda":
        torch.zeros(1, device=device)  # the device's own start is not part of loading
    before, read_before = fresh_peak(), _read_bytes()
    seconds, held = {}, 0
    with private_peak() as private:
        for key in keys:
            started = time.monotonic()
            model = bundle.model(key, device)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[key] = round(time.monotonic() - started, 3)
            held += sum(tensor.nbytes for tensor in model.state_dict().values())
    read = None if read_before is None else ((_read_bytes() or 0) - read_before) / GB
    peak = (peak_bytes() - before) / GB
    alone = round(max(0, *private) / GB, 3) if private else None
    return Loading(PAGE_CACHE, seconds, round(peak, 3), alone, read and round(read, 3), round(held / GB, 3))


def _measured(folder: Path, keys: Sequence[str], device: torch.device, source: str) -> Loading:
    if source == COLD:
        for path in folder.rglob("*.safetensors"):
            forget_pages(path)
    command = [sys.executable, "-m", "trellis_app.bench_loading", str(folder), ",".join(keys), str(device)]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise MachineError(f"The measured loading failed: {last}", "Is there enough memory on the device?")
    return Loading(**{**json.loads(done.stdout.strip().splitlines()[-1]), "source": source})


def forget_pages(path: Path) -> None:
    """Ask the system to drop a file from its page cache; needs no privilege."""
    if not hasattr(os, "posix_fadvise"):
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def fresh_peak() -> int:
    """Main memory of this process, from which on `peak_bytes` counts where the system can begin anew (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def peak_bytes() -> int:
    """Main memory of this process at most, pages of mapped files included; Linux counts in KiB, macOS in bytes."""
    try:
        return _status_bytes("VmHWM")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextmanager
def private_peak() -> Generator[list[int], None, None]:
    """Bytes that this process has more than at the start in memory of its own, every few milliseconds (Linux)."""
    seen: list[int] = []
    over = threading.Event()
    try:
        before = _status_bytes("RssAnon")
    except (OSError, StopIteration):
        yield seen
        return

    def watch() -> None:
        while not over.wait(LOOK):
            seen.append(_status_bytes("RssAnon") - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def _status_bytes(name: str) -> int:
    """A figure of /proc/self/status. Raises OSError where there is none, StopIteration where it lacks this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


def _read_bytes() -> int | None:
    """Bytes that the disk delivered to this process, where the system counts them."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes")), None)


def table(report: Mapping[str, object]) -> str:
    """A few lines for a reader."""
    lines = [f"{report['preset']}: {report['files_gb']} GB of weights"]
    runs: list[dict[str, object]] = report["runs"]  # type: ignore[assignment]
    for run in runs:
        loading = Loading(**run)  # type: ignore[arg-type]
        read = "" if loading.read_gb is None else f", {loading.read_gb:.2f} GB read from the disk"
        alone = "" if loading.peak_private_gb is None else f" ({loading.peak_private_gb:.2f} of them not of files)"
        memory = f"{loading.peak_memory_gb:.2f} GB of memory{alone}"
        lines.append(f"{loading.source:<10}  {loading.total:6.2f} s, {memory}{read}")
        lines += [f"            {seconds:6.2f} s  {key}" for key, seconds in loading.seconds.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    measured = load_models(Path(sys.argv[1]), sys.argv[2].split(","), torch.device(sys.argv[3]))
    json.dump(asdict(measured), sys.stdout)
