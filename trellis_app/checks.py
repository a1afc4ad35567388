"""What `doctor` looks at: the machine, the packages, the hub, the models' files and memory. Downloads nothing.

Every finding that is not in order says what to do.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from huggingface_hub import constants, get_token
from packaging.requirements import Requirement

from trellis_app.fetching import SPARE_BYTES
from trellis_app.hub import FULL_BUNDLE, MODEL_FILE, OPEN_DINOV3, OPEN_MATTE, HubFile, cached
from trellis_app.image.background import UNGATED as OPEN_MATTES
from trellis_app.image.background import matte_weights
from trellis_app.image.features import UNGATED as OPEN_ENCODERS
from trellis_app.image.features import encoder_weights
from trellis_app.manifest import Preset, read_manifest
from trellis_app.memory import CONTEXT_GB, FINISH_GB, FLOW_GB, KEPT_GB
from trellis_app.released import CHECKPOINTS
from trellis_app.settings import PROJECT_ROOT, AppSettings
from trellis_app.weights import MANIFEST_FILE, Source, elsewhere, missing_files

GB, GIB = 1e9, 2**30
OK, NOTE, PROBLEM = "ok", "note", "problem"
PYTHONS = ((3, 10), (3, 13))  # first and last that are tested
LEAST_GB = 6.0  # of GPU memory: 512^3 and 1024^3 of the 4B bundle finish within it
MINI_GIB = 4.0  # of main memory
ACCELERATORS = {
    "triton": ("kernels for NVIDIA GPUs; without it the plain torch paths run", "Install a CUDA build of torch."),
    "flash_attn_interface": ("flash-attn 3, attention on Hopper GPUs", "See its own repository."),
    "nvdiffrast": ("a rasteriser for the bake, non-commercial use only", "See its own repository."),
    "ray": ("a worker on each of several GPUs", "Run pip install 'ray[serve]'."),
    "xatlas": ("another unwrapper", "Run pip install xatlas."),
}


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    subject: str
    status: str  # ok | note | problem
    detail: str
    to_do: str = ""  # a sentence; where something is not in order there is one

    def __post_init__(self) -> None:
        if self.status != OK and not self.to_do:
            raise ValueError(f"the finding {self.subject!r} does not say what to do")


def machine(settings: AppSettings) -> Iterator[Finding]:
    """System, Python, main memory, disk and GPUs."""
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    if PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        yield Finding("system", OK, system)
    else:
        yield Finding("system", NOTE, f"{system}, which nobody tried", "Take Python 3.10 to 3.13 if something fails.")
    yield Finding("processor", OK, f"{os.cpu_count()} cores, torch works on {torch.get_num_threads()}")
    memory = main_memory() / GIB
    enough = f"{memory:.1f} GB ({MINI_GIB:.0f} are enough for mini)"
    yield _needed("memory", memory >= MINI_GIB, enough, "Use a machine with more memory.")
    free = shutil.disk_usage(existing_parent(settings.output_folder)).free
    room = f"{free / GIB:.1f} GB free for {settings.output_folder}"
    yield _needed("disk", free > GIB, room, "Free some space, or set TRELLIS_OUTPUT to a folder on another disk.")
    if not torch.cuda.is_available():
        yield _no_gpu()
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        size = f"{properties.total_memory / GIB:.0f} GB, sm_{properties.major}{properties.minor}"
        yield Finding(f"GPU {index}", OK, f"{properties.name}, {size}")


def _needed(subject: str, good: bool, detail: str, to_do: str) -> Finding:
    return Finding(subject, OK, detail) if good else Finding(subject, PROBLEM, detail, to_do)


def _no_gpu() -> Finding:
    detail = "no NVIDIA GPU visible to torch: the mini bundle runs on the CPU, the 4B does not"
    if shutil.which("nvidia-smi") is None:
        return Finding("GPU", NOTE, detail, "Use a machine with an NVIDIA GPU and its driver for the 4B bundle.")
    return Finding("GPU", NOTE, detail, "Install the CUDA build of torch (see pytorch.org); the driver is there.")


def packages() -> Iterator[Finding]:
    """What requirements.txt asks for against what is installed, and what is optional."""
    install = "Run pip install -r requirements.txt."
    for wanted in _requirements("requirements.txt"):
        version = _version(wanted.name)
        if version is None:
            yield Finding(wanted.name, NOTE, "not installed", install)
        elif not wanted.specifier.contains(version, prereleases=True):
            yield Finding(wanted.name, NOTE, f"{version}, tested is {wanted.specifier}", install)
        else:
            yield Finding(wanted.name, OK, version)
    removers = [wanted.name for wanted in _requirements("requirements-cuda.txt")]
    if missing := [name for name in removers if importlib.util.find_spec(name) is None]:
        detail = f"not installed: {', '.join(missing)}; needed to remove backgrounds with the 4B bundle"
        yield Finding("BiRefNet's packages", NOTE, detail, "Run pip install -r requirements-cuda.txt.")
    else:
        yield Finding("BiRefNet's packages", OK, ", ".join(removers))
    providers = metadata.packages_distributions()
    for module, (use, how) in ACCELERATORS.items():
        if importlib.util.find_spec(module) is None:
            yield Finding(module, NOTE, f"not installed: {use}", f"{how} Nothing needs it.")
        else:
            yield Finding(module, OK, f"{_version(providers.get(module, [module])[0]) or 'installed'}: {use}")


def _requirements(name: str) -> list[Requirement]:
    path = PROJECT_ROOT / name
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def hub(lacking: Sequence[HubFile], *, needed: bool) -> Iterator[Finding]:
    """Whether what a bundle lacks could be downloaded: network allowed, disk large enough.

    needed: the bundle is the chosen one, so what is in the way is a problem.
    """
    folder, hindered = Path(constants.HF_HUB_CACHE), PROBLEM if needed else NOTE
    if constants.HF_HUB_OFFLINE:
        what = "HF_HUB_OFFLINE is set: nothing is downloaded"
        status = hindered if lacking else OK
        yield Finding("hub", status, what, "Unset it, or name a folder with --bundle." if lacking else "")
        return
    wanted = sum(file.known_bytes or 0 for file in lacking)
    free = shutil.disk_usage(existing_parent(folder)).free
    room = f"{free / GB:.1f} GB free in {folder} for {wanted / GB:.1f} GB from {constants.ENDPOINT}"
    if wanted and wanted + SPARE_BYTES > free:
        yield Finding("hub", hindered, f"too little disk: {room}", "Free some space, or set HF_HOME to another disk.")
    else:
        yield Finding("hub", OK, room)


def bundle_files(name: str, lacking: Sequence[HubFile], *, needed: bool) -> Iterator[Finding]:
    """What of a hub bundle lies in the local cache, and what its first run would download."""
    if not lacking:
        yield Finding(name, OK, "all files of its default resolution are in the local hub cache")
        return
    weights = [file for file in lacking if file.known_bytes]
    size = f" ({sum(file.known_bytes or 0 for file in weights) / GB:.1f} GB)" if weights else ""
    first = ", ".join(f"{file.repository}/{file.name}" for file in lacking[:2])
    more = f" and {len(lacking) - 2} more" if len(lacking) > 2 else ""
    to_do = "Start a run: they come first." if needed else f"Start with --bundle {name} to get them."
    yield Finding(name, NOTE, f"{len(lacking)} files are not here{size}: {first}{more}", to_do)
    for file in lacking:
        if file.repository in (*OPEN_ENCODERS, *OPEN_MATTES) and get_token() is None:
            page = f"https://huggingface.co/{file.repository}"
            to_do = f"Accept its licence on {page} and run hf auth login, or leave --original-encoders away."
            yield Finding(file.repository, PROBLEM if needed else NOTE, "gated, and nobody is logged in", to_do)


def lacking(source: Source, *, original: bool) -> list[HubFile]:
    """What the first run of a bundle at its default resolution would download, as far as known without asking.

    original: with the gated encoders. Raises BundleError for a manifest that is broken.
    """
    missing = missing_files(source)
    if missing == [HubFile(FULL_BUNDLE, MANIFEST_FILE)]:
        gated, twins = {*OPEN_ENCODERS, *OPEN_MATTES}, {OPEN_DINOV3, OPEN_MATTE}
        encoders = [HubFile(repository, MODEL_FILE) for repository in sorted(gated if original else twins)]
        return missing + [file for file in (*_released_weights(), *encoders) if cached(file) is None]
    manifest = cached(source.on_hub(MANIFEST_FILE)) if source.folder is None else source.folder / MANIFEST_FILE
    if manifest is None:
        return missing
    config = read_manifest(manifest)
    encoder = encoder_weights(config.image_cond_model, original=original)
    matte = matte_weights(config.rembg_model, original=original)
    return missing + [file for file in (encoder, matte) if file is not None and cached(file) is None]


def _released_weights() -> list[HubFile]:
    """Of the released default resolution."""
    files = []
    for key in Preset("1024_cascade", 512, 1024, 1024).models:
        repository, rest = elsewhere(CHECKPOINTS[key].stem)
        place = (repository, rest) if rest else (FULL_BUNDLE, CHECKPOINTS[key].stem)
        files.append(HubFile(place[0], f"{place[1]}.safetensors"))
    return files


def full_bundle_memory(settings: AppSettings, *, needed: bool) -> Iterator[Finding]:
    """Whether the released bundle fits the memory that there is, or that the settings allow."""
    if not torch.cuda.is_available():
        if needed:
            yield Finding("4B memory", NOTE, "no GPU: hours a run", "Use the bundle mini, or a machine with a GPU.")
        return
    sizes = [file.known_bytes or 0 for file in (*_released_weights(), HubFile(OPEN_DINOV3, MODEL_FILE))]
    sizes.append(2 * (HubFile(OPEN_MATTE, MODEL_FILE).known_bytes or 0))  # stored in half the precision it runs in
    weights, largest = sum(sizes) / GB, max(sizes) / GB
    everything, one_at_a_time = CONTEXT_GB + weights + FINISH_GB + KEPT_GB, CONTEXT_GB + largest + FLOW_GB
    have = settings.memory_budget_gb or torch.cuda.mem_get_info()[0] / GB
    kind = "memory budget" if settings.memory_budget_gb else "free GPU memory"
    subject, there = "4B memory", f"{have:.1f} GB of {kind}"
    if have >= everything:
        yield Finding(subject, OK, f"{there}: all models stay on the GPU ({everything:.0f} GB)")
    elif have >= one_at_a_time:
        yield Finding(subject, OK, f"{there}: models take turns; {everything:.0f} GB would keep all on the GPU")
        yield from _parking(weights)
    elif have >= LEAST_GB:
        to_do = f"For 1536^3 close other programs on the GPU or raise --memory-budget-gb to {one_at_a_time:.0f}."
        yield Finding(subject, NOTE, f"{there}: enough for 512^3 and 1024^3", to_do)
        yield from _parking(weights)
    else:
        to_do = f"Close other programs on the GPU, raise --memory-budget-gb to {LEAST_GB:.0f}, or use the bundle mini."
        yield Finding(subject, PROBLEM if needed else NOTE, f"{there}: too little for the 4B bundle", to_do)


def _parking(weights_gb: float) -> Iterator[Finding]:
    """Models that take turns wait in main memory."""
    memory = main_memory() / GB
    if memory < weights_gb + MINI_GIB:
        detail = f"{memory:.0f} GB of main memory for {weights_gb:.0f} GB of models that take turns"
        yield Finding("main memory", NOTE, detail, "Expect slow loading, or use a machine with more memory.")


def main_memory() -> int:
    """Bytes of the machine; 4 GiB where the system does not say."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 4 * GIB


def existing_parent(path: Path) -> Path:
    """The nearest folder above that is there, for questions about its disk."""
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())
