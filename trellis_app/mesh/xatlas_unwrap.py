"""UVs by xatlas, in a process of its own that is stopped when its time is up."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from trellis_app.mesh.surface import Surface
from trellis_app.progress import Check, go_on

LOG = logging.getLogger(__name__)
_BEAT = 0.1  # seconds between two looks at the clock and at the check

_WORK = """
import sys
import numpy as np
import xatlas
given = np.load(sys.argv[1])
atlas = xatlas.Atlas()
atlas.add_mesh(given["vertices"], given["faces"].astype(np.uint32))
pack = xatlas.PackOptions()
pack.resolution, pack.padding, pack.bilinear = int(sys.argv[3]), int(sys.argv[4]), True
chart = xatlas.ChartOptions()
chart.max_cost = 1.0
atlas.generate(chart, pack)
if atlas.atlas_count != 1:
    raise SystemExit("more than one page")
source, faces, uvs = atlas[0]
page = np.array([atlas.width, atlas.height], np.float32)
np.savez(sys.argv[2], source=source, faces=faces, uvs=uvs * page / page.max())
"""


def xatlas_uvs(
    surface: Surface, *, texture_size: int, margin: float, seconds: float, check: Check = go_on
) -> tuple[np.ndarray, np.ndarray] | None:
    """(chart int32 [F], UVs float32 [F, 3, 2] in [0, 1]); None, and a warning that says why, where that fails.

    seconds: as long as xatlas may take. Raises what `check` raises, after stopping xatlas.
    """
    if importlib.util.find_spec("xatlas") is None:
        LOG.warning("xatlas is not installed; the fast unwrapping took its place. Install it with pip install xatlas.")
        return None
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "given.npz", Path(folder) / "made.npz"
        np.savez(given, vertices=surface.vertices, faces=surface.faces)
        command = [sys.executable, "-c", _WORK, str(given), str(made), str(texture_size), str(round(margin))]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            end = time.monotonic() + seconds
            try:
                while process.poll() is None and time.monotonic() < end:
                    check()
                    time.sleep(_BEAT)
            finally:
                late = process.poll() is None
                if late:
                    process.kill()
        if late or process.returncode or not made.exists():
            why = f"did not finish within {seconds:.0f} s" if late else "failed on this mesh"
            LOG.warning("xatlas %s; the fast unwrapping took its place.", why)
            return None
        with np.load(made) as result:
            return _by_face(surface, result["source"], result["faces"], result["uvs"])


def _by_face(
    surface: Surface, source: np.ndarray, faces: np.ndarray, uvs: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Charts and UVs in the surface's order of faces and corners; None where xatlas has changed them."""
    if faces.shape != surface.faces.shape or not np.array_equal(source[faces], surface.faces):
        LOG.warning("xatlas left out faces; the fast unwrapping took its place.")
        return None
    ends = (faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1))
    links = coo_array((np.ones(faces.size, bool), ends), shape=(len(uvs), len(uvs)))
    part = connected_components(links, directed=False)[1]
    chart = np.unique(part[faces[:, 0]], return_inverse=True)[1].astype(np.int32)
    return chart, np.ascontiguousarray(uvs[faces].clip(0.0, 1.0), dtype=np.float32)
