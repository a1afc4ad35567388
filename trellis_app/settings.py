"""Every tunable of the product as frozen dataclasses, the presets, and the only place that knows the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trellis_app.errors import SettingsError

ALPHA_MODES = ("auto", "opaque", "mask", "blend")
SURFACE_MODES = ("single", "watertight", "decoded")
TEXTURE_FORMATS = ("png", "jpeg", "webp")
PRECISIONS = ("bf16", "fp8")
MAX_SEED = 2**31 - 1
PROJECT_ROOT = Path(__file__).resolve().parent.parent


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise SettingsError(f"{name} is {value}.", f"Choose a value from {low} to {high}.")


def setting(default: float, label: str, help_text: str, *, low: float, high: float, step: float) -> Any:
    """A numeric dataclass field that carries what a slider needs: plain-language label and help, range and step."""
    metadata = {"label": label, "help": help_text, "low": low, "high": high, "step": step}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class SamplerSettings:
    """Flow-matching sampler of one stage (spec: Euler steps, guidance inside an interval of the rescaled time)."""

    steps: int = setting(
        12, "Steps", "More steps take longer and follow the picture a little closer.", low=1, high=50, step=1
    )
    guidance_strength: float = setting(
        7.5,
        "Guidance",
        "How strictly the result follows the picture; 1 switches guidance off.",
        low=0.0,
        high=10.0,
        step=0.1,
    )
    guidance_rescale: float = setting(
        0.5,
        "Softening",
        "Tames the contrast that strong guidance adds; 0 leaves it as it is.",
        low=0.0,
        high=1.0,
        step=0.01,
    )
    rescale_t: float = setting(
        3.0,
        "Time on layout",
        "Above 1 spends more of the steps on the coarse layout, at 1 they are even.",
        low=1.0,
        high=6.0,
        step=0.1,
    )
    guidance_interval: tuple[float, float] = (0.6, 1.0)
    sigma_min: float = 1e-5

    def __post_init__(self) -> None:
        _check("The number of steps", self.steps, 1, 100)
        _check("The guidance strength", self.guidance_strength, 0.0, 20.0)
        _check("The guidance rescale", self.guidance_rescale, 0.0, 1.0)
        _check("The time rescale", self.rescale_t, 1.0, 10.0)
        low, high = self.guidance_interval
        if not 0.0 <= low <= high <= 1.0:
            raise SettingsError(
                f"The guidance interval is {low} to {high}.", "Choose two rising values between 0 and 1."
            )


@dataclass(frozen=True)
class FinishOptions:
    """How an O-Voxel asset becomes a mesh file."""

    faces: int = setting(
        50_000, "Triangles", "Triangles of the finished mesh. Fewer load faster, more keep fine detail.",
        low=1_000, high=1_000_000, step=1_000,
    )  # fmt: skip
    texture_size: int = setting(
        1024,
        "Texture size",
        "Side of the square texture in pixels. Doubling it quadruples the file.",
        low=256,
        high=4096,
        step=256,
    )
    alpha: str = "auto"
    surface: str = "single"  # single: one sheet, no inner walls; watertight: closed for printing; decoded: as it came
    normal_map: bool = True  # bake the detail that simplification took away

    def __post_init__(self) -> None:
        if self.surface not in SURFACE_MODES:
            raise SettingsError(f"The surface mode is {self.surface!r}.", f"Choose one of {', '.join(SURFACE_MODES)}.")
        _check("The face budget", self.faces, 100, 16_000_000)
        _check("The texture size", self.texture_size, 64, 8192)
        if self.alpha not in ALPHA_MODES:
            raise SettingsError(f"The alpha mode is {self.alpha!r}.", f"Choose one of {', '.join(ALPHA_MODES)}.")


@dataclass(frozen=True)
class FileOptions:
    """How finished assets are stored; formats that a choice does not concern ignore it."""

    texture_format: str = "png"  # of GLB: png opens everywhere; jpeg and webp are smaller and lose a little
    draco: bool = False  # compress the triangles of GLB; viewers need a decoder
    size_mm: float = setting(
        100.0, "Print size", "Longest side of STL and 3MF models in millimetres.", low=10.0, high=1000.0, step=5.0
    )

    def __post_init__(self) -> None:
        if self.texture_format not in TEXTURE_FORMATS:
            raise SettingsError(
                f"The texture format is {self.texture_format!r}.", f"Choose one of {', '.join(TEXTURE_FORMATS)}."
            )
        _check("The print size in mm", self.size_mm, 0.1, 100_000.0)


@dataclass(frozen=True)
class GenerationRequest:
    """One run: which preset, which seeds, and overrides of the bundle's sampler settings (None keeps the bundle's)."""

    preset: str | None = None  # None takes the bundle's default
    seed: int = 0
    structure: SamplerSettings | None = None
    shape: SamplerSettings | None = None
    material: SamplerSettings | None = None
    max_tokens: int = 49_152
    finish: FinishOptions = FinishOptions()

    def __post_init__(self) -> None:
        _check("The seed", self.seed, 0, MAX_SEED)
        _check("The token limit", self.max_tokens, 1, 1_000_000)


@dataclass(frozen=True)
class AppSettings:
    """Where the app runs and what it runs; flags override the environment, the environment overrides the defaults."""

    host: str = "127.0.0.1"
    port: int = 7860
    bundle: str = "auto"  # auto: the 4B model where a GPU and its weights are at hand, else mini
    device: str = "auto"
    memory_budget_gb: float | None = None
    output_folder: Path = PROJECT_ROOT / "outputs"
    on_space: bool = False
    workers: int = 0  # processes with a pipeline each; 0: the pipeline runs in this one
    precision: str = "bf16"  # of the flows on a GPU; fp8 halves their weights and is a little less exact
    original_encoders: bool = False  # the gated DINOv3 and RMBG-2.0 that the 4B bundle names, not their open twins

    def __post_init__(self) -> None:
        _check("The port", self.port, 0, 65_535)
        _check("The number of workers", self.workers, 0, 64)
        if self.precision not in PRECISIONS:
            raise SettingsError(f"The precision is {self.precision!r}.", f"Choose one of {', '.join(PRECISIONS)}.")
        if self.memory_budget_gb is not None:
            _check("The memory budget in GB", self.memory_budget_gb, 1.0, 1024.0)


def set_environment(values: Mapping[str, str]) -> None:
    """Settings of a package that reads them from the environment when it is imported."""
    os.environ.update(values)


def app_settings(environment: Mapping[str, str] | None = None) -> AppSettings:
    """Read TRELLIS_HOST, _PORT, _WORKERS, _BUNDLE, _DEVICE, _MEMORY_GB, _OUTPUT, _ORIGINAL_ENCODERS; SPACE_ID."""
    env = os.environ if environment is None else environment
    on_space = bool(env.get("SPACE_ID"))
    try:
        port = int(env.get("TRELLIS_PORT", env.get("GRADIO_SERVER_PORT", "7860")))
        workers = int(env.get("TRELLIS_WORKERS", "0"))
        budget = float(env["TRELLIS_MEMORY_GB"]) if env.get("TRELLIS_MEMORY_GB") else None
    except ValueError as error:
        raise SettingsError(
            f"TRELLIS_PORT, TRELLIS_WORKERS or TRELLIS_MEMORY_GB is not a number ({error}).", "Write plain numbers."
        ) from error
    return AppSettings(
        host=env.get("TRELLIS_HOST", "0.0.0.0" if on_space else "127.0.0.1"),
        port=port,
        bundle=env.get("TRELLIS_BUNDLE", "auto"),
        device=env.get("TRELLIS_DEVICE", "auto"),
        memory_budget_gb=budget,
        output_folder=Path(env.get("TRELLIS_OUTPUT", str(PROJECT_ROOT / "outputs"))),
        on_space=on_space,
        workers=workers,
        precision=env.get("TRELLIS_PRECISION", "bf16"),
        original_encoders=env.get("TRELLIS_ORIGINAL_ENCODERS", "0") not in ("", "0"),
    )
