"""One mesh and one picture in, the same mesh with a texture out: the third stage of `pipeline.py` on a given shape.

    UserMesh ──framed──▶ Surface ──voxels──▶ DualGrid ──shape encoder──▶ ShapeLatent           (preview: clay)
    material : noise on voxels + ShapeLatent ──sample──▶ MaterialLatent ──decoder──▶ OVoxel    (preview: colour)
    finish   : OVoxel at the mesh's own surface ──the mesh's UVs, or new ones ▶ bake──▶ FinishedAsset

The mesh's vertices, triangles and, where they can carry a texture, UVs come back as they were.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from trellis_app.devices import memory_told, on_cpu
from trellis_app.errors import MeshError, SettingsError
from trellis_app.heartbeat import StopSignal, beating
from trellis_app.manifest import MATERIAL_FLOW
from trellis_app.mesh.bake import Baked, Sampler, bake
from trellis_app.mesh.health import report
from trellis_app.mesh.normals import crease_normals
from trellis_app.mesh.surface import Surface, face_cross, weld_vertices
from trellis_app.mesh.unwrap import Atlas, unwrap
from trellis_app.mesh.user_mesh import Stance, UserMesh, framed
from trellis_app.mesh.user_uvs import judge_uvs
from trellis_app.ovoxel.from_mesh import mesh_to_dual_grid
from trellis_app.pipeline import ImageTo3D
from trellis_app.progress import Check, RunClock, go_on
from trellis_app.run import Run
from trellis_app.settings import FinishOptions, GenerationRequest
from trellis_app.types import DualGrid, FinishedAsset, Mesh, OVoxel, PreparedImage, Stage, StageEvent

SLIVER = 1e-12  # doubled area in the unit box; a texel of the largest texture has 1e-8
UV_MODES = ("auto", "keep", "new")
FINISH_STEPS = ("Lay out the texture", "Bake the textures", "Pack")
FIRST_GUESS = {Stage.SHAPE: 0.35, Stage.MATERIAL: 0.35, Stage.FINISH: 0.3}  # shares of a run's seconds, mini on 2 cores
T = TypeVar("T")


@dataclass(frozen=True)
class TextureOptions:
    """How the mesh stands towards the picture, and which UVs the texture lies on."""

    stance: Stance = field(default_factory=Stance)
    uv: str = "auto"  # auto: the mesh's own where they can carry a texture, else new ones; keep: its own; new: new ones

    def __post_init__(self) -> None:
        if self.uv not in UV_MODES:
            raise SettingsError(f"The UV mode is {self.uv!r}.", f"Choose one of {', '.join(UV_MODES)}.")


@dataclass(frozen=True)
class Layout:
    """Where the mesh's faces lie in the texture."""

    atlas: Atlas
    own: bool  # the mesh's own UVs
    wrapped: bool  # they leave [0, 1], so the texture repeats
    note: str  # a sentence for the record: whose UVs, and why


@torch.inference_mode()
def texture(
    pipeline: ImageTo3D,
    mesh: UserMesh,
    prepared: PreparedImage,
    request: GenerationRequest,
    options: TextureOptions = TextureOptions(),
    *,
    finish: bool = True,
) -> Generator[StageEvent, None, None]:
    """Give a mesh the material that a picture shows; another seed gives another one.

    The last event of Stage.SHAPE carries the DualGrid, of Stage.MATERIAL the OVoxel (both in the frame of `framed`), of
    Stage.FINISH the FinishedAsset in the mesh's own place and units. The request's preset chooses the resolution, its
    structure and shape samplers and face budget are not used. Can be closed at any event, of which there is one every
    half second. Raises MeshError where the mesh is too fine for the grid, MachineError out of memory, BundleError where
    the bundle has no shape encoder.
    """
    request = pipeline.resolved(request)
    material = pipeline.bundle.presets[str(request.preset)].material
    yield from pipeline.fetch(("shape_slat_encoder", f"{MATERIAL_FLOW}{material}", "tex_slat_decoder"))
    run = pipeline.begin(prepared, request, RunClock(FIRST_GUESS))
    with memory_told():
        asset = yield from coloured(pipeline, framed(mesh, options.stance), run)
        if finish:
            yield from finish_texture(mesh, asset, request.finish, options, run.clock)


def coloured(pipeline: ImageTo3D, surface: Surface, run: Run) -> Generator[StageEvent, None, OVoxel]:
    """The material of the picture on the voxels of a surface in the unit box."""
    signal = StopSignal()
    yield run.clock.event(Stage.SHAPE, "starting", 0, 10)
    read = partial(voxels_of, surface, run.preset.resolution, check=signal)
    grid = yield from _work(run.clock, (Stage.SHAPE, "mesh to voxels", 0, 10), read, signal)
    encode = partial(pipeline.encode_shape, grid)
    for attempt in pipeline.attempts(run):
        with attempt:
            shape = yield from _work(run.clock, (Stage.SHAPE, "reading the shape", 5, 10), encode, signal)
    yield pipeline.done(run.clock, Stage.SHAPE, grid)
    for attempt in pipeline.attempts(run):
        with attempt:
            material = yield from pipeline.material(shape, run)
    decode = partial(pipeline.decode_material, material, grid, None)
    for attempt in pipeline.attempts(run):
        with attempt:
            asset = yield from _work(run.clock, (Stage.MATERIAL, "colouring the surface", 9, 10), decode, signal)
    yield pipeline.done(run.clock, Stage.MATERIAL, asset)
    return on_cpu(asset)


def finish_texture(
    mesh: UserMesh, asset: OVoxel, finish: FinishOptions, options: TextureOptions, clock: RunClock | None = None
) -> Generator[StageEvent, None, None]:
    """Bake kept voxels onto the mesh; the last event carries the FinishedAsset. Samples nothing.

    Of the options for finishing only texture size and alpha matter. Raises MeshError where the mesh cannot carry a
    texture: with uv="keep" for want of UVs, else of room in the texture.
    """
    clock, signal = clock or RunClock({Stage.FINISH: 1.0}), StopSignal()
    lay, paint, gather = ((Stage.FINISH, name, k, len(FINISH_STEPS)) for k, name in enumerate(FINISH_STEPS))
    surface, sampler = framed(mesh, options.stance), Sampler(asset)
    place = partial(lay_out, mesh, surface, options.uv, finish.texture_size, check=signal)
    layout = yield from _work(clock, lay, place, signal)
    fill = partial(bake, surface, layout.atlas, sampler, size=finish.texture_size, alpha=finish.alpha, check=signal)
    baked = yield from _work(clock, paint, fill, signal)
    finished = yield from _work(clock, gather, partial(pack, mesh, surface, layout, baked, sampler), signal)
    yield clock.event(Stage.FINISH, FINISH_STEPS[2], len(FINISH_STEPS), len(FINISH_STEPS), finished)


def _work(
    clock: RunClock, beat: tuple[Stage, str, int, int], job: Callable[[], T], signal: StopSignal
) -> Generator[StageEvent, None, T]:
    """Run a job in a thread, with an event every half second and one at its end."""
    stage, what, step, steps = beat
    result = yield from clock.beats(beating(job, signal), *beat)
    yield clock.event(stage, what, step + 1, steps)
    return result


def voxels_of(surface: Surface, resolution: int, *, check: Check = go_on) -> DualGrid:
    """The dual grid of a surface in the unit box; raises MeshError where it crosses no grid edge."""
    mesh = Mesh(torch.from_numpy(surface.vertices), torch.from_numpy(surface.faces))
    grid = mesh_to_dual_grid(mesh, resolution, workers=os.cpu_count() or 1, check=check)
    if not len(grid.coords):
        raise MeshError("The mesh slips through the voxel grid.", "Give it more area or choose a higher resolution.")
    return grid


def lay_out(mesh: UserMesh, surface: Surface, mode: str, size: int, *, check: Check = go_on) -> Layout:
    """The mesh's own UVs or new ones. Raises MeshError where it must keep what it has not, or has no room."""
    if mode != "new":
        verdict = judge_uvs(surface, mesh.uvs)
        if verdict.corners is not None and (verdict.usable or mode == "keep"):
            chart = np.zeros(len(surface.faces), np.int32)
            note = "The mesh's own UVs were kept" + ("." if verdict.usable else f", though {verdict.reason}.")
            return Layout(Atlas(chart, verdict.corners), True, verdict.wrapped, note)
        if mode == "keep":
            raise MeshError(f"{mesh.name} has no UVs to keep.", "Leave --uv at auto, which makes new ones.")
    reason = "new UVs were asked for" if mode == "new" else verdict.reason
    return Layout(new_atlas(surface, size, check), False, False, f"New UVs were made: {reason}.")


def new_atlas(surface: Surface, size: int, check: Check) -> Atlas:
    """UVs for every face; coincident faces share theirs, and slivers that no texel can show lie in the corner."""
    welded = weld_vertices(surface)
    solid = np.flatnonzero(np.linalg.norm(face_cross(welded), axis=1) > SLIVER)
    if not len(solid):
        raise MeshError("The mesh has no area.", "Choose a mesh with a surface.")
    turn = np.argsort(welded.faces[solid], axis=1, kind="stable")
    corners = np.take_along_axis(welded.faces[solid], turn, axis=1)
    order = np.lexsort(corners.T)
    fresh = np.concatenate([[True], (corners[order][1:] != corners[order][:-1]).any(axis=1)])
    found = unwrap(welded.keep_faces(solid[order[fresh]]), texture_size=size, check=check)
    like = np.empty(len(solid), np.int64)  # the laid-out face that each face coincides with
    like[order] = np.cumsum(fresh) - 1
    laid = np.take_along_axis(found.uvs, turn[order[fresh]][..., None], axis=1)[like]
    chart, uvs = np.zeros(len(surface.faces), np.int32), np.zeros((len(surface.faces), 3, 2), np.float32)
    placed = np.empty_like(laid)
    np.put_along_axis(placed, turn[..., None], laid, axis=1)
    chart[solid], uvs[solid] = found.chart[like], placed
    return Atlas(chart, uvs)


def pack(mesh: UserMesh, surface: Surface, layout: Layout, baked: Baked, sampler: Sampler) -> FinishedAsset:
    """The mesh in its own place with its textures.

    Its vertices come first and in order; copies of some follow where normals or new UVs part them. Triangles keep their
    order, but for translucent ones, which move to the end.
    """
    source, faces, normals = split_corners(mesh, surface, layout)
    uvs = np.zeros((len(source), 2), np.float32)
    if layout.own and mesh.uvs is not None:
        uvs = mesh.uvs[source]
    else:
        uvs[faces.reshape(-1)] = layout.atlas.uvs.reshape(-1, 2)
    colors = np.rint(255.0 * sampler.at(surface.vertices)[:, [0, 1, 2, 5]]).astype(np.uint8)
    if baked.textures.alpha_mode == "OPAQUE":
        colors[:, 3] = 255
    order = np.argsort(baked.translucent, kind="stable")
    return FinishedAsset(
        vertices=z_up(mesh.vertices)[source],
        faces=faces[order],
        normals=normals,
        uvs=uvs,
        colors=colors[source],
        textures=replace(baked.textures, wrap="repeat" if layout.wrapped else "clamp"),
        translucent_faces=int(baked.translucent.sum()),
        counts={
            "faces": len(faces),
            "vertices": len(source),
            "own_vertices": len(mesh.vertices),
            "voxels": len(sampler.asset.grid.coords),
            "covered_texels": baked.covered,
        },
        health=report(mesh.vertices, mesh.faces, weld=True),
        notes=(layout.note,),
    )


def split_corners(mesh: UserMesh, surface: Surface, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(source vertex of each vertex, faces, normals): first the mesh's vertices, then copies where corners differ.

    Corners differ by new UVs, and where the file has no normals by crease. The normals are in the file's axes, Z up.
    """
    corner = mesh.faces.reshape(-1).astype(np.int64)
    keys = [] if layout.own else [np.ascontiguousarray(layout.atlas.uvs.reshape(-1, 2)).view(np.int64).reshape(-1)]
    given = None if mesh.normals is None else z_up(mesh.normals)
    if given is None:
        own = Surface(z_up(mesh.vertices), mesh.faces)
        groups, creased = crease_normals(weld_vertices(own))
        keys.append(groups.reshape(-1).astype(np.int64))
    source, faces = parted(corner, keys, len(mesh.vertices))
    if given is not None:
        return source, faces, given[source]
    normals = np.zeros((len(source), 3), np.float32)
    normals[:, 2] = 1.0
    normals[faces.reshape(-1)] = creased[groups.reshape(-1)]
    return source, faces, normals


def parted(corner: np.ndarray, keys: list[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices so that corners int64 [3 F] of one vertex that differ in a key part: (source int64 [W], faces [F, 3]).

    Rows 0 to count - 1 are the old vertices; each keeps the corners that are like its first one.
    """
    if not len(keys):
        return np.arange(count), corner.reshape(-1, 3).astype(np.int32)
    order = np.lexsort((np.arange(len(corner)), *keys, corner))
    rows = np.stack([corner, *keys])[:, order]
    fresh = np.concatenate([[True], (rows[:, 1:] != rows[:, :-1]).any(axis=0)])
    group = np.empty(len(corner), np.int64)
    group[order] = np.cumsum(fresh) - 1
    first = order[fresh]  # the first corner of each group
    owner = corner[first]
    leader = np.full(count, len(corner), np.int64)
    np.minimum.at(leader, owner, first)
    extra = leader[owner] != first
    index = np.where(extra, 0, owner)
    index[extra] = count + np.arange(int(extra.sum()))
    return np.concatenate([np.arange(count), owner[extra]]), index[group].reshape(-1, 3).astype(np.int32)


def z_up(rows: np.ndarray) -> np.ndarray:
    """[V, 3] in a file's axes -> what exporters turn back into exactly these, (x, -z, y)."""
    return np.ascontiguousarray(np.stack([rows[:, 0], -rows[:, 2], rows[:, 1]], axis=1), np.float32)
