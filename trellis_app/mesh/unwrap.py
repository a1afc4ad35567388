"""A UV atlas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xatlas

from trellis_app.mesh.surface import Surface


@dataclass(frozen=True)
class Atlas:
    """UVs of a surface by face corner."""

    chart: np.ndarray  # int32 [F] chart of each face
    uvs: np.ndarray  # float32 [F, 3, 2] in [0, 1], row 0 of the texture at v = 0


def unwrap(surface: Surface, *, texture_size: int) -> Atlas:
    """Cut the surface into charts and pack them without overlap."""
    atlas = xatlas.Atlas()
    atlas.add_mesh(surface.vertices, surface.faces)
    options, pack = xatlas.ChartOptions(), xatlas.PackOptions()
    options.max_iterations = 1
    pack.padding, pack.resolution = 3, texture_size
    atlas.generate(options, pack)
    _, faces, uvs = atlas[0]
    return Atlas(np.zeros(len(faces), np.int32), uvs[faces].astype(np.float32))
