"""What a bundle can be asked for: its presets and their samplers. Needs no models and no device."""

from __future__ import annotations

from dataclasses import replace

from trellis_app.errors import SettingsError
from trellis_app.settings import GenerationRequest, SamplerSettings
from trellis_app.types import Stage
from trellis_app.weights import Bundle


class Catalogue:
    """Fills in what a request leaves open."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def resolved(self, request: GenerationRequest) -> GenerationRequest:
        """The request with the bundle's preset and samplers filled in; raises SettingsError for an unknown preset."""
        name = request.preset or self.bundle.default_preset
        if name not in self.bundle.presets:
            raise SettingsError(
                f"The bundle {self.bundle.name} has no resolution {name!r}.",
                f"Choose one of {', '.join(self.bundle.presets)}.",
            )
        config = self.bundle.config
        return replace(
            request,
            preset=name,
            structure=request.structure or config.structure_sampler,
            shape=request.shape or config.shape_sampler,
            material=request.material or config.material_sampler,
        )

    def samplers(self, request: GenerationRequest | None = None) -> dict[Stage, SamplerSettings]:
        """The sampler of each stage, after the request's overrides."""
        request = self.resolved(request or GenerationRequest())
        chosen = {Stage.STRUCTURE: request.structure, Stage.SHAPE: request.shape, Stage.MATERIAL: request.material}
        return {stage: sampler for stage, sampler in chosen.items() if sampler is not None}
