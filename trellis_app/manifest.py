"""What a bundle's `pipeline.json` says, as frozen data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trellis_app.errors import BundleError
from trellis_app.settings import SamplerSettings
from trellis_app.sparse.tensor import SparseTensor

LATENT_FACTOR = 16  # fine voxels along the side of a latent voxel
SHAPE_FLOW, MATERIAL_FLOW = "shape_slat_flow_model_", "tex_slat_flow_model_"
REQUIRED_MODELS = ("sparse_structure_flow_model", "sparse_structure_decoder", "shape_slat_decoder", "tex_slat_decoder")
CASCADES = {"1024_cascade": 1024, "1536_cascade": 1536}  # from 512 through the 1024 models


@dataclass(frozen=True)
class Part:
    """A named component and its arguments, e.g. the image encoder."""

    name: str
    args: Mapping[str, Any]


@dataclass(frozen=True)
class Normalization:
    """Mean and spread of each latent channel over the training data."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or min(self.std, default=1.0) <= 0:
            raise ValueError(f"{len(self.mean)} means, {len(self.std)} standard deviations; expected as many, above 0")

    def normalise(self, latent: SparseTensor) -> SparseTensor:
        """(latent - mean) / std."""
        return latent.replace((latent.feats - self._row(self.mean, latent)) / self._row(self.std, latent))

    def denormalise(self, latent: SparseTensor) -> SparseTensor:
        """latent * std + mean."""
        return latent.replace(latent.feats * self._row(self.std, latent) + self._row(self.mean, latent))

    @staticmethod
    def _row(values: tuple[float, ...], latent: SparseTensor) -> torch.Tensor:
        return torch.tensor(values, dtype=latent.feats.dtype, device=latent.feats.device)


@dataclass(frozen=True)
class Preset:
    """One choice of resolution, and the flow models that it runs."""

    name: str
    first: int  # resolution of the shape flow that starts from the structure
    cascade_to: int | None  # wanted resolution of the second shape pass, which uses the flow of `material`
    material: int  # resolution of the material flow

    @property
    def structure_cells(self) -> int:
        """Side of the occupancy grid that the first shape pass runs on."""
        return self.first // LATENT_FACTOR

    @property
    def resolution(self) -> int:
        """Side of the O-Voxel grid that is asked for."""
        return self.cascade_to or self.first

    @property
    def models(self) -> tuple[str, ...]:
        """Keys of the models that a run needs."""
        sides = {self.first, self.material} if self.cascade_to else {self.first}
        shapes = tuple(f"{SHAPE_FLOW}{side}" for side in sorted(sides))
        return (*REQUIRED_MODELS, *shapes, f"{MATERIAL_FLOW}{self.material}")


@dataclass(frozen=True)
class Manifest:
    """`pipeline.json`: the checkpoints' paths, the samplers' defaults and the latents' normalisation."""

    models: Mapping[str, str]  # key -> path of the checkpoint pair without its endings
    structure_sampler: SamplerSettings
    shape_sampler: SamplerSettings
    material_sampler: SamplerSettings
    shape_normalization: Normalization
    material_normalization: Normalization
    image_cond_model: Part
    rembg_model: Part | None
    default_preset: str
    presets: Mapping[str, Preset]
    description: str | None = None


def read_manifest(path: Path) -> Manifest:
    """Parse a `pipeline.json`. Raises BundleError naming what is missing or does not fit."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        args = document["args"]
        return Manifest(
            models=dict(args["models"]),
            structure_sampler=_sampler(args["sparse_structure_sampler"]),
            shape_sampler=_sampler(args["shape_slat_sampler"]),
            material_sampler=_sampler(args["tex_slat_sampler"]),
            shape_normalization=_normalization(args["shape_slat_normalization"]),
            material_normalization=_normalization(args["tex_slat_normalization"]),
            image_cond_model=_part(args["image_cond_model"]),
            rembg_model=_part(args["rembg_model"]) if args.get("rembg_model") else None,
            default_preset=str(args.get("default_pipeline_type", "")),
            presets=_presets(args["models"], str(args.get("default_pipeline_type", ""))),
            description=args.get("description"),
        )
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} cannot be read ({error}).", "Download the bundle again.") from error
    except KeyError as error:
        raise BundleError(
            f"{path} has no entry {error}.", "Use the pipeline.json that belongs to the bundle."
        ) from error
    except (TypeError, AttributeError, ValueError) as error:
        raise BundleError(f"{path} is not as expected: {error}.", "Use the bundle's own pipeline.json.") from error


def read_models(path: Path) -> dict[str, str]:
    """Key -> checkpoint path of any pipeline's JSON. Raises BundleError where it names no models."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["args"]["models"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{path} names no models ({error}).", "Download the bundle again.") from error


def _sampler(block: Mapping[str, Any]) -> SamplerSettings:
    params = {**block["params"], **block.get("args", {})}
    if "guidance_interval" in params:
        low, high = params["guidance_interval"]
        params["guidance_interval"] = (float(low), float(high))
    return SamplerSettings(**params)


def _normalization(block: Mapping[str, Any]) -> Normalization:
    return Normalization(tuple(map(float, block["mean"])), tuple(map(float, block["std"])))


def _part(block: Mapping[str, Any]) -> Part:
    return Part(str(block["name"]), dict(block.get("args", {})))


def _presets(models: Mapping[str, str], default: str) -> dict[str, Preset]:
    """The resolutions that have both a shape and a material flow, smallest first, then the cascades between them."""
    if missing := [key for key in REQUIRED_MODELS if key not in models]:
        raise KeyError(f"models: {', '.join(missing)}")
    shapes, materials = (
        {int(key[len(prefix) :]) for key in models if key.startswith(prefix)} for prefix in (SHAPE_FLOW, MATERIAL_FLOW)
    )
    presets = [Preset(str(side), side, None, side) for side in sorted(shapes & materials)]
    if {512, 1024} <= shapes and 1024 in materials:
        presets += [Preset(name, 512, side, 1024) for name, side in CASCADES.items()]
    found = {preset.name: preset for preset in presets}
    if default not in found:
        raise ValueError(f"the default resolution {default!r} is none of {', '.join(found) or '(none)'}")
    return found
