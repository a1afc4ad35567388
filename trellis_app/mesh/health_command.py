"""What `python -m trellis_app health FILE` finds out and says."""

from __future__ import annotations

from pathlib import Path

from trellis_app.mesh.health import HealthReport, TextureSpace, report
from trellis_app.mesh.user_mesh import read_mesh


def examine(path: Path, *, texture_size: int) -> HealthReport:
    """The report of a mesh file; raises MeshError where it cannot be read or holds no triangles.

    texture_size: texels a side of the texture that its UVs are for.
    """
    mesh = read_mesh(path)
    texture = None if mesh.uvs is None else TextureSpace(mesh.uvs, texture_size)
    bytes_ = path.stat().st_size
    return report(mesh.vertices, mesh.faces, weld=True, deep=True, texture=texture, file_bytes=bytes_)


def text(found: HealthReport) -> str:
    """The report as lines: verdict, findings, numbers."""
    state, title = found.verdict()
    numbers = [f"  {name.replace('_', ' ')}: {value}" for name, value in found.record().items() if value is not None]
    return "\n".join([f"{title} ({state})", *found.sentences(), *numbers])
