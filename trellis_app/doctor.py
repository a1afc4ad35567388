"""What this machine can run, what it cannot, and why: the `doctor` command. Downloads nothing."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import torch

from trellis_app.errors import TrellisError
from trellis_app.hub import FULL_BUNDLE, HubFile, cached
from trellis_app.image.background import UNGATED as OPEN_MATTES
from trellis_app.image.features import UNGATED
from trellis_app.image.reading import read_picture
from trellis_app.pipeline import ImageTo3D
from trellis_app.released import CHECKPOINTS
from trellis_app.settings import PROJECT_ROOT, AppSettings, GenerationRequest
from trellis_app.types import OVoxel
from trellis_app.weights import MANIFEST_FILE, Bundle, missing_files

GIB = 2**30
OK, NOTE, PROBLEM = "ok", "note", "problem"
OPTIONAL_PACKAGES = {
    "gradio": "the page (app.py) does not start without it; the command line does",
    "transformers": "needed for the DINOv3 and BiRefNet models of the 4B bundle",
    "triton": "GPU kernels; without it the plain torch paths run",
}
PROBE = PROJECT_ROOT / "assets" / "mini" / "probe.json"  # picture, seed and the voxels that must come out
PROBE_TOLERANCE = 0.05
DINOV3, RMBG = next(iter(UNGATED)), next(iter(OPEN_MATTES))


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    subject: str
    status: str  # ok | note | problem
    detail: str


@dataclass(frozen=True)
class Report:
    """All findings; `usable` is False when the chosen bundle cannot run here."""

    findings: tuple[Finding, ...]
    usable: bool


def examine(settings: AppSettings, *, probe: bool = True) -> Report:
    """Look at the machine, the packages, the bundles and (optionally) run the fixed-seed probe."""
    findings = [*_machine(settings), *_packages(), *_full_bundle(settings)]
    try:
        pipeline = ImageTo3D.load(settings)
    except TrellisError as error:
        findings.append(Finding(f"bundle {settings.bundle}", PROBLEM, str(error)))
        return Report(tuple(findings), usable=False)
    findings.append(_bundle(pipeline.bundle))
    if probe:
        findings.append(_probe(pipeline))
    return Report(tuple(findings), usable=all(finding.status != PROBLEM for finding in findings))


def _machine(settings: AppSettings) -> Iterator[Finding]:
    cores = os.cpu_count() or 1
    yield Finding("system", OK, f"{platform.system()} {platform.machine()}, Python {platform.python_version()}")
    yield Finding("torch", OK, f"{torch.__version__}, {cores} cores, {torch.get_num_threads()} threads")
    memory = _total_memory()
    yield Finding("memory", OK if memory >= 4 * GIB else PROBLEM, f"{memory / GIB:.1f} GB (4 GB are enough for mini)")
    folder = _existing_parent(settings.output_folder)
    free = shutil.disk_usage(folder).free
    yield Finding("disk", OK if free > GIB else PROBLEM, f"{free / GIB:.1f} GB free for {settings.output_folder}")
    if not torch.cuda.is_available():
        yield Finding("GPU", NOTE, "no NVIDIA GPU visible to torch: the mini bundle runs on the CPU, the 4B does not")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Finding(
            f"GPU {index}",
            OK,
            f"{properties.name}, {properties.total_memory / GIB:.0f} GB, sm_{properties.major}{properties.minor}",
        )


def _packages() -> Iterator[Finding]:
    for name, why in OPTIONAL_PACKAGES.items():
        if importlib.util.find_spec(name) is None:
            yield Finding(name, NOTE, f"not installed: {why}")
        else:
            yield Finding(name, OK, metadata.version(name.replace("_", "-")))


def _full_bundle(settings: AppSettings) -> Iterator[Finding]:
    """What of the 4B bundle lies in the local hub cache, and whether the rest would fit. Asks no server."""
    missing = missing_files(FULL_BUNDLE)
    if missing:
        reason = "no GPU here either" if not torch.cuda.is_available() else "they download at the first run"
        yield Finding(FULL_BUNDLE, NOTE, f"not on this machine, {reason}; missing: {', '.join(missing)}")
        yield _room_for_download(missing)
    else:
        yield Finding(FULL_BUNDLE, OK, "all files are in the local hub cache")
    twins = {} if settings.original_encoders else {**UNGATED, **OPEN_MATTES}
    for name, file in ((DINOV3, "model.safetensors"), (RMBG, "model.safetensors")):
        chosen = twins.get(name, name)
        gated = "" if chosen in twins.values() else "; asks for a login and its licence"
        here = cached(HubFile(chosen, file)) is not None
        yield Finding(
            chosen, OK if here else NOTE, "in the local hub cache" if here else f"downloads at first use{gated}"
        )


def _room_for_download(missing: list[str]) -> Finding:
    from huggingface_hub import constants

    sizes = {f"{checkpoint.stem}.safetensors": checkpoint.file_bytes or 0 for checkpoint in CHECKPOINTS.values()}
    wanted = sum(sizes.values()) if missing == [MANIFEST_FILE] else sum(sizes.get(name, 0) for name in missing)
    folder = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(_existing_parent(folder)).free
    where = f"{free / 1e9:.1f} GB free for {wanted / 1e9:.1f} GB in {folder}, from {constants.ENDPOINT}"
    if constants.HF_HUB_OFFLINE:
        return Finding("hub", NOTE, "HF_HUB_OFFLINE is set: nothing is downloaded")
    return Finding("hub", OK if free > wanted else NOTE, where if free > wanted else f"too little disk: {where}")


def _bundle(bundle: Bundle) -> Finding:
    return Finding(f"bundle {bundle.name}", OK, f"{bundle.description}; presets {', '.join(bundle.presets)}")


def _probe(pipeline: ImageTo3D) -> Finding:
    """A fixed-seed run of the three stages, compared with the count stored beside the shipped bundle."""
    expected = json.loads(PROBE.read_text())
    started = time.monotonic()
    prepared = pipeline.prepare(read_picture(PROBE.parent / expected["picture"]))
    request = pipeline.resolved(GenerationRequest(seed=int(expected["seed"])))
    voxels = 0
    for event in pipeline.generate(prepared, request, finish=False):
        if isinstance(event.result, OVoxel):
            voxels = len(event.result.grid.coords)
    seconds = time.monotonic() - started
    if pipeline.bundle.name != expected["bundle"]:
        return Finding("probe", OK, f"{voxels} voxels in {seconds:.1f} s (no expected figure for this bundle)")
    target = int(expected["voxels"])
    good = abs(voxels - target) <= PROBE_TOLERANCE * target
    verdict = "as expected" if good else f"expected {target}: the models do not compute what they should here"
    return Finding("probe", OK if good else PROBLEM, f"{voxels} voxels in {seconds:.1f} s, {verdict}")


def _total_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 4 * GIB


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())


def render_text(report: Report) -> str:
    """The report as aligned lines with a closing sentence."""
    marks = {OK: "ok     ", NOTE: "note   ", PROBLEM: "PROBLEM"}
    width = max(len(finding.subject) for finding in report.findings)
    lines = [f"{marks[f.status]}  {f.subject:<{width}}  {f.detail}" for f in report.findings]
    lines.append(
        "This machine can run the app." if report.usable else "This machine cannot run the app yet; see PROBLEM."
    )
    return "\n".join(lines)


def render_json(report: Report) -> str:
    """The report as one JSON object."""
    return json.dumps({"usable": report.usable, "findings": [asdict(finding) for finding in report.findings]})
