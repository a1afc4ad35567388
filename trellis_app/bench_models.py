"""The released models with random weights, steered to decode a known surface: what `bench pipeline` runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from trellis_app.bench_assets import synthetic_asset
from trellis_app.devices import on_cpu
from trellis_app.image.features import Dinov3Encoder, ImageEncoder
from trellis_app.manifest import LATENT_FACTOR
from trellis_app.models.material_vae import MaterialDecoder, material_features
from trellis_app.models.shape_vae import ShapeDecoder
from trellis_app.models.sparse_unet import SparseDecoder, UpBlock
from trellis_app.models.structure_vae import StructureDecoder
from trellis_app.released import write_descriptions
from trellis_app.sparse.tensor import SpatialCache
from trellis_app.types import DualGrid, OVoxel
from trellis_app.weights import Bundle, Source, build_empty

_LEVELS = 4  # doublings of a decoder
_KEY_BITS = 16


class RandomBundle(Bundle):
    """The released bundle without its files: models come with random weights made on the device in their precision.

    They are left there, wherever their home is: `residency` parks them faster than a copy through pageable memory.
    """

    def __init__(self, folder: Path) -> None:
        """folder: an empty folder for the descriptions."""
        write_descriptions(folder)
        super().__init__("random weights of the released size", Source(folder))

    def _load(self, stem: str, device: torch.device, home: torch.device) -> nn.Module:
        if stem not in self._loaded:
            with torch.inference_mode(False):
                module = build_empty(self.source.file(f"{stem}.json"), device).to_empty(device=device)
                self._loaded[stem] = randomised(module).requires_grad_(False).eval()
        return self._loaded[stem]

    def drop(self, key: str) -> None:
        """Let go of a model; it comes with the same weights when it is asked for again."""
        self._loaded.pop(self.stem(key), None)


@torch.no_grad()
def randomised(module: nn.Module) -> nn.Module:
    """The module with weights that keep activations near 1: spread 1 / sqrt(inputs), norms 1, biases near 0."""
    for name, parameter in module.named_parameters():
        generator = torch.Generator(parameter.device).manual_seed(len(name) + parameter.numel())
        if parameter.ndim >= 2 and not name.endswith("gamma"):
            parameter.normal_(0.0, (parameter[0].numel()) ** -0.5, generator=generator)
        elif name.endswith(("gamma", "weight")):
            parameter.fill_(1.0)
        else:
            parameter.normal_(0.0, 0.02, generator=generator)
    return module


def random_encoder(device: torch.device) -> ImageEncoder:
    """The network of DINOv3 ViT-L/16 with random weights, or only its tokens where transformers is not installed."""
    try:
        from transformers import DINOv3ViTConfig, DINOv3ViTModel
    except ImportError:
        return RandomTokens(device)
    config = DINOv3ViTConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, num_register_tokens=4
    )
    with device:
        return Dinov3Encoder(randomised(DINOv3ViTModel(config)).requires_grad_(False).eval())


class RandomTokens:
    """Stands for the image encoder: as many tokens as DINOv3 gives, drawn at random."""

    def __init__(self, device: torch.device, channels: int = 1024) -> None:
        self._device, self._channels = device, channels

    def encode(self, pictures: Sequence[Image.Image], size: int) -> torch.Tensor:
        """float32 [B, 5 + (size / 16)^2, C]."""
        generator = torch.Generator().manual_seed(size)
        tokens = torch.randn(len(pictures), 5 + (size // 16) ** 2, self._channels, generator=generator)
        return tokens.to(self._device)


@dataclass(frozen=True, eq=False)
class Target:
    """A surface that the decoders are made to give, and what they see of it at each level."""

    asset: OVoxel  # on the CPU
    coords: torch.Tensor  # int32 [N, 4] latent voxels, lexicographic
    masks: tuple[torch.Tensor, ...]  # per level bool [P, 8]: existing children, rows in the decoder's order
    rows: torch.Tensor  # int64 [M] row of the asset at each row of the decoder's output; on the CPU
    geometry: torch.Tensor  # float32 [M, 7] what the shape decoder is to say, rows in its order
    colours: torch.Tensor  # float32 [M, 6] what the material decoder is to say

    @classmethod
    def of(
        cls,
        resolution: int,
        device: torch.device,
        *,
        radius: float,
        kind: str = "ball",
        walls: int = 1,
        parked: bool = False,
    ) -> Target:
        """The synthetic surface at a resolution; kind (`synthetic_asset`) and radius decide the number of tokens.

        parked: what is large waits in pinned main memory, so that it takes no part of a memory budget.
        """
        asset = synthetic_asset(resolution, kind=kind, walls=walls, radius=radius, device=device)
        fine = torch.nn.functional.pad(asset.grid.coords, (1, 0)).int()
        coords = torch.unique(fine // torch.tensor([1, *3 * [LATENT_FACTOR]], device=device, dtype=torch.int32), dim=0)
        cache, masks = SpatialCache(coords), []
        octants = torch.tensor([[0, s & 1, s >> 1 & 1, s >> 2 & 1] for s in range(8)], device=device)
        for level in range(1, _LEVELS + 1):
            present = torch.unique(_keys(fine >> (_LEVELS - level)))
            children = _keys(cache.coords[:, None] * 2 + octants)
            at = torch.searchsorted(present, children).clamp_max(len(present) - 1)
            masks.append(present[at] == children)
            cache = cache.subdivide(masks[-1]).cache
        order = torch.argsort(_keys(fine))
        rows = order[torch.searchsorted(_keys(fine)[order], _keys(cache.coords))]
        said = raw_geometry(asset.grid, rows), material_features(asset.attributes[rows])
        geometry, colours = (x.cpu().pin_memory() for x in said) if parked else said
        return cls(on_cpu(asset), coords, tuple(masks), rows.cpu(), geometry, colours)


def raw_geometry(grid: DualGrid, rows: torch.Tensor) -> torch.Tensor:
    """Raw channels [M, 7] whose activations are the dual vertices and crossed edges of these rows (margin 0.5)."""
    share = (grid.dual[rows] + 0.5) / 2
    crossed = grid.crossed[rows].float() - 0.5
    return torch.cat([torch.logit(share, eps=1e-6), crossed, torch.zeros_like(crossed[:, :1])], dim=1)


def _keys(coords: torch.Tensor) -> torch.Tensor:
    """int64 sort keys of x, y, z in the last three columns."""
    x, y, z = coords[..., 1:].long().unbind(-1)
    return (x << 2 * _KEY_BITS) | (y << _KEY_BITS) | z


class Steering:
    """Hooks on the decoders that replace what random weights would say by what the targets have."""

    def __init__(self, structure: StructureDecoder, shape: ShapeDecoder, material: MaterialDecoder) -> None:
        self.target: Target | None = None
        self.coarse: Target | None = None  # what the first pass of a cascade finds
        self.items = 1  # of a batch in which all find the same
        structure.out_layer.register_forward_hook(lambda _m, _i, out: self._occupancy(out))
        ups = [block for block in shape.modules() if isinstance(block, UpBlock)]
        for level, block in enumerate(ups):
            assert block.to_subdiv is not None
            block.to_subdiv.register_forward_hook(self._subdivision(level))
        for decoder, channels in ((shape, "geometry"), (material, "colours")):
            self._replace_output(decoder, channels)

    def _occupancy(self, out: torch.Tensor) -> torch.Tensor:
        """Logits [B, 1, R, R, R] that are above 0 in the latent voxels of the first shape pass."""
        target = self.coarse or self.target
        assert target is not None
        scale = out.shape[-1] // (target.asset.grid.resolution // LATENT_FACTOR)
        x, y, z = (target.coords[:, 1:].long() * scale).unbind(1)
        logits = torch.full_like(out, -1.0)
        logits[:, 0, x, y, z] = 1.0
        return logits

    def _replace_output(self, decoder: SparseDecoder, channels: str) -> None:
        """Hooks on an output layer that is called for one stretch of rows after another."""
        begin = 0

        def start(_module: nn.Module, _inputs: object) -> None:
            nonlocal begin
            begin = 0

        def replace(_module: nn.Module, _inputs: object, out: torch.Tensor) -> torch.Tensor:
            nonlocal begin
            said = getattr(self.target, channels)[begin : begin + len(out)]
            begin += len(out)
            return said.to(out.device, out.dtype)

        decoder.register_forward_pre_hook(start)
        decoder.output_layer.register_forward_hook(replace)

    def _subdivision(self, level: int) -> Any:
        def replace(_module: nn.Module, _inputs: object, out: torch.Tensor) -> torch.Tensor:
            masks = [target.masks[level] for target in (self.target, self.coarse) if target is not None]
            items = {1, self.items}
            (mask,) = (mask.repeat(n, 1) for mask in masks for n in items if len(mask) * n == len(out))
            return mask.to(out.dtype) - 0.5

        return replace
