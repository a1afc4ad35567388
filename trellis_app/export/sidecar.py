"""What a finished file remembers of its run: settings, seed and versions in the GLB; timings and counts in the JSON."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field
from importlib import metadata

from trellis_app.progress import TITLES
from trellis_app.settings import GenerationRequest, SamplerSettings
from trellis_app.types import Stage, StageEvent

GENERATOR = "trellis_app 0.1"
_PACKAGES = ("torch", "numpy", "pillow", "trimesh", "gradio", "transformers", "triton")


@dataclass
class RunLog:
    """Collects the events of one run: seconds of every stage and of every named step of finishing."""

    seconds: dict[str, float] = field(default_factory=dict)
    _last: float = 0.0

    def note(self, event: StageEvent) -> None:
        """Add the time since the last event to this event's stage (finishing: to its named step)."""
        key = event.stage.value
        if event.stage is Stage.FINISH:
            key += ": " + event.label.removeprefix(f"{TITLES[event.stage]}: ")
        self.seconds[key] = self.seconds.get(key, 0.0) + event.elapsed - self._last
        self._last = event.elapsed

    def rounded(self) -> dict[str, float]:
        """Seconds by stage and step, to the millisecond."""
        return {key: round(value, 3) for key, value in self.seconds.items()}


def versions() -> dict[str, str]:
    """Versions of this program, Python and the packages that shape a result."""
    found = {"program": GENERATOR, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def settings_record(
    request: GenerationRequest, samplers: dict[Stage, SamplerSettings], *, bundle: str
) -> dict[str, object]:
    """The part that goes into the GLB's extras as well: no times, so that the same run gives the same bytes."""
    return {
        "bundle": bundle,
        "preset": request.preset,
        "seed": request.seed,
        "samplers": {stage.value: asdict(samplers[stage]) for stage in samplers},
        "finish": asdict(request.finish),
        "versions": versions(),
    }
