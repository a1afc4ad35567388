"""The mesh that is to be textured: how it stands towards the picture, or why it cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from trellis_app.errors import MeshError
from trellis_app.export.files import write_atomically
from trellis_app.mesh.user_mesh import UserMesh, framed, read_mesh
from trellis_app.mesh.user_uvs import judge_uvs
from trellis_app.texturing import TextureOptions
from trellis_app.types import Mesh
from trellis_app.ui.cutout_card import CUTOUT_SIDE
from trellis_app.ui.previews import render_preview, write_preview
from trellis_app.ui.stages import plain, thumb_uri

ALONE = (".glb", ".obj", ".ply", ".stl", ".off")  # files that need no other file beside them
SIDES = [("Front", 0), ("Right", 270), ("Back", 180), ("Left", 90)]  # and the degrees that turn it to the picture
UP_CHOICES = [("Y, as in GLB", "y"), ("Z, as in CAD and printing", "z")]
UV_CHOICES = [("Automatic", "auto"), ("Keep the mesh's own", "keep"), ("Make a new one", "new")]


@dataclass(frozen=True)
class ChosenMesh:
    """A mesh that passed the checks, how it stands, and what it looks like in clay."""

    mesh: UserMesh
    options: TextureOptions
    model: Path
    picture: Path
    uv_note: str  # a sentence


def read_upload(path: str) -> UserMesh:
    """The mesh of an uploaded file. Raises MeshError for what cannot be used."""
    if Path(path).suffix.lower() not in ALONE:
        raise MeshError("This is not a mesh file that the page can read.", f"Choose {', '.join(ALONE)}.")
    return read_mesh(path)


def stand(mesh: UserMesh, options: TextureOptions, folder: Path) -> ChosenMesh:
    """The mesh as the picture is to see it, with previews in `folder`. Raises MachineError when the disk refuses."""
    surface = framed(mesh, options.stance)
    clay = Mesh(torch.from_numpy(surface.vertices), torch.from_numpy(surface.faces))
    verdict = judge_uvs(surface, mesh.uvs)
    new = options.uv == "new" or (options.uv == "auto" and not verdict.usable)
    reason = "as you chose" if options.uv == "new" else verdict.reason
    note = f"The texture gets a layout of its own: {reason}." if new else "The mesh's own texture layout is kept."
    picture = write_atomically(folder / "mesh.png", [render_preview(clay)])
    return ChosenMesh(mesh, options, write_preview(clay, folder / "mesh.glb"), picture, note)


def mesh_card(chosen: ChosenMesh | None) -> dict[str, object]:
    """Value of the card for a chosen mesh, or for none."""
    if chosen is None:
        return {"state": "empty", "picture": "", "alt": "", "title": "", "notes": []}
    return {
        "state": "ready",
        "picture": thumb_uri(chosen.picture, CUTOUT_SIDE),
        "alt": "The mesh as the picture is to see it",
        "title": f"{len(chosen.mesh.faces):,} triangles",
        "notes": [plain(chosen.uv_note)],
    }
