"""The renderer: coverage, light, layers of glass, maps without light, determinism."""

import numpy as np
import pytest

from trellis_app.render.camera import Camera, view_camera
from trellis_app.render.deferred import Look, Maps, Surface, draw, draw_linear, draw_unlit
from trellis_app.render.environment import Environment, Lamp
from trellis_app.render.shading import ACES, CLIP, NEUTRAL, corner_normals, encode_picture

WHITE = Environment((1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
FLAT = Look(flat=1.0, tone=CLIP, shadow=0.0, occlusion=0.0)
SQUARE = np.array([[-0.4, 0, -0.4], [0.4, 0, -0.4], [0.4, 0, 0.4], [-0.4, 0, 0.4]], np.float32)
CAMERA = view_camera(0.0, 40.0)


def _surface(*squares: tuple[float, tuple[float, ...]]) -> Surface:
    """Squares across the view at y = first, with material (r g b metallic roughness alpha)."""
    vertices = np.concatenate([SQUARE + np.float32([0, y, 0]) for y, _ in squares])
    faces = np.concatenate([np.int32([[0, 1, 2], [0, 2, 3]]) + 4 * k for k in range(len(squares))])
    corners = np.concatenate([np.full((2, 3, 6), material, np.float32) for _, material in squares])
    return Surface(vertices, faces.astype(np.int32), corners, solid=bool((corners[..., 5] == 1).all()))


def _ball() -> Surface:
    steps = 24
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, steps + 1), np.linspace(0, np.pi, steps + 1))
    points = 0.4 * np.stack([np.sin(v) * np.cos(u), np.sin(v) * np.sin(u), np.cos(v)], axis=-1)
    first = (np.arange(steps)[:, None] * (steps + 1) + np.arange(steps)).reshape(-1, 1)
    halves = np.array([[0, 1, steps + 1], [1, steps + 2, steps + 1]])
    faces = np.concatenate([first + halves[0], first + halves[1]]).astype(np.int32)
    corners = np.full((len(faces), 3, 6), (0.5, 0.5, 0.5, 0.0, 0.6, 1.0), np.float32)
    return Surface(points.reshape(-1, 3).astype(np.float32), faces, corners)


def test_flat_picture_shows_the_base_colour() -> None:
    picture = draw(_surface((0.0, (1.0, 0.0, 0.2158605, 0.0, 0.5, 1.0))), CAMERA, 64, FLAT)
    assert picture[32, 32].tolist() == [255, 0, 128, 255]
    assert picture[0, 0].tolist() == [0, 0, 0, 0]
    share = (picture[..., 3] / 255.0).mean()
    width = 0.8 / CAMERA.radius * CAMERA.focal
    assert share == pytest.approx(width**2, rel=0.04)  # antialiased alpha has the square's area


def test_glass_is_composited_front_to_back() -> None:
    red, blue = (1.0, 0.0, 0.0, 0.0, 0.5, 0.5), (0.0, 0.0, 1.0, 0.0, 0.5, 0.25)
    linear = draw_linear(_surface((0.1, blue), (0.0, red)), CAMERA, 32, FLAT)
    np.testing.assert_allclose(linear[16, 16], [0.5, 0.0, 0.125, 0.625], atol=1e-6)
    solid = draw_linear(_surface((0.1, (0.0, 0.0, 1.0, 0.0, 0.5, 1.0)), (0.0, red)), CAMERA, 32, FLAT)
    np.testing.assert_allclose(solid[16, 16], [0.5, 0.0, 0.5, 1.0], atol=1e-6)
    backed = Look(flat=1.0, shadow=0.0, occlusion=0.0, backdrop=0.5)
    np.testing.assert_allclose(draw_linear(_surface((0.0, red)), CAMERA, 32, backed)[16, 16], [0.75, 0.25, 0.25, 1.0])


def test_even_light_shows_about_the_albedo_for_paint_and_metal() -> None:
    """In a white furnace a rough surface reflects its colour (and never more than comes in)."""
    look = Look(environment=WHITE, shadow=0.0, occlusion=0.0)
    for material in ((0.5, 0.5, 0.5, 0.0, 0.9, 1.0), (0.5, 0.5, 0.5, 1.0, 0.3, 1.0)):
        shown = draw_linear(_surface((0.0, material)), CAMERA, 16, look)[8, 8, 0]
        assert 0.4 < shown < 0.62
    assert draw_linear(_surface((0.0, (1.0, 1.0, 1.0, 1.0, 0.2, 1.0))), CAMERA, 16, look)[8, 8, 0] <= 1.0


def test_light_comes_from_where_the_lamp_is() -> None:
    lamp = Lamp((-1.0, -0.6, 0.0), 20.0, (1.0, 1.0, 1.0))
    look = Look(environment=Environment((0.05,) * 3, (0.05,) * 3, (lamp,)), shadow=0.0, occlusion=0.0)
    for yaw in (np.pi, 0.4):
        picture = draw_linear(_ball(), Camera(yaw, 0.0, CAMERA.radius, 40.0), 64, look)
        assert picture[32, 20, 0] > 3 * picture[32, 44, 0]  # lit from the left of the picture


def test_shadow_and_occlusion_only_darken() -> None:
    ball, wall = _ball(), _surface((0.25, (0.5, 0.5, 0.5, 0.0, 0.6, 1.0)))
    faces = np.concatenate([ball.faces, wall.faces + len(ball.vertices)]).astype(np.int32)
    corners = np.concatenate([ball.corners, wall.corners])
    scene = Surface(np.concatenate([ball.vertices, wall.vertices]), faces, corners)
    lit, shadowed, closed = (
        draw_linear(scene, view_camera(0.5, 30.0), 96, Look(shadow=shadow, occlusion=occlusion))
        for shadow, occlusion in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
    )
    for darker in (shadowed, closed):
        assert np.all(darker[..., :3] <= lit[..., :3] + 1e-5)
        assert darker[..., :3].sum() < 0.998 * lit[..., :3].sum()
        assert np.array_equal(darker[..., 3], lit[..., 3])


def test_unlit_maps() -> None:
    surface = _surface((0.0, (1.0, 0.0, 0.2158605, 0.25, 0.75, 0.5)))
    maps = draw_unlit(
        surface, CAMERA, 64, ("base_color", "metallic", "roughness", "alpha", "mask", "normal", "depth"), FLAT
    )
    middle = {name: values[32, 32] for name, values in maps.items()}
    np.testing.assert_allclose(middle["base_color"], [1.0, 0.0, 0.5], atol=2e-3)
    numbers = [float(middle[name]) for name in ("metallic", "roughness", "alpha", "mask")]
    assert numbers == pytest.approx([0.25, 0.75, 0.5, 1.0])
    np.testing.assert_allclose(middle["normal"], [0.0, -1.0, 0.0], atol=1e-6)
    assert float(middle["depth"]) == pytest.approx(CAMERA.radius, rel=1e-5)
    assert all(values[0, 0].sum() == 0 for values in maps.values())
    with pytest.raises(ValueError, match="unknown outputs"):
        draw_unlit(surface, CAMERA, 8, ("colour",), FLAT)


def test_texture_lookup_follows_gltf() -> None:
    """Row 0 of the texture is v = 0; half a texel in is the texel's own colour."""
    square = _surface((0.0, (0.0,) * 6))
    uv = np.float32([[0, 1], [1, 1], [1, 0], [0, 0]])  # upper picture edge is v = 0
    colour = np.zeros((2, 2, 4), np.uint8)
    colour[..., 3] = 255
    colour[0, 0, 0], colour[1, 1, 2] = 255, 255
    maps = Maps(uv[square.faces], colour, np.zeros((2, 2, 3), np.uint8))
    textured = Surface(square.vertices, square.faces, np.zeros((0, 3, 6), np.float32), maps=maps)
    picture = draw(textured, CAMERA, 200, FLAT)
    half = 0.2 / CAMERA.radius * CAMERA.focal * 200
    low, high = round(100 - half), round(100 + half)
    assert picture[low, low, 0] > 250
    assert picture[low, low, 2] < 5
    assert picture[high, high, 2] > 250
    assert picture[high, high, 0] < 5


def test_normals_are_smooth_below_the_crease_and_sharp_above() -> None:
    vertices = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0.0, 0.0, 1.0]])
    faces = np.int32([[0, 1, 2], [0, 3, 1]])  # a right angle along the edge 0-1
    sharp = corner_normals(vertices, faces, np.arange(4), np.cos(np.radians(60)))
    round_ = corner_normals(vertices, faces, np.arange(4), np.cos(np.radians(95)))
    np.testing.assert_allclose(sharp[0], [[0, 0, 1]] * 3, atol=1e-6)
    np.testing.assert_allclose(round_[0, 0], [0, 1, 1], atol=1e-6)
    np.testing.assert_allclose(round_[0, 2], [0, 0, 1], atol=1e-6)
    flipped = corner_normals(vertices, faces[:, ::-1].copy(), np.arange(4), np.cos(np.radians(95)))
    np.testing.assert_allclose(flipped[:, ::-1], -round_, atol=1e-6)


@pytest.mark.parametrize("tone", [CLIP, ACES, NEUTRAL])
def test_tone_curves_rise_and_stay_in_range(tone: int) -> None:
    ramp = np.ones((1, 64, 4), np.float32)
    ramp[0, :, :3] = np.linspace(0.0, 8.0, 64)[:, None]
    shown = encode_picture(ramp, 1.0, tone)[0, :, 0].astype(int)
    assert shown[0] == 0
    assert np.all(np.diff(shown) >= 0)
    assert shown[-1] >= 250
    assert not encode_picture(np.zeros((2, 3, 4), np.float32), 1.0, tone).any()


def test_same_bytes_every_time_and_on_one_thread() -> None:
    first = draw(_ball(), CAMERA, 48, Look())
    assert np.array_equal(first, draw(_ball(), CAMERA, 48, Look()))
    assert np.array_equal(first, draw(_ball(), CAMERA, 48, Look(threads=False)))


def test_empty_surface_is_an_empty_picture() -> None:
    nothing = Surface(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), np.zeros((0, 3, 6), np.float32))
    assert not draw(nothing, CAMERA, 16, Look()).any()
    glass = Surface(nothing.vertices, nothing.faces, nothing.corners, solid=False)
    assert not draw(glass, CAMERA, 16, Look(backdrop=0.5)).any()
