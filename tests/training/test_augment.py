"""Augmentation: what may change does, what must not does not."""

import colorsys

import numpy as np
import pytest

from trellis_app.training import augment as module
from trellis_app.training.augment import augment, to_view_frame
from trellis_app.training.grammar import ball, box
from trellis_app.training.library import LibraryObject, check_visible, face_areas, join
from trellis_app.training.paints import Paint
from trellis_app.training.shapes import random_object


def two_tone() -> LibraryObject:
    parts = [Paint((0.8, 0.2, 0.1)).on(box(1, 1, 1)), Paint((0.2, 0.6, 0.9)).on(ball(0.4, segments=8).move(y=0.8))]
    return join("two tone", parts)


def test_colour_models_agree_with_colorsys() -> None:
    rgb = np.random.default_rng(0).random((37, 3))
    hsv = module._to_hsv(rgb)
    np.testing.assert_allclose(hsv, [colorsys.rgb_to_hsv(*row) for row in rgb], atol=1e-12)
    np.testing.assert_allclose(module._to_rgb(hsv + np.array([3, 0, 0])), rgb, atol=1e-12)


def test_same_generator_same_object_and_input_untouched() -> None:
    obj = two_tone()
    before = [obj.vertices.copy(), obj.corner_rgba.copy(), obj.metal_rough.copy()]
    for seed in range(20):
        a, b = (augment(obj, np.random.default_rng(seed), two_tone()) for _ in range(2))
        for field in ("vertices", "faces", "corner_rgba", "metal_rough"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
    for was, now in zip(before, [obj.vertices, obj.corner_rgba, obj.metal_rough], strict=True):
        np.testing.assert_array_equal(was, now)


def test_variety() -> None:
    results = [augment(two_tone(), np.random.default_rng(seed)) for seed in range(150)]
    glass = [r for r in results if (r.corner_rgba[..., 3] < 255).any()]
    metal = [r for r in results if (r.metal_rough[:, 0] == 255).any()]
    kept = [
        r for r in results if np.array_equal(np.sort(r.corner_rgba, axis=1), np.sort(two_tone().corner_rgba, axis=1))
    ]
    assert len(glass) >= 4
    assert len(metal) >= 8
    assert 10 <= len(kept) <= 60
    for result in glass:
        areas = face_areas(result)
        assert areas[(result.corner_rgba[..., 3] < 255).any(axis=1)].sum() <= 0.62 * areas.sum()
    extents = np.array([np.ptp(r.vertices, axis=0) for r in results])
    assert np.ptp(extents[:, 0] / extents[:, 1]) > 0.5


def test_flat_colours_stay_flat() -> None:
    for seed in range(40):
        result = augment(two_tone(), np.random.default_rng(seed))
        assert (result.corner_rgba == result.corner_rgba[:, :1]).all()
        assert len(np.unique(result.corner_rgba.reshape(-1, 4), axis=0)) <= 2


def test_pairs_hold_both_objects_on_one_floor_or_stacked() -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        first, second = random_object(rng), random_object(rng)
        both = augment(first, rng, second)
        assert len(both.faces) == len(first.faces) + len(second.faces)
        check_visible(both)


@pytest.mark.parametrize("yaw", [0.0, 0.7, np.pi, 5.0])
def test_view_frame_centres_and_scales_the_box(yaw: float) -> None:
    framed = to_view_frame(two_tone(), yaw)
    used = framed.vertices[framed.faces.reshape(-1)]
    np.testing.assert_allclose(used.max(axis=0) + used.min(axis=0), 0, atol=1e-6)
    assert abs(np.ptp(used, axis=0).max() - 0.99999) < 1e-6


def test_unused_vertices_do_not_move_the_frame() -> None:
    obj = two_tone()
    stray = LibraryObject(
        obj.name,
        np.concatenate([obj.vertices, [[9, 9, 9]]]).astype(np.float32),
        obj.faces,
        obj.corner_rgba,
        obj.metal_rough,
    )
    np.testing.assert_array_equal(to_view_frame(stray, 0.3).vertices[:-1], to_view_frame(obj, 0.3).vertices)
