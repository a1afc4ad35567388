"""Model bundles: where their files are, and strict loading of their checkpoints.

A bundle is a folder, a repository on the Hugging Face hub ("owner/name"), or "mini", which is shipped. A checkpoint
is a pair `<stem>.json` (class and arguments) and `<stem>.safetensors`; a stem that the bundle itself does not hold is
taken as owner/name/rest-of-the-path on the hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.overrides import TorchFunctionMode

from trellis_app.errors import BundleError
from trellis_app.fetching import fetched
from trellis_app.hub import FULL_BUNDLE, HubFile, cached, download
from trellis_app.manifest import Manifest, Part, Preset, read_manifest, read_models
from trellis_app.models.flow_transformer import FlowTransformer
from trellis_app.models.fp8 import saved_bytes
from trellis_app.models.registry import build_model
from trellis_app.settings import PROJECT_ROOT

MINI_BUNDLE = "mini"
MANIFEST_FILE = "pipeline.json"
TEXTURING_FILE = "texturing_pipeline.json"  # the 4B bundle names its shape encoder here
RECOMPUTED = frozenset({"rope_phases"})  # buffers that some files hold and no model of ours does
_RANDOM = frozenset({"normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_"})
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Source:
    """Where a bundle's files are: a folder, or a hub repository at one commit."""

    folder: Path | None
    repository: str = ""
    commit: str | None = None

    def file(self, name: str) -> Path:
        """The local path of a file of the bundle, downloaded where needed; raises BundleError where there is none."""
        if self.folder is None:
            return download(self.on_hub(name))
        path = self.folder / name
        if not path.is_file():
            raise BundleError(f"There is no file {path}.", "Download the bundle again or name another folder.")
        return path

    def on_hub(self, name: str) -> HubFile:
        return HubFile(self.repository, name, self.commit)

    def checkpoint(self, stem: str) -> CheckpointPair:
        """Who holds a checkpoint: the bundle itself, else `owner/name/path` on the hub."""
        try:
            return CheckpointPair(self, stem, self.file(f"{stem}.json"))
        except BundleError:
            repository, rest = elsewhere(stem)
            if not rest:
                raise
        other = Source(None, repository)
        try:
            return CheckpointPair(other, rest, other.file(f"{rest}.json"))
        except BundleError as error:
            if self.folder is None:
                raise
            raise BundleError(
                f"{self.folder} has no {stem}.json. {error.what}",
                f"Put it there: hf download {repository} {rest}.json {rest}.safetensors "
                f"--local-dir {self.folder / repository}",
            ) from error


@dataclass(frozen=True)
class CheckpointPair:
    """A checkpoint pair found: who holds it under which stem, and its JSON."""

    source: Source
    stem: str
    description: Path

    def weights(self) -> Path:
        """The local path of the tensors, downloaded where no run has fetched them; the log then tells how far it is."""
        name = f"{self.stem}.safetensors"
        return self.source.file(name) if self.source.folder else fetched(self.source.on_hub(name))

    def missing(self) -> HubFile | None:
        """The tensors' file where it is still to be downloaded."""
        if self.source.folder is not None:
            return None
        file = self.source.on_hub(f"{self.stem}.safetensors")
        return file if cached(file) is None else None


class Bundle:
    """An opened bundle: its manifest at once, its models when they are first asked for."""

    def __init__(self, name: str, source: Source) -> None:
        self.name = name
        self.source = source
        self.config: Manifest = read_manifest(source.file(MANIFEST_FILE))
        self._loaded: dict[str, nn.Module] = {}
        self._found: dict[str, CheckpointPair] = {}

    @property
    def presets(self) -> Mapping[str, Preset]:
        return self.config.presets

    @property
    def default_preset(self) -> str:
        return self.config.default_preset

    @property
    def description(self) -> str:
        """A few words for a header."""
        return self.config.description or self.name

    def model(
        self, key: str, device: torch.device | str = "cpu", *, home: torch.device | str | None = None
    ) -> nn.Module:
        """The model under a key of the manifest, loaded once: in its own precision for a GPU, in float32 for a CPU.

        home: where its weights are loaded to, `device` by default. A model that was loaded before is returned wherever
        it is now; `residency` moves it.
        """
        return self._load(self.stem(key), torch.device(device), torch.device(home or device))

    def stem(self, key: str) -> str:
        """The checkpoint of a model; those that only texturing needs may be named in a manifest of their own."""
        if key in self.config.models:
            return self.config.models[key]
        try:
            return read_models(self.source.file(TEXTURING_FILE))[key]
        except (BundleError, KeyError) as error:
            raise BundleError(
                f"The bundle {self.name} has no model {key}.", "Choose another bundle for this task."
            ) from error

    def part(self, part: Part, device: torch.device | str = "cpu") -> nn.Module:
        """A component whose weights the bundle itself holds (`args.model` is the stem), loaded once."""
        if "model" not in part.args:
            raise BundleError(
                f"{part.name} of the bundle {self.name} names no model.", "Add args.model to its manifest."
            )
        return self._load(str(part.args["model"]), torch.device(device), torch.device(device))

    def weight_bytes(self, key: str, device: torch.device | str, precision: str = "bf16") -> int:
        """Bytes that a model's weights take on a device, from its JSON alone; precision: of flows on a GPU."""
        module = self.unfilled(key, device)
        saved = saved_bytes(module) if precision == "fp8" and isinstance(module, FlowTransformer) else 0
        return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters()) - saved

    def unfilled(self, key: str, device: torch.device | str) -> nn.Module:
        """The model as it runs on a device, on the meta device: its weights are not read."""
        return build_empty(self._checkpoint(self.stem(key)).description, torch.device(device))

    @property
    def loaded(self) -> tuple[nn.Module, ...]:
        """The models that were asked for so far."""
        return tuple(self._loaded.values())

    def missing(self, keys: Sequence[str]) -> list[HubFile]:
        """The weights of these models that are still to be downloaded."""
        stems = dict.fromkeys(self.stem(key) for key in keys)
        files = [self._checkpoint(stem).missing() for stem in stems if stem not in self._loaded]
        return [file for file in files if file is not None]

    def _checkpoint(self, stem: str) -> CheckpointPair:
        """Where a checkpoint was found, looked for once."""
        if stem not in self._found:
            self._found[stem] = self.source.checkpoint(stem)
        return self._found[stem]

    def _load(self, stem: str, device: torch.device, home: torch.device) -> nn.Module:
        if stem not in self._loaded:
            found = self._checkpoint(stem)
            with torch.inference_mode(False):  # weights outlive the run that asks for them first
                self._loaded[stem] = load_checkpoint(found.description, found.weights(), device=device, home=home)
        return self._loaded[stem]


def load_bundle(name: str | Path) -> Bundle:
    """Open a bundle by folder, hub name or "mini". Raises BundleError where there is none or its manifest is broken."""
    source = source_of(name)
    if source.folder is not None:
        return Bundle(MINI_BUNDLE if str(name) == MINI_BUNDLE else source.folder.resolve().name, source)
    manifest = download(source.on_hub(MANIFEST_FILE))
    return Bundle(str(name), replace(source, commit=manifest.parent.name))  # all files of one commit


def source_of(name: str | Path) -> Source:
    """Where the bundle of a name would be; asks no server. Raises BundleError for what is no name of a bundle."""
    if str(name) == MINI_BUNDLE:
        return Source(PROJECT_ROOT / "assets" / "mini")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Source(folder)
    if _HUB_NAME.fullmatch(str(name)):
        return Source(None, str(name))
    raise BundleError(
        f"There is no model bundle {str(name)!r}.", "Name a folder, a Hugging Face repository (owner/name), or mini."
    )


def resolve_source(name: str, device: torch.device) -> str:
    """What "auto" means here: the 4B bundle on a GPU that has its files, else mini; other names stay."""
    if name != "auto":
        return name
    return FULL_BUNDLE if device.type == "cuda" and not missing_files(Source(None, FULL_BUNDLE)) else MINI_BUNDLE


def elsewhere(stem: str) -> tuple[str, str]:
    """The repository `owner/name` that a stem may begin with, and the rest, which is empty where it names none."""
    parts = stem.split("/")
    return "/".join(parts[:2]), "/".join(parts[2:])


def missing_files(source: Source) -> list[HubFile]:
    """What the default resolution of a bundle lacks here and would download; without a manifest only that one.

    Asks no server. Raises BundleError for a manifest that is broken.
    """
    manifest = cached(source.on_hub(MANIFEST_FILE)) if source.folder is None else source.folder / MANIFEST_FILE
    if manifest is None:
        return [source.on_hub(MANIFEST_FILE)]
    config, missing = read_manifest(manifest), []
    for key in config.presets[config.default_preset].models:
        repository, rest = elsewhere(config.models[key])
        for ending in (".json", ".safetensors"):
            own = config.models[key] + ending
            here = (manifest.parent / own).is_file()
            other = HubFile(repository, rest + ending) if rest else source.on_hub(own)
            if not here and cached(other) is None and (rest or source.folder is None):
                missing.append(other)
    return missing


def build_empty(description: Path, device: torch.device) -> nn.Module:
    """The module that a checkpoint's JSON describes, on the meta device, in the precision it runs in on `device`."""
    try:
        document = json.loads(description.read_text(encoding="utf-8"))
        with torch.device("meta"), _Unfilled():
            module = build_model(document["name"], document["args"])
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{description} does not describe a model ({error}).", "Download the bundle again."
        ) from error
    if device.type != "cpu" and hasattr(module, "set_precision"):
        module.set_precision(module.params.torso_dtype)  # type: ignore[operator,union-attr]
    return module


class _Unfilled(TorchFunctionMode):
    """Leaves out random initial values, which mean nothing on the meta device and take torch's compiler to be drawn."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _RANDOM:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def load_checkpoint(
    description: Path, weights: Path, device: torch.device | str = "cpu", home: torch.device | str | None = None
) -> nn.Module:
    """A model for `device` with its weights at `home` (there by default), in evaluation mode and without gradients.

    For a CPU all weights become float32. They are read straight to their place and precision, one tensor at a time.
    Raises BundleError for an unknown class, a damaged file, and for keys or shapes that do not fit, naming every one.
    """
    module = build_empty(description, torch.device(device))
    tensors = _read(weights, module.state_dict(), torch.device(home or device))
    module.load_state_dict(tensors, strict=True, assign=True)
    return module.requires_grad_(False).eval()


def _read(path: Path, expected: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Tensors in the expected dtypes on the device, after comparing all names and shapes."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            stored = {key: tuple(file.get_slice(key).get_shape()) for key in set(file.keys()) - RECOMPUTED}
            _compare(path, {key: tuple(tensor.shape) for key, tensor in expected.items()}, stored)
            return {key: file.get_tensor(key).to(tensor.dtype) for key, tensor in expected.items()}
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path} is damaged or incomplete ({error}).", "Download it again.") from error


def _compare(path: Path, expected: Mapping[str, tuple[int, ...]], stored: Mapping[str, tuple[int, ...]]) -> None:
    complaints = {
        "missing": sorted(expected.keys() - stored.keys()),
        "not expected": sorted(stored.keys() - expected.keys()),
        "of another shape": [
            f"{key} {list(stored[key])} instead of {list(shape)}"
            for key, shape in sorted(expected.items())
            if key in stored and stored[key] != shape
        ],
    }
    text = "; ".join(f"{what}: {', '.join(keys)}" for what, keys in complaints.items() if keys)
    if text:
        raise BundleError(f"{path} does not fit the model. {text}.", "Use the weights that belong to its JSON.")
