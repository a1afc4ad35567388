"""What flows between the stages, as frozen named data.

Shape letters, used in every signature and `# [..]` remark of the project:

    B  batch items (pictures or seeds)          V  mesh vertices
    C  channels                                 F  mesh faces (triangles)
    R  grid side (resolution)                   T  texels along a texture side
    N  latent voxels, rows of a sparse tensor   H, W  picture height and width
    M  fine (O-Voxel) voxels                    L  image tokens

Frames: O-Voxel data and meshes are Z up in the box [-0.5, 0.5]^3; the side seen in the picture faces -Y.
Exporters turn (x, y, z) into (x, z, -y): Y up, the seen side faces +Z. Colours are sRGB encoded unless a name says
linear.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from trellis_app.mesh.health import HealthReport
    from trellis_app.sparse.tensor import SparseTensor

ATTRIBUTE_SLICES = {"base_color": slice(0, 3), "metallic": slice(3, 4), "roughness": slice(4, 5), "alpha": slice(5, 6)}


class Stage(str, Enum):
    """The named parts of a run, in order."""

    IMAGE = "image"
    STRUCTURE = "structure"
    SHAPE = "shape"
    MATERIAL = "material"
    FINISH = "finish"


@dataclass(frozen=True)
class PreparedImage:
    """A cut-out ready for the image encoder."""

    cutout: Image.Image  # RGBA, upright, longest side <= 1024: what the user sees on the checkerboard
    rgb: Image.Image  # RGB, square, cropped to the object, premultiplied on black
    warnings: tuple[str, ...] = ()  # sentences for the user: tiny mask, object touches the border, ...


@dataclass(frozen=True)
class ImageFeatures:
    """Conditioning tokens; the unconditional counterpart is zeros of the same shape."""

    tokens: torch.Tensor  # float32 [B, L, C]


@dataclass(frozen=True)
class Occupancy:
    """Active cells of the structure grid."""

    coords: torch.Tensor  # int32 [N, 4] (batch, x, y, z), lexicographic
    resolution: int  # R, cells along a side


@dataclass(frozen=True)
class ShapeLatent:
    """Denormalised shape latent on its voxels."""

    latent: SparseTensor  # feats [N, C]
    resolutions: tuple[int, ...]  # [B] side of each item's decoded O-Voxel grid (16 x the latent grid)

    @property
    def resolution(self) -> int:
        """Of the one item."""
        (resolution,) = self.resolutions
        return resolution

    def items(self) -> list[ShapeLatent]:
        """Each batch item alone."""
        return [ShapeLatent(x, (r,)) for x, r in zip(self.latent.items(), self.resolutions, strict=True)]


@dataclass(frozen=True)
class MaterialLatent:
    """Denormalised material latent, rows in the order of the shape latent."""

    latent: SparseTensor  # feats [N, C]

    def items(self) -> list[MaterialLatent]:
        """Each batch item alone."""
        return [MaterialLatent(item) for item in self.latent.items()]


@dataclass(frozen=True)
class DualGrid:
    """Geometry half of an O-Voxel asset (one batch item): one dual vertex and three edge flags a voxel."""

    coords: torch.Tensor  # int32 [M, 3]
    dual: torch.Tensor  # float32 [M, 3] position relative to the voxel corner, voxel units, within (-0.5, 1.5)
    crossed: torch.Tensor  # bool [M, 3] surface crosses the far edge along x, y, z
    split: torch.Tensor | None  # float32 [M, 1] positive quad-split weight, or None
    resolution: int


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh in world units."""

    vertices: torch.Tensor  # float32 [V, 3]
    faces: torch.Tensor  # int32 [F, 3]


@dataclass(frozen=True)
class OVoxel:
    """A whole O-Voxel asset: geometry and PBR attributes on the same voxels."""

    grid: DualGrid
    attributes: torch.Tensor  # float32 [M, 6] base colour rgb, metallic, roughness, alpha in [0, 1]


@dataclass(frozen=True)
class Textures:
    """PBR maps of one atlas, row 0 at v = 0 (glTF convention)."""

    base_color: np.ndarray  # uint8 [T, T, 4] sRGB + alpha
    metallic_roughness: np.ndarray  # uint8 [T, T, 3] (0, roughness, metallic)
    alpha_mode: str = "OPAQUE"  # OPAQUE | MASK | BLEND
    normal: np.ndarray | None = None  # uint8 [T, T, 3] tangent space, +Y up; None without a normal map
    wrap: str = "clamp"  # clamp | repeat, where UVs leave [0, 1]


@dataclass(frozen=True)
class FinishedAsset:
    """What exporters write. Still Z up; vertices are split at UV seams."""

    vertices: np.ndarray  # float32 [V, 3]
    faces: np.ndarray  # int32 [F, 3]
    normals: np.ndarray  # float32 [V, 3] unit
    uvs: np.ndarray  # float32 [V, 2] glTF convention (v down)
    colors: np.ndarray  # uint8 [V, 4] sRGB + alpha at the vertices
    textures: Textures
    tangents: np.ndarray | None = None  # float32 [V, 4] of the normal map's frame; None: as vertex_tangents finds them
    translucent_faces: int = 0  # how many of the last faces are translucent (alpha mode BLEND)
    double_sided: bool = True  # False where every face is seen from outside only (closed surface)
    counts: dict[str, int] = field(default_factory=dict)  # mesh counts of each finishing step, for the sidecar
    health: HealthReport | None = None  # of the mesh as written
    notes: tuple[str, ...] = ()  # sentences on how it was made, for the sidecar


@dataclass(frozen=True)
class StageEvent:
    """One beat of a run: at least one a sampler step, so a run can be stopped between any two."""

    stage: Stage
    label: str  # plain words, e.g. "Shape: step 3 of 12"
    step: int  # k of n within the stage
    steps: int
    elapsed: float  # seconds since the run began
    remaining: float | None  # seconds, None while unknown
    result: Occupancy | DualGrid | OVoxel | FinishedAsset | None = None  # set on the last event of a stage
