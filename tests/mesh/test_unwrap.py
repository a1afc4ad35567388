"""Charts do not overlap, keep their distance, use the atlas well, and are cheap to sample."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import trimesh
from trellis_kernels.rasterise.op import rasterise

from tests.voxel_shapes import ball, decoded, ring, surface_of, voxel_asset
from trellis_app.mesh.charts import ChartLimits, cut_charts
from trellis_app.mesh.flat_charts import FlatCharts
from trellis_app.mesh.gpu import charts as parallel
from trellis_app.mesh.gpu.overlap import later_faces
from trellis_app.mesh.packing import outline_masks, pack
from trellis_app.mesh.repair import repair
from trellis_app.mesh.surface import Surface, components, edge_table, partners_across
from trellis_app.mesh.texel_use import texel_use
from trellis_app.mesh.unwrap import Atlas, unwrap, without_overlap
from trellis_app.mesh.xatlas_unwrap import xatlas_uvs

SIZE = 256


def coverage(atlas: Atlas, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(face in front of each texel centre or -1, how many faces hold it), both [size, size]."""
    clip = np.zeros((3 * len(atlas.uvs), 4), np.float32)
    clip[:, :2], clip[:, 3] = 2 * atlas.uvs.reshape(-1, 2) - 1, 1.0
    corners = torch.arange(len(clip), dtype=torch.int32).reshape(-1, 3)
    layers, count = rasterise(torch.from_numpy(clip), corners, (size, size)), np.zeros((size, size), int)
    first = layers.face.numpy()
    count += first >= 0
    order = torch.arange(len(atlas.uvs) - 1, -1, -1, dtype=torch.int64)
    last = rasterise(torch.from_numpy(clip), corners[order], (size, size)).face.numpy()
    last = np.where(last >= 0, len(atlas.uvs) - 1 - last, -1)
    return first, count + ((last != first) & (first >= 0))


def gnarled() -> Surface:
    """A ball with bumps, as a decoder would give it."""
    mesh = ball(0.35, 5)
    directions = mesh.vertices / np.linalg.norm(mesh.vertices, axis=1, keepdims=True)
    mesh.vertices = directions * (0.33 + 0.06 * np.sin(9 * directions).prod(axis=1, keepdims=True))
    return repair(decoded(voxel_asset(mesh, 40)), voxel=1 / 40)


def helix() -> Surface:
    """A flat ramp that winds twice around: every face looks up, the projection lies on itself."""
    turn = np.linspace(0, 4 * np.pi, 120)
    rim = [np.stack([r * np.cos(turn), r * np.sin(turn), 0.02 * turn - 0.12], axis=1) for r in (0.15, 0.4)]
    vertices = np.concatenate(rim).astype(np.float32)
    a = np.arange(119)
    faces = np.concatenate([np.stack([a, a + 120, a + 121], 1), np.stack([a, a + 121, a + 1], 1)])
    return Surface(vertices, faces.astype(np.int32))


SHAPES = {
    "ball": lambda: surface_of(ball()),
    "ring": lambda: surface_of(ring()),
    "box": lambda: surface_of(trimesh.creation.box((0.5, 0.4, 0.3))),
    "gnarled": gnarled,
    "helix": helix,
    "triangle": lambda: Surface(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]], np.int32)),
}


@pytest.mark.parametrize("name", list(SHAPES))
def test_no_texel_belongs_to_two_faces(name: str) -> None:
    atlas = unwrap(SHAPES[name](), texture_size=SIZE)
    assert atlas.uvs.min() >= 0
    assert atlas.uvs.max() <= 1
    assert np.isfinite(atlas.uvs).all()
    face, count = coverage(atlas, SIZE)
    assert count.max() == 1
    assert (face >= 0).mean() > (0.3 if name == "helix" else 0.4)


def combs() -> Surface:
    """Flat combs of several sizes, one over the other: most of each one's box is air."""
    vertices, faces, count = [], [], 0
    for k in range(9):
        y, x = np.mgrid[0:24, 0:20]
        solid = (y < 3) | (x % 5 < 2) & (y < 24 - k)
        corner = np.stack([x[solid], y[solid]], axis=1)[:, None] + np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
        points, index = np.unique(corner.reshape(-1, 2), axis=0, return_inverse=True)
        quads = index.reshape(-1, 4) + count
        vertices.append(np.column_stack([points * 0.04 * 0.9**k - 0.45, np.full(len(points), 0.05 * k)]))
        faces += [quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]
        count += len(points)
    return Surface(np.concatenate(vertices).astype(np.float32), np.concatenate(faces).astype(np.int32))


def straws() -> Surface:
    """Many thin rods of several lengths, each cut into its long sides."""
    rods = []
    for k in range(400):
        rod = trimesh.creation.cylinder(0.006, 0.06 + 0.03 * (k % 7), sections=4).subdivide()
        rods.append(rod.apply_translation((0.05 * (k % 20), 0.05 * (k // 20), 0.0)))
    return surface_of(trimesh.util.concatenate(rods))


def well_used(surface: Surface, least: float) -> Atlas:
    """The surface's atlas of 512 texels, of which more than this share is covered, each by one face."""
    atlas = unwrap(surface, texture_size=512)
    face, count = coverage(atlas, 512)
    assert count.max() == 1
    assert (face >= 0).mean() > least
    assert atlas.margin >= 1
    return atlas


def test_straws_unroll_and_use_the_atlas() -> None:
    atlas = well_used(straws(), 0.62)
    assert atlas.chart.max() + 1 < 2 * 400
    turn = np.cross(atlas.uvs[:, 1] - atlas.uvs[:, 0], atlas.uvs[:, 2] - atlas.uvs[:, 0])
    assert (turn <= 1e-9).all()


def test_hollow_charts_use_the_atlas_too() -> None:
    well_used(combs(), 0.7)


@pytest.mark.parametrize(("name", "margin"), [("ring", 4), ("gnarled", 3), ("box", 8)])
def test_charts_keep_the_margin(name: str, margin: int) -> None:
    atlas = unwrap(SHAPES[name](), texture_size=SIZE, margin=margin)
    assert margin / 4 <= atlas.margin <= margin
    face, _ = coverage(atlas, SIZE)
    chart = np.where(face >= 0, atlas.chart[np.maximum(face, 0)], -1)
    low, high = np.full((atlas.chart.max() + 1, 2), np.inf), np.zeros((atlas.chart.max() + 1, 2))
    np.minimum.at(low, atlas.chart, SIZE * atlas.uvs.min(axis=1))
    np.maximum.at(high, atlas.chart, SIZE * atlas.uvs.max(axis=1))
    large = np.append((high - low).max(axis=1) > 24, False)  # by chart number; the last is for texels without one
    reach = int(atlas.margin)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            a = chart[max(dy, 0) : SIZE + min(dy, 0), max(dx, 0) : SIZE + min(dx, 0)]
            b = chart[max(-dy, 0) : SIZE + min(-dy, 0), max(-dx, 0) : SIZE + min(-dx, 0)]
            assert not ((a >= 0) & (b >= 0) & (a != b) & large[a] & large[b]).any()
            if max(abs(dx), abs(dy)) <= atlas.margin / 4:
                assert not ((a >= 0) & (b >= 0) & (a != b)).any()


def test_charts_are_connected_and_share_uvs_inside() -> None:
    surface = gnarled()
    atlas = unwrap(surface, texture_size=SIZE)
    for chart in range(int(atlas.chart.max()) + 1):
        part = surface.keep_faces(atlas.chart == chart)
        assert components(part, edge_table(part)).max() == 0
    key = surface.faces.astype(np.int64) * (int(atlas.chart.max()) + 1) + atlas.chart[:, None]
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    corner = atlas.uvs.reshape(-1, 2)
    assert np.array_equal(corner[first][inverse.reshape(-1)], corner)


def test_unrolled_charts_hang_together() -> None:
    surface = straws()
    atlas = unwrap(surface, texture_size=512)
    partner = partners_across(surface, edge_table(surface))
    half = np.flatnonzero(partner >= 0)
    other = partner[half]
    corner = atlas.uvs.reshape(-1, 2)
    begins = (corner[half] == corner[other - other % 3 + (other + 1) % 3]).all(axis=1)
    ends = (corner[half - half % 3 + (half + 1) % 3] == corner[other]).all(axis=1)
    joined = begins & ends
    assert (atlas.chart[half[joined] // 3] == atlas.chart[other[joined] // 3]).all()
    edges = np.stack([half[joined] // 3, other[joined] // 3], axis=1)
    labels = trimesh.graph.connected_component_labels(edges, node_count=len(surface.faces))
    assert labels.max() + 1 == atlas.chart.max() + 1


def test_texels_are_spread_evenly() -> None:
    surface = gnarled()
    atlas = unwrap(surface, texture_size=SIZE)
    uv = atlas.uvs.astype(np.float64)
    a, b = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    flat = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
    corners = surface.vertices.astype(np.float64)[surface.faces]
    solid = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    density = np.sqrt(flat / solid)
    density /= np.average(density, weights=solid)
    low, high = np.quantile(np.repeat(density, np.maximum(solid / solid.min(), 1).astype(int)), (0.02, 0.98))
    assert low > 0.5
    assert high < 1.6


def test_few_charts_on_simple_shapes() -> None:
    assert int(unwrap(SHAPES["box"](), texture_size=SIZE).chart.max()) + 1 == 6
    round_one = surface_of(ball(subdivisions=5))
    assert int(cut_charts(round_one, partners_across(round_one, edge_table(round_one)), ChartLimits()).max()) + 1 <= 24


@pytest.mark.parametrize("name", ["gnarled", "ring", "helix", "triangle"])
def test_the_parallel_cut_is_the_serial_one(name: str) -> None:
    surface, limits = SHAPES[name](), ChartLimits(crumb=1e-3)
    vertices, faces = torch.from_numpy(surface.vertices), torch.from_numpy(surface.faces)
    partner = parallel.half_edge_partners(faces)
    assert np.array_equal(partner.numpy(), partners_across(surface, edge_table(surface)))
    serial = cut_charts(surface, partner.numpy(), limits)
    for handover in (0, 500):
        assert np.array_equal(parallel.cut_charts(vertices, faces, partner, limits, handover=handover).numpy(), serial)


def test_pack_places_all_charts_apart_within_the_square() -> None:
    rng = np.random.default_rng(0)
    size = rng.integers(1, 30, (60, 2)) - 0.5
    box = np.array([[[0, 0], [1, 0], [1, 1]], [[0, 0], [1, 1], [0, 1]]], float)
    corners = (box[None] * size[:, None, None, :]).reshape(-1, 3, 2)
    chart, start, member = (
        np.repeat(np.arange(60, dtype=np.int32), 2),
        2 * np.arange(61),
        np.arange(120, dtype=np.int32),
    )
    flat = FlatCharts(chart, corners, size, size.prod(axis=1), start, member)
    found = pack(outline_masks(flat, 1.0), texels=100, margin=2.0)
    extent = np.floor(size).astype(int) + 1
    taken = np.zeros((300, 300), int)
    for (x, y), turns, (width, height) in zip(found.offset, found.turns, extent, strict=True):
        across, up = (height, width) if turns % 2 else (width, height)
        assert min(x, y) >= 0
        assert max(x + across, y + up) <= found.side
        assert taken[max(y - 1, 0) : y + up + 1, max(x - 1, 0) : x + across + 1].sum() == 0
        taken[y : y + up, x : x + across] = 1
    assert extent.prod(axis=1).sum() > 0.6 * found.side**2


def test_same_input_same_atlas() -> None:
    surface = gnarled()
    assert unwrap(surface, texture_size=SIZE).uvs.tobytes() == unwrap(surface, texture_size=SIZE).uvs.tobytes()


def test_any_number_of_pieces_finds_room() -> None:
    corners = np.random.default_rng(0).random((3000, 1, 3)) + 0.02 * np.random.default_rng(1).random((3000, 3, 3))
    shards = Surface(corners.reshape(-1, 3).astype(np.float32), np.arange(9000, dtype=np.int32).reshape(-1, 3))
    for size in (SIZE, 64):
        atlas = unwrap(shards, texture_size=size)
        assert coverage(atlas, size)[1].max() == 1
        assert atlas.uvs.min() >= 0
        assert atlas.uvs.max() <= 1


def test_degenerate_input_gets_some_uvs() -> None:
    nothing = Surface(np.zeros((4, 3), np.float32), np.array([[0, 1, 2], [1, 1, 3], [0, 2, 1]], np.int32))
    assert np.isfinite(unwrap(nothing, texture_size=64).uvs).all()
    assert unwrap(Surface(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)), texture_size=64).uvs.shape == (
        0,
        3,
        2,
    )


def crowded() -> Surface:
    """The faces of a box many times over, each a neighbour of nobody."""
    box = surface_of(trimesh.creation.box((0.5, 0.4, 0.3)))
    return Surface(box.vertices, np.tile(box.faces, (40, 1)))


def slivers() -> Surface:
    """A ball of long rows whose first and last shrink to points up to rounding, and needles."""
    ball_of_rows = trimesh.creation.uv_sphere(0.4, count=[12, 24])
    vertices, faces = ball_of_rows.vertices.astype(np.float32), ball_of_rows.faces.astype(np.int32)
    needles = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0.5, 1e-9], [1e-12, 0, 0], [0, 1e-12, 0]], np.float32)
    more = np.array([[0, 1, 2], [0, 3, 4], [0, 4, 3], [1, 2, 2]], np.int32) + len(vertices)
    return Surface(np.concatenate([vertices, needles]), np.concatenate([faces, more]))


@pytest.mark.parametrize("make", [crowded, slivers, lambda: Surface(slivers().vertices, slivers().faces[-4:])])
def test_no_input_breaks_it(make: Callable[[], Surface]) -> None:
    surface = make()
    atlas = unwrap(surface, texture_size=SIZE)
    assert atlas.uvs.shape == (len(surface.faces), 3, 2)
    assert np.isfinite(atlas.uvs).all()
    assert (atlas.chart >= 0).all()
    assert coverage(atlas, SIZE)[1].max() <= 1


def test_no_arithmetic_finds_an_overlap() -> None:
    size, step = 1024, 1.0 / (1024 * 4096)
    rng = np.random.default_rng(0)
    middle = (8.0 * np.stack(np.meshgrid(np.arange(1, 120), np.arange(1, 120)), axis=-1).reshape(-1, 2) + 0.5) / size
    left = np.array([[0, -2], [0, 2], [-3, 0]]) / size
    pairs = np.stack([middle[:, None] + left, middle[:, None] - left], axis=1)
    pairs[..., 0] += step * rng.uniform(-1.5, 1.5, (len(pairs), 2, 1))  # the upright edges pass a texel centre closely
    uvs = pairs.reshape(-1, 3, 2).astype(np.float32)
    atlas = without_overlap(Atlas(np.arange(len(uvs), dtype=np.int32), uvs), size, torch.device("cpu"))
    corners = np.arange(3 * len(uvs), dtype=np.int32).reshape(-1, 3)
    assert texel_use(uvs.reshape(-1, 2), corners, size).shared > 1000
    assert texel_use(atlas.uvs.reshape(-1, 2), corners, size).shared == 0
    assert not len(later_faces(torch.from_numpy(atlas.uvs), size))
    assert (atlas.uvs[:, 0] != atlas.uvs[:, 1]).any(axis=1).mean() > 0.5


def test_overlap_is_found_by_drawing_twice() -> None:
    triangle = torch.tensor([[[0.1, 0.1], [0.6, 0.1], [0.1, 0.6]]])
    assert later_faces(torch.cat([triangle, triangle + 0.2, triangle + 0.7]).float(), 64).tolist() == [1]
    assert not len(later_faces(torch.from_numpy(unwrap(gnarled(), texture_size=SIZE).uvs), SIZE))


def test_no_chart_is_mirrored() -> None:
    surface = gnarled()
    uv = unwrap(surface, texture_size=SIZE).uvs.astype(np.float64)
    a, b = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    turn = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]  # v runs down, so counter-clockwise faces turn the other way
    assert (turn <= 1e-12).all()


def test_xatlas_gives_way_when_its_time_is_up(caplog: pytest.LogCaptureFixture) -> None:
    surface = surface_of(ball(subdivisions=2))
    assert xatlas_uvs(surface, texture_size=SIZE, margin=4, seconds=0.0) is None
    assert "within 0 s; the fast unwrapping took its place" in caplog.text
    pytest.importorskip("xatlas")
    atlas = unwrap(surface, texture_size=SIZE, method="xatlas")
    assert coverage(atlas, SIZE)[1].max() == 1
    assert (coverage(atlas, SIZE)[0] >= 0).mean() > 0.3
    assert 1 <= atlas.chart.max() + 1 < len(surface.faces)
