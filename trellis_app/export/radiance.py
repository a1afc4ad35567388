"""A radiance field on the sparse grid as .npz, and its reader.

    coords      uint16 [N, 3]  voxels that hold something; (i, j, k) begins at origin + voxel_size * (i, j, k)
    density     float32 [N]    sigma of each voxel, constant within it, per world unit; empty space has none
    color       uint8 [N, 3]   emitted colour, sRGB
    origin      float32 [3]    corner of voxel (0, 0, 0)
    voxel_size  float32        side of a voxel
    resolution  int32          voxels along the box
    up          str            "z": the frame is the O-Voxel frame (Z up, the seen side faces -Y)

A ray's colour is the sum over the voxels it meets of T (1 - exp(-sigma d)) c, with T what the voxels before let through
and d the way inside the voxel (Max 1995, eq. 7 with constant cells). A ray straight through a voxel loses its alpha.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from trellis_app.errors import MeshError
from trellis_app.export.numpy_archive import npz_chunks
from trellis_app.export.surfels import Surfels
from trellis_app.progress import Check, go_on

_ALPHAS = (0.0, 0.999)


@dataclass(frozen=True)
class RadianceField:
    """Density and colour of the voxels of a cubic grid."""

    coords: np.ndarray  # int32 [N, 3]
    density: np.ndarray  # float32 [N] per world unit
    color: np.ndarray  # uint8 [N, 3] sRGB
    origin: tuple[float, float, float]
    voxel_size: float
    resolution: int


def radiance_field(discs: Surfels) -> RadianceField:
    """The field whose every voxel takes its alpha from a ray that crosses it straight."""
    through = 1.0 - discs.attributes[:, 5].astype(np.float64).clip(*_ALPHAS)
    size = 1.0 / discs.resolution
    density = (-np.log(through) / size).astype(np.float32)
    color = np.rint(255.0 * discs.attributes[:, :3]).astype(np.uint8)
    return RadianceField(discs.coords, density, color, (-0.5, -0.5, -0.5), size, discs.resolution)


def radiance_chunks(field: RadianceField, check: Check = go_on) -> list[bytes]:
    """The file in pieces; the same field gives the same bytes."""
    arrays: Mapping[str, np.ndarray] = {
        "coords": field.coords.astype(np.uint16),
        "density": field.density,
        "color": field.color,
        "origin": np.array(field.origin, np.float32),
        "voxel_size": np.array(field.voxel_size, np.float32),
        "resolution": np.array(field.resolution, np.int32),
        "up": np.array("z"),
    }
    return npz_chunks(arrays, check)


def read_radiance(path: Path) -> RadianceField:
    """The field of a file. Raises MeshError where it is none."""
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        x, y, z = arrays["origin"].tolist()
        return RadianceField(
            arrays["coords"].astype(np.int32), arrays["density"], arrays["color"], (x, y, z),
            float(arrays["voxel_size"]), int(arrays["resolution"]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise MeshError(f"{path.name} is no radiance field ({error}).", "Export it again.") from error
