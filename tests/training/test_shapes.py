"""Procedural objects: closed, outward solids; every family gives usable, varied, reproducible objects."""

import numpy as np
import pytest
import trimesh

from trellis_app.training import grammar as g
from trellis_app.training.library import check_visible
from trellis_app.training.paints import Paint, fade, stripes, wedges
from trellis_app.training.shapes import FAMILIES, random_object

ELL = np.array([(0, 0), (3, 0), (3, 1), (1, 1), (1, 3), (0, 3)], float)
ANGLE = np.linspace(0, 2 * np.pi, 30, endpoint=False)
CIRCLE = np.stack([np.cos(ANGLE), 0 * ANGLE, np.sin(ANGLE)], axis=1)
SOLIDS = {
    "box": (g.box(1, 2, 3), 6.0),
    "bevelled box": (g.box(1, 1, 1, bevel=0.1), None),
    "ball": (g.ball(1, segments=64), 4 / 3 * np.pi),
    "cylinder": (g.lathe([(1, 0), (1, 2)], segments=64), 2 * np.pi),
    "cup": (g.lathe([(0, 0), (1, 0), (1, 1), (0.8, 1), (0.8, 0.2), (0, 0.2)]), None),
    "hoop": (g.lathe([(1, 0), (1.2, 0), (1.2, 0.2), (1, 0.2)], segments=64, closed=True), np.pi * 0.44 * 0.2),
    "rod": (g.tube([(0, 0, 0), (0, 3, 0)], 0.5, sides=64), 0.75 * np.pi),
    "bent rod": (g.tube([(0, 0, 0), (0, 1, 0), (1, 1, 0)], 0.1), None),
    "torus": (g.sweep(CIRCLE, g.circle(0.2), closed=True), None),
    "ell": (g.extrude(ELL, 1), 5.0),
    "clockwise ell": (g.extrude(ELL[::-1], 2), 10.0),
    "bevelled ell": (g.extrude(ELL, 1, bevel=0.1), None),
    "rounded plate": (g.extrude(g.rounded(2, 1, 0.3), 1), None),
    "mirrored": (g.box(1, 1, 1).move(2).mirror(), 2.0),
    "ring": (g.ring(g.box(0.1, 0.1, 0.1), 5, 1), 0.005),
    "array": (g.array(g.box(0.1, 0.1, 0.1), 3, (1, 0, 0)), 0.003),
    "turned": (g.box(1, 2, 3).turn("x", 30).turn("y", 10).turn("z", 77).scale(-1, 1, 2), 12.0),
}


@pytest.mark.parametrize("name", SOLIDS)
def test_solids_are_closed_and_wound_outwards(name: str) -> None:
    solid, volume = SOLIDS[name]
    mesh = trimesh.Trimesh(solid.vertices, solid.faces, process=True)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume > 0
    if volume is not None:
        assert abs(mesh.volume - volume) < 0.01 * volume


def test_turns_are_right_handed() -> None:
    point = g.hull(np.array([(1, 0, 0), (1, 0.1, 0), (1, 0, 0.1), (1.1, 0, 0)], float))
    np.testing.assert_allclose(point.turn("y", 90).vertices[0], (0, 0, -1), atol=1e-12)
    np.testing.assert_allclose(point.turn("z", 90).vertices[0], (0, 1, 0), atol=1e-12)


def test_curve_passes_through_its_points() -> None:
    points = np.array([(0, 0), (1, 2), (3, 1), (4, 4)], float)
    np.testing.assert_allclose(g.curve(points, 31)[::10], points, atol=1e-6)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_families(family: str) -> None:
    sizes = set()
    for seed in range(12):
        obj = check_visible(random_object(np.random.default_rng(seed), family))
        again = random_object(np.random.default_rng(seed), family)
        np.testing.assert_array_equal(obj.vertices, again.vertices)
        np.testing.assert_array_equal(obj.corner_rgba, again.corner_rgba)
        assert obj.name == f"procedural/{family}"
        assert 12 <= len(obj.faces) < 25_000
        extent = np.ptp(obj.vertices, axis=0)
        assert extent.min() > 0.02 * extent.max()
        sizes.add(tuple(extent.round(3)))
    assert len(sizes) == 12


def test_all_families_come_up() -> None:
    names = {random_object(np.random.default_rng(seed)).name for seed in range(200)}
    assert len(names) == len(FAMILIES) >= 12


def test_patterns_colour_whole_quads() -> None:
    solid = g.lathe([(1, y) for y in np.linspace(0, 1, 9)], segments=16)
    walls = np.abs(np.ptp(solid.vertices[solid.faces][..., 1], axis=1)) > 0
    for pattern in (stripes(1, 0.25), wedges(4)):
        painted = Paint((1, 0, 0), second=(0, 0, 1), pattern=pattern).on(solid)
        red = painted.corner_rgba[walls][:, 0, 0] == 255
        assert (painted.corner_rgba == painted.corner_rgba[:, :1]).all()
        assert red.sum() == walls.sum() / 2
    faded = Paint((1, 0, 0), second=(0, 0, 1), pattern=fade(1, 0, 1)).on(solid).corner_rgba
    heights = solid.vertices[solid.faces][..., 1]
    np.testing.assert_allclose(faded[..., 2], heights * 255, atol=0.6)
