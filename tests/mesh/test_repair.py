"""Decoded surfaces come out manifold, outward, without hidden or stray parts."""

import numpy as np
import pytest
import torch
import trimesh

from tests.voxel_shapes import ball, decoded, ring, signed_volume, surface_of, voxel_asset
from trellis_app.mesh.health import report
from trellis_app.mesh.repair import clean, fill_holes, remove_small_components, repair, separate
from trellis_app.mesh.settling import orient_outward
from trellis_app.mesh.surface import Surface, edge_table
from trellis_app.types import DualGrid, OVoxel


def assert_clean(surface: Surface) -> None:
    for weld in (False, True):
        health = report(surface.vertices, surface.faces, weld=weld)
        assert health.non_manifold_edges == 0
        assert health.inconsistent_edges == 0
    assert np.isfinite(surface.vertices).all()


def scrambled(mesh: trimesh.Trimesh, seed: int = 0) -> Surface:
    faces = np.asarray(mesh.faces, dtype=np.int32).copy()
    turn = np.random.default_rng(seed).random(len(faces)) < 0.5
    faces[turn] = faces[turn][:, ::-1]
    return Surface(np.asarray(mesh.vertices, dtype=np.float32), np.ascontiguousarray(faces))


@pytest.mark.parametrize("resolution", [17, 32, 64])
@pytest.mark.parametrize("make", [ball, ring])
def test_closed_shapes_become_watertight_and_outward(make: object, resolution: int) -> None:
    mesh = make()  # type: ignore[operator]
    fixed = repair(decoded(voxel_asset(mesh, resolution)), voxel=1 / resolution)
    assert_clean(fixed)
    assert report(fixed.vertices, fixed.faces).watertight
    assert signed_volume(fixed) == pytest.approx(mesh.volume, rel=0.1)


def test_every_part_of_a_group_faces_outward() -> None:
    parts = [trimesh.creation.box((0.2, 0.2, 0.2)).apply_translation((x, 0.0, 0.0)) for x in (-0.35, 0.0, 0.35)]
    fixed = orient_outward(scrambled(trimesh.util.concatenate(parts)), voxel=0.01)
    assert report(fixed.vertices, fixed.faces).inconsistent_edges == 0
    for part in trimesh.Trimesh(fixed.vertices, fixed.faces, process=False).split():
        assert part.volume == pytest.approx(0.008, rel=1e-4)


def test_an_inner_shell_is_dropped_and_an_open_bowl_is_kept() -> None:
    shells = trimesh.util.concatenate([ball(0.4), ball(0.2)])
    assert len(orient_outward(surface_of(shells), voxel=0.01).faces) == len(ball(0.4).faces)
    bowl = ball(0.4)
    bowl.update_faces(bowl.triangles_center[:, 2] < 0)
    bowl.remove_unreferenced_vertices()
    fixed = orient_outward(scrambled(bowl), voxel=0.01)
    assert len(fixed.faces) == len(bowl.faces)
    assert report(fixed.vertices, fixed.faces).inconsistent_edges == 0
    middle = fixed.vertices[fixed.faces].mean(axis=1)
    normal = trimesh.Trimesh(fixed.vertices, fixed.faces, process=False).face_normals
    assert (np.einsum("ij,ij->i", middle, normal) > 0).all()  # the outer side sees more sky


def test_a_wall_inside_a_box_is_dropped() -> None:
    box = trimesh.creation.box((0.8, 0.4, 0.4))
    wall = trimesh.Trimesh([(0, -0.2, -0.2), (0, 0.2, -0.2), (0, 0.2, 0.2), (0, -0.2, 0.2)], [(0, 1, 2), (0, 2, 3)])
    asset = voxel_asset(trimesh.util.concatenate([box, wall]), 48)
    raw = decoded(asset)
    fixed = repair(raw, voxel=1 / 48)
    assert report(raw.vertices, raw.faces).non_manifold_edges > 0
    assert_clean(fixed)
    assert report(fixed.vertices, fixed.faces).watertight
    inside = np.abs(fixed.vertices) < (0.35, 0.17, 0.17)
    assert not inside.all(axis=1).any()


def test_boxes_that_share_an_edge_come_apart_closed() -> None:
    low = trimesh.creation.box(bounds=((-0.4, -0.4, -0.2), (0, 0, 0.2)))
    high = trimesh.creation.box(bounds=((0, 0, -0.2), (0.4, 0.4, 0.2)))
    welded = clean(surface_of(trimesh.util.concatenate([low, high])))
    assert report(welded.vertices, welded.faces).non_manifold_edges == 1
    apart = separate(orient_outward(welded, voxel=0.01), apart=1e-3)
    assert_clean(apart)
    assert report(apart.vertices, apart.faces, weld=True).watertight
    assert signed_volume(apart) == pytest.approx(2 * 0.064, rel=0.02)


def test_a_pinched_edge_is_divided() -> None:
    """Two tubes that share one edge of a ring-shaped body: cutting corners alone cannot separate them."""
    cells = np.zeros((4, 4, 3), dtype=bool)
    cells[:2, :2, 1] = cells[2:, 2:, 1] = True
    cells[:, :, 0] = cells[:, :, 2] = True
    blocks = [
        trimesh.creation.box(bounds=(index, np.add(index, 1))) for index in np.argwhere(cells).astype(float).tolist()
    ]
    soup = trimesh.util.concatenate(blocks)
    _, inverse, counts = np.unique(soup.triangles_center.round(4), axis=0, return_inverse=True, return_counts=True)
    shell = clean(
        surface_of(trimesh.Trimesh(soup.vertices, soup.faces[counts[inverse.reshape(-1)] == 1], process=False))
    )
    assert report(shell.vertices, shell.faces).non_manifold_edges > 0
    fixed = separate(orient_outward(shell, voxel=0.01), apart=1e-3)
    assert_clean(fixed)
    assert report(fixed.vertices, fixed.faces).watertight


@pytest.mark.parametrize("seed", range(6))
def test_random_voxels_never_leave_a_crowded_edge(seed: int) -> None:
    rng = np.random.default_rng(seed)
    side, share = 12, (0.15, 0.4, 0.8)[seed % 3]
    coords = torch.from_numpy(np.argwhere(rng.random((side,) * 3) < share).astype(np.int32))
    dual = torch.from_numpy(rng.random((len(coords), 3), dtype=np.float32) * 2 - 0.5)
    crossed = torch.from_numpy(rng.random((len(coords), 3)) < 0.7)
    asset = OVoxel(DualGrid(coords, dual, crossed, None, side), torch.ones(len(coords), 6))
    assert_clean(repair(decoded(asset), voxel=1 / side))


def test_clean_drops_broken_faces() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [np.nan, 0, 0], [0, 0, 0]], np.float32)
    faces = np.array([[0, 1, 2], [2, 1, 0], [0, 0, 1], [0, 4, 1], [0, 1, 3], [4, 1, 2]], np.int32)
    assert np.array_equal(clean(Surface(vertices, faces)).faces, [[0, 1, 2]])
    empty = Surface(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    assert len(repair(empty, voxel=0.1).faces) == 0


def test_small_parts_go_and_the_largest_stays() -> None:
    surface = surface_of(trimesh.util.concatenate([ball(0.3), ball(0.01).apply_translation((0.4, 0, 0))]))
    assert len(remove_small_components(surface, 0.01).faces) == len(ball(0.3).faces)
    assert len(remove_small_components(surface, 100.0).faces) == len(ball(0.3).faces)


def test_filled_holes_are_wound_like_their_surroundings() -> None:
    surface = surface_of(ball())
    edges = edge_table(surface)
    around = np.unique(edges.halves[np.isin(edges.pairs[edges.of_half[edges.halves]], 20).any(axis=1)] // 3)
    filled = fill_holes(surface.keep_faces(np.setdiff1d(np.arange(len(surface.faces)), around)), 1.0)
    assert report(filled.vertices, filled.faces).watertight
    assert signed_volume(filled) == pytest.approx(ball().volume, rel=0.01)


def test_holes_that_touch_are_filled_one_by_one() -> None:
    axis = np.arange(9, dtype=np.float32)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    vertices = np.stack([x.ravel(), y.ravel(), np.zeros(81, np.float32)], axis=1)
    corner = (np.arange(8)[:, None] * 9 + np.arange(8)).ravel()
    missing = np.isin(corner, [3 * 9 + 3, 4 * 9 + 4, 5 * 9 + 3])  # a diagonal chain of three squares
    quads = np.stack([corner, corner + 9, corner + 10, corner + 1], axis=1)[~missing]
    sheet = Surface(vertices, quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3).astype(np.int32))
    filled = fill_holes(sheet, 4.5, bow_ties=True)
    health = report(filled.vertices, filled.faces)
    assert len(filled.faces) == len(sheet.faces) + 12
    assert (health.boundary_edges, health.non_manifold_edges, health.inconsistent_edges) == (32, 0, 0)
    assert len(fill_holes(sheet, 4.5).faces) == len(sheet.faces)
