"""Edge table, components and welding against plain numpy and trimesh."""

import numpy as np
import pytest
import trimesh

from tests.voxel_shapes import ball, surface_of
from trellis_app.mesh.health import report
from trellis_app.mesh.surface import Surface, components, edge_table, partners_across, split_corners, weld_vertices

EMPTY = Surface(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
FAN = Surface(np.eye(3, 3, dtype=np.float32).repeat(2, 0), np.array([[0, 1, 2], [0, 1, 3], [1, 0, 4]], np.int32))


def random_faces(seed: int, faces: int, vertices: int) -> Surface:
    rng = np.random.default_rng(seed)
    corners = np.stack([rng.permutation(vertices)[:3] for _ in range(faces)]).astype(np.int32)
    return Surface(rng.random((vertices, 3), dtype=np.float32), corners)


@pytest.mark.parametrize(("faces", "vertices"), [(1, 3), (7, 5), (200, 12), (501, 400)])
def test_edge_table_lists_every_half_edge_once(faces: int, vertices: int) -> None:
    surface = random_faces(faces, faces, vertices)
    edges = edge_table(surface)
    half = np.stack([surface.faces, np.roll(surface.faces, -1, axis=1)], axis=2).reshape(-1, 2)
    pairs, counts = np.unique(np.sort(half, axis=1), axis=0, return_counts=True)
    assert np.array_equal(edges.pairs, pairs)
    assert np.array_equal(edges.counts, counts)
    assert np.array_equal(edges.pairs[edges.of_half], np.sort(half, axis=1))
    for edge in range(len(pairs)):
        mine = edges.halves[edges.start[edge] : edges.start[edge + 1]]
        assert np.array_equal(mine, np.flatnonzero(edges.of_half == edge))


def test_empty_surface_has_no_edges_and_no_parts() -> None:
    edges = edge_table(EMPTY)
    assert len(edges.pairs) == 0
    assert len(components(EMPTY, edges)) == 0
    assert report(EMPTY.vertices, EMPTY.faces).faces == 0
    assert not report(EMPTY.vertices, EMPTY.faces).watertight


def test_components_follow_trimesh() -> None:
    mesh = trimesh.util.concatenate([ball(0.1).apply_translation((i, 0, 0)) for i in range(3)])
    surface = surface_of(mesh)
    part = components(surface, edge_table(surface))
    assert part.max() + 1 == mesh.body_count == 3
    assert np.array_equal(np.unique(part, return_index=True)[1], np.sort(np.unique(part, return_index=True)[1]))


def test_components_stop_at_crowded_edges_unless_told_otherwise() -> None:
    edges = edge_table(FAN)
    assert len(np.unique(components(FAN, edges))) == 3
    assert len(np.unique(components(FAN, edges, across_non_manifold=True))) == 1


def test_partners_are_mutual_and_opposed() -> None:
    surface = surface_of(ball())
    partner = partners_across(surface, edge_table(surface))
    assert (partner >= 0).all()
    assert np.array_equal(partner[partner], np.arange(len(partner)))
    assert (partners_across(FAN, edge_table(FAN)) == -1).all()


def test_split_corners_separates_all_faces_without_partners() -> None:
    surface = surface_of(ball(subdivisions=1))
    faces, source = split_corners(surface.faces, np.full(3 * len(surface.faces), -1, np.int32))
    assert len(source) == 3 * len(surface.faces)
    assert np.array_equal(source[faces], surface.faces)


def test_weld_joins_equal_positions_and_signed_zeros() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [-0.0, 0, 0], [1, 0, 0], [0, 0, 1]], np.float32)
    welded = weld_vertices(Surface(vertices, np.array([[0, 1, 2], [3, 5, 4]], np.int32)))
    assert np.array_equal(welded.faces, [[0, 1, 2], [0, 5, 1]])


def test_report_counts_what_trimesh_counts() -> None:
    mesh = ball()
    whole = report(mesh.vertices, mesh.faces)
    assert (whole.faces, whole.vertices, whole.parts) == (len(mesh.faces), len(mesh.vertices), 1)
    assert whole.watertight
    assert whole.boundary_edges == whole.non_manifold_edges == whole.inconsistent_edges == 0
    open_ball = report(mesh.vertices, mesh.faces[1:])
    assert open_ball.boundary_edges == 3
    assert not open_ball.watertight
    turned = mesh.faces.copy()
    turned[0] = turned[0, ::-1]
    assert report(mesh.vertices, turned).inconsistent_edges == 3
    soup = mesh.vertices[mesh.faces].reshape(-1, 3)
    assert report(soup, np.arange(len(soup)).reshape(-1, 3), weld=True).watertight
