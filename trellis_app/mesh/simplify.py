"""Fewer triangles."""

import numpy as np
import pyfqmr

from trellis_app.mesh.surface import Surface


def simplify(surface: Surface, target: int) -> Surface:
    """At most `target` faces."""
    if len(surface.faces) <= target:
        return surface
    worker = pyfqmr.Simplify()
    worker.setMesh(surface.vertices.astype(np.float64), surface.faces)
    worker.simplify_mesh(target_count=target, aggressiveness=5, preserve_border=True, verbose=0)
    vertices, faces, _ = worker.getMesh()
    return Surface(vertices.astype(np.float32), faces.astype(np.int32))
