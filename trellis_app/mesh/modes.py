"""What kind of surface the finisher makes of a decoded one.

single      one oriented surface: open sheets stay open and thin; no inner shell, no doubled wall, manifold
watertight  a closed 2-manifold without cavities, whatever came in: for 3D printing
decoded     the surface as it is, without the faces that are not valid triangles
"""

from __future__ import annotations

from trellis_app.mesh.repair import clean, repair
from trellis_app.mesh.surface import Surface
from trellis_app.mesh.watertight import closed_solid
from trellis_app.progress import Check, go_on
from trellis_app.settings import SURFACE_MODES


def prepare_surface(surface: Surface, mode: str, *, voxel: float, check: Check = go_on) -> Surface:
    """The surface in the given mode (one of SURFACE_MODES); `voxel` is the side of a voxel in world units.

    Deterministic. The result is empty only if the input has no valid face. Raises ValueError for another mode, and
    whatever `check` raises.
    """
    if mode not in SURFACE_MODES:
        raise ValueError(f"mode must be one of {', '.join(SURFACE_MODES)}, got {mode!r}")
    if mode == "decoded":
        return clean(surface)
    single = repair(surface, voxel=voxel, check=check)
    if mode == "single" or not len(single.faces):
        return single
    return closed_solid(single, voxel=voxel, check=check)
