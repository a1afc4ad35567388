"""A mesh with textures and materials, as the op takes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WRAPS = ("repeat", "clamp", "mirror")


@dataclass(frozen=True)
class Texture:
    """A picture on the surface; row 0 is at v = 1."""

    pixels: np.ndarray  # uint8 [H, W, 4]
    wrap: str = "repeat"  # repeat | clamp | mirror
    linear: bool = True  # trilinear, or nearest without mip levels

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 4 or self.pixels.dtype != np.uint8 or not self.pixels.size:
            raise ValueError(f"pixels must be uint8 [H, W, 4], got {self.pixels.dtype} {list(self.pixels.shape)}")
        if self.wrap not in WRAPS:
            raise ValueError(f"wrap is {self.wrap!r}; choose {', '.join(WRAPS)}")


@dataclass(frozen=True)
class Material:
    """Factors times textures where there are some; colours are multiplied as they are encoded."""

    base_color: Texture | None = None  # RGB
    metallic: Texture | None = None  # B
    roughness: Texture | None = None  # G
    alpha: Texture | None = None  # A
    factors: tuple[float, float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)  # r g b metal rough alpha
    alpha_cutoff: float | None = None  # alpha becomes 1 from here on and 0 below
    emissive: Texture | None = None  # RGB
    emissive_factor: tuple[float, float, float] = (0.0, 0.0, 0.0)
    normal: Texture | None = None  # RGB = (x, y, z) / 2 + 1/2 along dP/du, dP/dv and the normal


@dataclass(frozen=True)
class PaintedMesh:
    """Triangles with a colour at each corner."""

    vertices: np.ndarray  # float32 [V, 3]
    faces: np.ndarray  # int32 [F, 3]
    corner_rgba: np.ndarray  # uint8 [F, 3, 4]
    metal_rough: np.ndarray  # uint8 [F, 2]

    def __post_init__(self) -> None:
        count = len(self.faces)
        if self.corner_rgba.shape != (count, 3, 4) or self.metal_rough.shape != (count, 2):
            raise ValueError(f"{count} faces, but colours {self.corner_rgba.shape}, materials {self.metal_rough.shape}")


@dataclass(frozen=True)
class TexturedMesh:
    """Triangles with materials."""

    vertices: np.ndarray  # float32 [V, 3]
    faces: np.ndarray  # int32 [F, 3]
    uv: np.ndarray  # float32 [F, 3, 2] at the face corners, v up
    material: np.ndarray  # int32 [F] into materials
    materials: tuple[Material, ...]
    colors: np.ndarray | None = None  # float32 [F, 3, 4] in [0, 1] at the face corners, multiplied on the material
    normals: np.ndarray | None = None  # float32 [F, 3, 3] of unit length at the face corners; none: the faces' own

    def __post_init__(self) -> None:
        count = len(self.faces)
        if self.uv.shape != (count, 3, 2) or self.material.shape != (count,):
            raise ValueError(f"{count} faces, but uv {self.uv.shape} and material {self.material.shape}")
        if self.colors is not None and self.colors.shape != (count, 3, 4):
            raise ValueError(f"{count} faces, but colors {self.colors.shape}")
        if self.normals is not None and self.normals.shape != (count, 3, 3):
            raise ValueError(f"{count} faces, but normals {self.normals.shape}")
        if count and not 0 <= self.material.min() <= self.material.max() < len(self.materials):
            raise ValueError(f"materials up to {self.material.max()} where there are {len(self.materials)}")

    def corner_normals(self) -> np.ndarray:
        """Normals float32 [F, 3, 3] at the face corners; zero on faces without area that bring none."""
        if self.normals is not None:
            return np.ascontiguousarray(self.normals, np.float32)
        corners = self.vertices[self.faces].astype(np.float64)
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        length = np.linalg.norm(normal, axis=1, keepdims=True)
        normal = np.divide(normal, length, out=np.zeros_like(normal), where=length > 0)
        return np.repeat(normal[:, None], 3, axis=1).astype(np.float32)


def mip_levels(pixels: np.ndarray, *, rounded: bool) -> list[np.ndarray]:
    """The image and its halvings down to one texel: 2 x 2 means, truncated or rounded; odd rests are dropped."""
    chain = [np.ascontiguousarray(pixels)]
    while max(chain[-1].shape[:2]) > 1:
        image = chain[-1].astype(np.uint16)
        rows, columns = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
        image = image[0:rows:2] + image[1:rows:2] if rows else 2 * image
        image = image[:, 0:columns:2] + image[:, 1:columns:2] if columns else 2 * image
        chain.append(((image + 2 * rounded) // 4).astype(np.uint8))
    return chain
