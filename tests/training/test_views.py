"""Training views: the right side up, true colours, see-through glass, strong variety, the same for the same seed."""

import math

import numpy as np
import pytest

from trellis_app.render.camera import view_camera
from trellis_app.render.deferred import Look
from trellis_app.training.augment import to_view_frame
from trellis_app.training.library import LibraryObject
from trellis_app.training.views import (
    FOVS,
    PITCHES,
    Light,
    random_light,
    random_view,
    render_view,
    view_surface,
    weld,
)

PLAIN = Light(Look(flat=1.0, tone=0, shadow=0.0, occlusion=0.0, threads=False), crease=0.0)
SIDE_COLOURS = {(0, 1): (255, 0, 0), (0, -1): (0, 255, 255), (1, 1): (0, 255, 0), (2, 1): (0, 0, 255)}


def _box(alpha: int = 255, metallic: int = 0) -> LibraryObject:
    """A box, Y up, 1 wide, 0.6 high, 0.4 deep; +X red, -X cyan, top green, front (+Z) blue, the rest white."""
    corners = np.array(np.meshgrid(*[(-0.5, 0.5)] * 3, indexing="ij")).reshape(3, -1).T * (1.0, 0.6, 0.4)
    faces, colours = [], []
    for axis in range(3):
        for sign in (-1, 1):
            a, b, c, d = np.flatnonzero(np.sign(corners[:, axis]) == sign)
            faces += [(a, b, c), (b, d, c)]
            colours += [(*SIDE_COLOURS.get((axis, sign), (255, 255, 255)), alpha)] * 2
    rgba = np.repeat(np.array(colours, np.uint8)[:, None], 3, axis=1)
    material = np.full((len(faces), 2), (metallic, 128), np.uint8)
    return LibraryObject("box", corners.astype(np.float32), np.array(faces, np.int32), rgba, material)


def test_front_is_seen_upright_in_true_colours() -> None:
    picture = render_view(to_view_frame(_box(), 0.0), view_camera(0.0, 30.0), PLAIN, size=96)
    assert picture[48, 48].tolist() == [0, 0, 255, 255]
    rows, columns = np.nonzero(picture[..., 3] > 127)
    assert np.ptp(columns) / np.ptp(rows) == pytest.approx(1 / 0.6, rel=0.06)
    assert abs((rows.min() + rows.max()) / 2 - 47.5) <= 1
    above = render_view(to_view_frame(_box(), 0.0), view_camera(math.radians(50), 30.0), PLAIN, size=96)
    column = above[:, 48]
    assert column[column[:, 3] == 255][0].tolist() == [0, 255, 0, 255]  # the top is above the front
    turned = render_view(to_view_frame(_box(), -math.pi / 2), view_camera(0.0, 30.0), PLAIN, size=96)
    assert turned[48, 48].tolist() == [255, 0, 0, 255]  # +X has turned to the front


def test_edges_are_antialiased_and_the_corners_empty() -> None:
    picture = render_view(to_view_frame(_box(), 0.4), view_camera(0.3, 40.0), PLAIN, size=64, supersample=3)
    values = np.unique(picture[..., 3])
    assert values[0] == 0
    assert values[-1] == 255
    assert len(values) > 4
    assert not picture[0, 0].any()


def test_glass_keeps_its_alpha_unless_a_backdrop_is_seen_through_it() -> None:
    glass = to_view_frame(_box(alpha=102), 0.0)
    camera = view_camera(0.0, 30.0)
    clear = render_view(glass, camera, PLAIN, size=48)[24, 24]
    assert clear[3] == pytest.approx(255 * (1 - 0.6**2), abs=1)  # front and back
    backed = Light(Look(flat=1.0, tone=0, shadow=0.0, occlusion=0.0, backdrop=1.0, threads=False), crease=0.0)
    picture = render_view(glass, camera, backed, size=48)
    assert picture[24, 24, 3] == 255
    assert 0 < picture[24, 24, 0] < 255
    assert picture[0, 0, 3] == 0


def test_metal_can_be_ignored() -> None:
    metal = _box(metallic=255)
    assert view_surface(metal, PLAIN).corners[..., 3].min() == 1.0
    assert view_surface(metal, Light(PLAIN.look, metals=False)).corners[..., 3].max() == 0.0


def test_weld_numbers_positions() -> None:
    vertices = np.float32([[0, 0, 0], [0.5, 0, 0], [1e-7, 0, 0], [0.5, 0.001, 0]])
    place = weld(vertices)
    assert place[0] == place[2]
    assert len(np.unique(place)) == 3
    assert len(weld(np.zeros((0, 3), np.float32))) == 0


def test_random_views_stay_in_range_and_show_the_whole_object() -> None:
    rng = np.random.default_rng(0)
    box = to_view_frame(_box(), 0.7)
    for _ in range(50):
        camera = random_view(rng, box.vertices)
        assert PITCHES[0] <= math.degrees(camera.pitch) <= PITCHES[1]
        assert FOVS[0] <= camera.fov <= FOVS[1]
        clip = camera.clip(box.vertices)
        assert np.all(np.abs(clip[:, :2]) < clip[:, 3:])
        assert np.all(clip[:, 2] > -clip[:, 3])
        assert random_view(rng).window == (0.5, 0.5, 1.0)


def test_random_light_varies_strongly_and_repeats_with_its_seed() -> None:
    box, camera = to_view_frame(_box(), 0.5), view_camera(0.4, 35.0)
    rng, again = np.random.default_rng(1), np.random.default_rng(1)
    pictures = [render_view(box, camera, random_light(rng), size=24) for _ in range(40)]
    assert all(np.array_equal(p, render_view(box, camera, random_light(again), size=24)) for p in pictures[:10])
    levels = [float(p[p[..., 3] == 255][:, :3].mean()) for p in pictures]
    assert np.std(levels) > 12
    assert 60 < np.median(levels) < 200
