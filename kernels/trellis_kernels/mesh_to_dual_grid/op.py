"""Door of the op: check the mesh and the grid, run the CPU path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from trellis_kernels.mesh_to_dual_grid import reference


@dataclass(frozen=True)
class GridBox:
    """A box of voxels in the mesh's units."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    cells: tuple[int, int, int]
    voxel_size: float | None = None  # where the side of a voxel is given, not the extent divided by the cells

    def __post_init__(self) -> None:
        if not all(1 <= n <= 4096 for n in self.cells):
            raise ValueError(f"cells are {self.cells}; each must be within 1..4096")
        if not all(a < b for a, b in zip(self.low, self.high, strict=True)):
            raise ValueError(f"the box from {self.low} to {self.high} is empty or turned over")

    @classmethod
    def cube(cls, resolution: int) -> GridBox:
        """The unit box around the origin with `resolution` cells a side."""
        return cls((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5), (resolution, resolution, resolution))

    @classmethod
    def of_voxels(cls, low: tuple[float, float, float], high: tuple[float, float, float], voxel_size: float) -> GridBox:
        """The box filled with as many voxels of a given size as fit best."""
        x, y, z = (round((b - a) / voxel_size) for a, b in zip(low, high, strict=True))
        return cls(low, high, (x, y, z), voxel_size)

    @property
    def step(self) -> np.ndarray:
        """Voxel size, float32 [3]."""
        if self.voxel_size is not None:
            return np.full(3, self.voxel_size, np.float32)
        extent = np.array(self.high, np.float32) - np.array(self.low, np.float32)
        return (extent / np.array(self.cells, np.float32)).astype(np.float32)


@dataclass(frozen=True)
class QefWeights:
    """Weights of the error terms a dual vertex minimises, besides the planes at the crossed edges."""

    face: float = 1.0
    boundary: float = 0.2
    regularization: float = 0.01

    def __post_init__(self) -> None:
        if min(self.face, self.boundary, self.regularization) < 0:
            raise ValueError(f"weights must not be negative, but are {self}")


class DualVoxels(NamedTuple):
    """Active voxels in lexicographic order."""

    coords: torch.Tensor  # int32 [M, 3]
    dual: torch.Tensor  # float32 [M, 3] within the voxel, in voxels: [0, 1]
    crossed: torch.Tensor  # bool [M, 3] the surface crosses the far edge along x, y, z


def mesh_to_dual_grid(
    vertices: torch.Tensor,
    faces: torch.Tensor,
    box: GridBox,
    weights: QefWeights = QefWeights(),
    *,
    weld: bool = True,
    workers: int = 1,
    check: Callable[[], None] = lambda: None,
    implementation: str = "auto",
) -> DualVoxels:
    """Active voxels of a triangle mesh, their crossed edges and dual vertices (Flexible Dual Grid of TRELLIS.2).

    vertices: float [V, 3], finite; faces: int [F, 3]; any winding, holes and non-manifold edges allowed. Parts outside
    the box are cut off. weld: vertices at equal positions count as one when edges are tested for being a boundary.
    workers: threads over slabs of the grid; the result does not depend on it. check: called between slabs by the cpu
    path; what it raises ends the work. implementation: auto | cpu | reference.
    Raises ValueError for wrong shapes, indices out of range or vertices that are not finite.
    """
    points, triangles = checked_mesh(vertices, faces)
    shifted = points - np.array(box.low, np.float32)
    values = (float(weights.face), float(weights.boundary), float(weights.regularization))
    cells = np.array(box.cells, np.int64)
    if implementation == "reference":
        result = reference.mesh_to_dual_grid(shifted, triangles, box.step, cells, values, weld=weld)
    elif implementation in ("auto", "cpu"):
        from trellis_kernels.mesh_to_dual_grid import cpu

        result = cpu.mesh_to_dual_grid(
            shifted, triangles, box.step, cells, values, weld=weld, workers=workers, check=check
        )
    else:
        raise ValueError(f"implementation is {implementation!r}; choose auto, cpu or reference")
    return DualVoxels(*(torch.from_numpy(array).to(vertices.device) for array in result))


def checked_mesh(vertices: torch.Tensor, faces: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The mesh as contiguous float32 [V, 3] and int32 [F, 3] arrays; raises ValueError where it is not one."""
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"expected vertices [V, 3] and faces [F, 3], got {list(vertices.shape)}, {list(faces.shape)}")
    points = np.ascontiguousarray(vertices.detach().cpu().numpy(), np.float32)
    triangles = np.ascontiguousarray(faces.detach().cpu().numpy(), np.int32)
    if not np.isfinite(points).all():
        raise ValueError("vertices are not all finite")
    if triangles.size and not 0 <= triangles.min() <= triangles.max() < len(points):
        raise ValueError(f"face indices {triangles.min()}..{triangles.max()} do not fit {len(points)} vertices")
    return points, triangles
