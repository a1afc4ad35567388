"""The three stages for a batch of pictures at once, with networks that are still in training: validation and sweep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from trellis_app.models.material_vae import attributes
from trellis_app.models.shape_vae import ShapeDecoder
from trellis_app.sampling import State, sample
from trellis_app.settings import SamplerSettings
from trellis_app.sparse.tensor import SparseTensor
from trellis_app.training.configs import MATERIAL, SHAPE
from trellis_app.types import DualGrid, OVoxel

SIGMA_MIN = 1e-5


@dataclass(frozen=True)
class Samplers:
    """One sampler a stage."""

    structure: SamplerSettings
    shape: SamplerSettings
    material: SamplerSettings


# Chosen on held-out training objects; written into the bundle's pipeline.json.
MINI_SAMPLERS = Samplers(
    structure=SamplerSettings(12, 4.0, 0.0, 3.0, (0.3, 1.0), SIGMA_MIN),
    shape=SamplerSettings(12, 3.5, 0.0, 3.0, (0.3, 1.0), SIGMA_MIN),
    material=SamplerSettings(12, 1.5, 0.0, 3.0, (0.3, 1.0), SIGMA_MIN),
)


@dataclass(frozen=True)
class Stages:
    """The networks of the three stages and the latents' normalisation."""

    structure_flow: nn.Module
    structure_decoder: nn.Module
    shape_flow: nn.Module
    shape_decoder: ShapeDecoder
    material_flow: nn.Module
    material_decoder: nn.Module
    denormalise: Callable[[str, SparseTensor], SparseTensor]  # part, normalised latent -> what its decoder takes
    structure_scale: torch.Tensor  # [C] factor from the flow's latent to the decoder's
    resolution: int

    def structure(self, tokens: torch.Tensor, settings: SamplerSettings, random: torch.Generator) -> torch.Tensor:
        """Occupied latent cells int32 [N, 4], lexicographic; an item that stays empty gets its likeliest cell."""
        params = self.structure_flow.params
        side = (int(params.resolution),) * 3  # type: ignore[union-attr,arg-type]
        noise = torch.randn(len(tokens), params.in_channels, *side, generator=random)  # type: ignore[union-attr,arg-type]
        latent = run_flow(self.structure_flow, noise.to(tokens.device), tokens, settings)
        logits = self.structure_decoder(latent * self.structure_scale.view(-1, 1, 1, 1))[:, 0]
        best = logits.flatten(1).amax(1)[:, None, None, None]
        return torch.argwhere((logits > 0) | (logits == best)).int()

    def shape(
        self, tokens: torch.Tensor, coords: torch.Tensor, settings: SamplerSettings, random: torch.Generator
    ) -> SparseTensor:
        """Normalised shape latent on the cells."""
        channels = int(self.shape_flow.params.in_channels)  # type: ignore[union-attr,arg-type]
        noise = torch.randn(len(coords), channels, generator=random).to(tokens.device)
        return run_flow(self.shape_flow, SparseTensor(noise, coords), tokens, settings)

    def material(
        self, tokens: torch.Tensor, shape: SparseTensor, settings: SamplerSettings, random: torch.Generator
    ) -> SparseTensor:
        """Normalised material latent on the rows of the normalised shape latent."""
        noise = torch.randn(*shape.feats.shape, generator=random).to(tokens.device)
        return run_flow(self.material_flow, shape.replace(noise), tokens, settings, shape)

    def decode_shape(self, shape: SparseTensor) -> Iterator[tuple[DualGrid, tuple[SparseTensor, ...]]]:
        """Dual grid and subdivisions of each batch item."""
        for item in shape.items():
            decoding = self.shape_decoder(self.denormalise(SHAPE, item).fresh())
            (grid,) = self.shape_decoder.dual_grids(decoding.raw, self.resolution)
            yield grid, decoding.subdivisions

    def decode(self, shape: SparseTensor, material: SparseTensor) -> Iterator[OVoxel]:
        """One asset a batch item."""
        for (grid, guides), item in zip(self.decode_shape(shape), material.items(), strict=True):
            raw = self.material_decoder(self.denormalise(MATERIAL, item).fresh(), guides).raw
            yield OVoxel(grid, attributes(raw.feats.float()).clamp(0, 1))

    def generate(self, tokens: torch.Tensor, samplers: Samplers, *, seed: int) -> Iterator[OVoxel]:
        """Assets of pictures' tokens [B, L, C], in order."""
        random = torch.Generator().manual_seed(seed)
        coords = self.structure(tokens, samplers.structure, random)
        shape = self.shape(tokens, coords, samplers.shape, random)
        material = self.material(tokens, shape, samplers.material, random)
        return self.decode(shape, material)


def run_flow(
    flow: nn.Module, noise: State, tokens: torch.Tensor, settings: SamplerSettings, *extra: SparseTensor
) -> State:
    """The sampled latent of a flow whose conditions are tokens [B, L, C]; the empty condition is zeros."""
    positive = flow.remember(tokens)  # type: ignore[operator]
    negative = flow.remember(torch.zeros_like(tokens))  # type: ignore[operator]

    def velocity(x: State, t: torch.Tensor, conditional: bool) -> State:
        return flow(x, t, positive if conditional else negative, *extra)

    latent = noise
    for step in sample(velocity, noise, settings):
        latent = step.x_t
    return latent


def world_points(grid: DualGrid) -> torch.Tensor:
    """Dual vertices in the box [-0.5, 0.5]^3, float32 [M, 3]."""
    return (grid.coords + grid.dual) / grid.resolution - 0.5
