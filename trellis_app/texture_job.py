"""One stateless job, mesh and picture -> files: what the `texture` command runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trellis_app.export.files import check_folder
from trellis_app.export.formats import check_formats, write_all
from trellis_app.export.sidecar import RunLog, settings_record
from trellis_app.export.source import ExportSource
from trellis_app.image.cutout import CutoutOptions
from trellis_app.image.reading import read_picture
from trellis_app.job import finished
from trellis_app.mesh.user_mesh import read_mesh
from trellis_app.pipeline import ImageTo3D
from trellis_app.settings import AppSettings, FileOptions, GenerationRequest
from trellis_app.texturing import TextureOptions, texture
from trellis_app.types import Stage, StageEvent

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextureJob:
    """Which mesh and picture become which files."""

    mesh: Path
    picture: Path
    folder: Path
    formats: tuple[str, ...] = ("glb",)
    texture: TextureOptions = field(default_factory=TextureOptions)
    cutout: CutoutOptions = field(default_factory=CutoutOptions)
    files: FileOptions = field(default_factory=FileOptions)

    @property
    def stem(self) -> str:
        """Of the files; never the mesh's own name."""
        return f"{self.mesh.stem}_textured"


def run_texture_job(
    settings: AppSettings, request: GenerationRequest, job: TextureJob, notify: Callable[[StageEvent], None]
) -> list[Path]:
    """Texture the mesh and write `<mesh>_textured.<format>` and `.json`; returns the paths written.

    Cheap checks come first: formats, folder, mesh, picture, then the bundle. Raises the errors of errors.py and leaves
    nothing half-written.
    """
    check_formats(job.formats, job.files)
    check_folder(job.folder)
    mesh = read_mesh(job.mesh)
    picture = read_picture(job.picture)
    pipeline = ImageTo3D.load(settings)
    request = pipeline.resolved(request)
    prepared = pipeline.prepare(picture, job.cutout)
    log = RunLog()
    asset, voxels = finished(texture(pipeline, mesh, prepared, request, job.texture), log, notify)
    for note in asset.notes:
        LOG.info(note)
    samplers = {Stage.MATERIAL: pipeline.samplers(request)[Stage.MATERIAL]}
    record = settings_record(request, samplers, bundle=pipeline.bundle.name)
    record |= {"mesh": job.mesh.name, "texture": asdict(job.texture)}
    sidecar = {**record, "warnings": prepared.warnings, "seconds": log.rounded()}
    source = ExportSource(asset, voxels, request.finish, job.files, record)
    written = write_all(source, job.folder, job.stem, job.formats, sidecar=sidecar)
    return [path for paths in written.values() for path in paths]
