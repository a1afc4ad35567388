"""What can be seen from outside stays, once and turned outward; what nobody sees goes, and so does litter."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import cKDTree
from trellis_kernels.rasterise.op import rasterise

from tests.voxel_shapes import ball, decoded, surface_of, voxel_asset
from trellis_app.mesh.exposure import exposure, view_directions
from trellis_app.mesh.gpu.modes import prepare_surface as prepare_on_gpu
from trellis_app.mesh.gpu.settling import settled as settled_on_gpu
from trellis_app.mesh.gpu.topology import edge_table as gpu_edge_table
from trellis_app.mesh.modes import prepare_surface
from trellis_app.mesh.settling import settled
from trellis_app.mesh.surface import Surface, components, edge_table
from trellis_app.mesh.survey import object_case, random_cases
from trellis_app.training.library import read_library
from trellis_app.types import Mesh


def depth(surface: Surface, forward: np.ndarray) -> np.ndarray:
    """Depth of an orthographic picture of the unit box."""
    right = np.cross(forward, np.eye(3)[np.abs(forward).argmin()])
    right /= np.linalg.norm(right)
    frame = np.stack([right, np.cross(forward, right), forward], axis=1)
    clip = np.concatenate([surface.vertices @ frame, np.ones((len(surface.vertices), 1))], axis=1)
    faces = torch.from_numpy(np.ascontiguousarray(surface.faces, np.int32))
    return rasterise(torch.from_numpy(clip.astype(np.float32)), faces, (256, 256)).depth.numpy()


def lost(before: Surface, after: Surface, voxel: float) -> float:
    """Share of what pictures from all around show that lies elsewhere afterwards, by three voxels and more."""
    wrong = count = 0
    for forward in view_directions()[::3]:
        old, new = depth(before, forward), depth(after, forward)
        seen = np.isfinite(old)
        count += int(seen.sum())
        wrong += int((np.abs(old[seen] - np.where(np.isfinite(new[seen]), new[seen], 9.0)) > 3 * voxel).sum())
    return wrong / count


def alike(surface: Surface, voxel: float) -> Surface:
    """In single mode; the torch path keeps the same faces, wound the same way."""
    single = prepare_surface(surface, "single", voxel=voxel)
    mesh = Mesh(torch.from_numpy(surface.vertices), torch.from_numpy(surface.faces))
    other = prepare_on_gpu(mesh, "single", voxel=voxel)
    ours, theirs = places(single.vertices[single.faces]), places(other.vertices[other.faces.long()].numpy())
    assert len(ours) == len(theirs)
    for tree, points in ((cKDTree(ours), theirs), (cKDTree(theirs), ours)):
        assert tree.query(points)[0].max() < 1e-4
    return single


def places(corners: np.ndarray) -> np.ndarray:
    """Where triangles [F, 3, 3] lie, how large they are and where they face, [F, 6]."""
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(cross, axis=1, keepdims=True)
    return np.concatenate([corners.mean(axis=1), cross / np.sqrt(np.maximum(length, 1e-30))], axis=1)


def sheet(*corners: tuple[float, float, float]) -> trimesh.Trimesh:
    return trimesh.Trimesh(np.array(corners), [(0, 1, 2), (0, 2, 3)], process=False)


def house() -> trimesh.Trimesh:
    """Four walls, a roof, a floor halfway up, and another one just above the open ground: single sheets all."""
    ground = np.array([(-0.3, -0.3), (0.3, -0.3), (0.3, 0.3), (-0.3, 0.3)])
    walls = [
        sheet((*ground[i - 1], -0.4), (*ground[i], -0.4), (*ground[i], 0.4), (*ground[i - 1], 0.4)) for i in range(4)
    ]
    return trimesh.util.concatenate(walls + [sheet(*((x, y, z) for x, y in ground)) for z in (-0.37, 0.0, 0.4)])


def test_a_floor_seen_from_below_stays_and_the_one_behind_it_goes() -> None:
    raw, voxel = decoded(voxel_asset(house(), 64)), 1 / 64
    single = alike(raw, voxel)
    assert lost(raw, single, voxel) < 0.002
    middle = single.vertices[single.faces].mean(axis=1)
    inside = np.abs(middle[:, :2]).max(axis=1) < 0.25
    assert (inside & (np.abs(middle[:, 2] + 0.37) < voxel)).sum() > 1000
    assert not (inside & (np.abs(middle[:, 2]) < voxel)).any()


@pytest.mark.parametrize("samples", [8000, 50])
def test_both_implementations_keep_the_same_faces(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where regions send few rays, and where the votes of a patch tie."""
    monkeypatch.setattr("trellis_app.mesh.hidden.SAMPLES", samples)
    for case in islice(random_cases(13), 9, 13):
        alike(case.surface, case.voxel)
    crowd = trimesh.creation.box((0.9, 0.9, 0.9)).subdivide()
    crowd.update_faces(crowd.triangles_center[:, 2] < 0.44)  # a crate without a lid
    balls = [ball(0.02, 1).apply_translation(place) for place in np.random.default_rng(0).uniform(-0.4, 0.4, (60, 3))]
    leaky = decoded(voxel_asset(trimesh.util.concatenate([crowd, *balls]), 64))
    assert len(alike(leaky, 1 / 64).faces) > 20_000


def test_something_stays_where_nearly_all_is_hidden() -> None:
    """A coarse can around a fine ball that it hangs together with through a narrow tube: hardly a face is seen."""
    angle = np.linspace(0.02, np.pi, 300)
    can = [(0.0, -0.45), (0.45, -0.45), (0.45, 0.45), (0.004, 0.45)]
    profile = np.concatenate([can, 0.3 * np.stack([np.sin(angle), np.cos(angle)], axis=1)])
    surface = surface_of(trimesh.creation.revolve(profile, sections=16))
    assert components(surface, edge_table(surface)).max() == 0
    edges = gpu_edge_table(torch.from_numpy(surface.faces), len(surface.vertices))
    mesh = Mesh(torch.from_numpy(surface.vertices), torch.from_numpy(surface.faces))
    for kept in (
        settled(surface, voxel=1 / 64, flake=0.0, crumb=0.0),
        settled_on_gpu(mesh, edges, voxel=1 / 64, flake=0.0, crumb=0.0)[0],
    ):
        assert len(kept.faces) == len(surface.faces)


@pytest.mark.parametrize(
    ("name", "most"),
    [("6Story_Stack_Mat", 0.003), ("Wall_5", 0.003), ("wind-turbine", 0.04), ("Level3_Wheat", 0.1)],
)
def test_what_pictures_show_of_an_object_is_kept(shared: Path, name: str, most: float) -> None:
    """Buildings open on one side, thin blades, and a field of stalks: all but the air thinks hidden, or litter."""
    library = read_library(shared / "data/dev.npz")
    obj = next(library[i] for i in range(len(library)) if name in library[i].name)
    case = object_case(obj.name, obj.vertices, obj.faces, 160)
    assert lost(case.surface, prepare_surface(case.surface, "single", voxel=case.voxel), case.voxel) < most


def grains(count: int) -> trimesh.Trimesh:
    """Small closed boxes on a grid, each of a few voxels of 1/64."""
    places = np.stack(np.meshgrid(*[np.linspace(-0.3, 0.3, 5)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:count]
    return trimesh.util.concatenate([trimesh.creation.box((0.02,) * 3).apply_translation(place) for place in places])


def test_grain_stays_and_dust_goes() -> None:
    grain, voxel = surface_of(grains(125)), 1 / 64
    dusty = surface_of(trimesh.util.concatenate([ball(0.25).apply_translation((0, 0, 0.1)), grains(5)]))
    for surface, faces in ((grain, len(grain.faces)), (dusty, len(ball(0.25).faces))):
        assert len(alike(surface, voxel).faces) == faces


def test_one_of_two_walls_at_the_same_place_goes() -> None:
    voxel = 1 / 64
    box = trimesh.creation.box(bounds=((-0.4, -0.4, -0.3), (0.4, 0.4, 0.0)))
    small = sheet((-0.2, -0.2, 0.0), (0.2, -0.2, 0.0), (0.2, 0.2, 0.0), (-0.2, 0.2, 0.0))
    for gap, faces in ((0.1, 12), (1.5, 14)):  # voxels
        both = surface_of(trimesh.util.concatenate([box, small.copy().apply_translation((0, 0, gap * voxel))]))
        assert len(settled(both, voxel=voxel, flake=0.0, crumb=0.0).faces) == faces
        mesh = Mesh(torch.from_numpy(both.vertices), torch.from_numpy(both.faces))
        edges = gpu_edge_table(mesh.faces, len(mesh.vertices))
        assert len(settled_on_gpu(mesh, edges, voxel=voxel, flake=0.0, crumb=0.0)[0].faces) == faces


def test_pictures_tell_inner_shells_and_backs() -> None:
    outer, inner = ball(0.4), ball(0.2)
    inner.invert()
    apart = ball(0.1).apply_translation((0.8, 0, 0))
    apart.invert()
    surface = surface_of(trimesh.util.concatenate([outer, inner, apart]))
    seen = exposure(surface, components(surface, edge_table(surface)), pixel=1 / 128)
    assert seen.share()[0] == pytest.approx(1.0, abs=0.05)
    assert seen.share()[2] == pytest.approx(1.0, abs=0.1)  # a little stands behind the large ball
    assert (seen.front[1], seen.back[1]) == (0, 0)
    assert seen.back[0] == 0
    assert seen.front[2] == 0
