"""mesh_attributes: the fast path against the reference."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from trellis_kernels.mesh_attributes import reference
from trellis_kernels.mesh_attributes.op import (
    Sampling,
    emissive_colours,
    flat_attributes,
    shading_normals,
    textured_attributes,
)
from trellis_kernels.mesh_attributes.surface import Material, PaintedMesh, Texture, TexturedMesh, mip_levels
from trellis_kernels.mesh_to_dual_grid.op import GridBox


def example(rng: np.random.Generator, faces: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    vertices = rng.uniform(-0.5, 0.5, (faces * 2, 3)).astype(np.float32)
    index = np.stack([rng.permutation(faces * 2)[:3] for _ in range(faces)]).astype(np.int32)
    rgba, metal_rough = rng.integers(0, 256, (faces, 3, 4)), rng.integers(0, 256, (faces, 2))
    return vertices, index, rgba.astype(np.uint8), metal_rough.astype(np.uint8)


@pytest.mark.parametrize("resolution", [5, 12, 67])
def test_matches_reference_in_any_order(resolution: int) -> None:
    rng = np.random.default_rng(resolution)
    vertices, faces, rgba, metal_rough = example(rng, 12)
    coords = rng.permutation(np.unique(rng.integers(0, resolution, (400, 3)), axis=0)).astype(np.int32)
    out = flat_attributes(PaintedMesh(vertices, faces, rgba, metal_rough), coords, resolution)
    points, cells = ((vertices.astype(np.float64) + 0.5) * resolution).astype(np.float32), np.full(3, resolution)
    slow = reference.flat_attributes(PaintedMesh(points, faces, rgba, metal_rough), coords, cells)
    assert out.dtype == np.uint8
    assert np.abs(out.astype(int) - slow.astype(int)).max() <= 1
    assert (out == slow).mean() > 0.99


def test_one_colour_stays_that_colour() -> None:
    vertices, faces, rgba, metal_rough = example(np.random.default_rng(1), 20)
    rgba[:], metal_rough[:] = (7, 100, 255, 31), (0, 254)
    coords = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"), -1).reshape(-1, 3)
    out = flat_attributes(PaintedMesh(vertices, faces, rgba, metal_rough), coords, 16)
    met = ~(out == [128, 128, 128, 128, 128, 255]).all(1)
    assert met.sum() > 300
    assert (out[met] == [7, 100, 255, 0, 254, 31]).all()


def test_empty_and_mistakes() -> None:
    vertices, faces, rgba, metal_rough = example(np.random.default_rng(1), 4)
    nothing = np.empty((0, 3), np.int32)
    mesh = PaintedMesh(vertices, faces, rgba, metal_rough)
    assert flat_attributes(mesh, nothing, 16).shape == (0, 6)
    with pytest.raises(ValueError, match="4 faces"):
        PaintedMesh(vertices, faces, rgba[:3], metal_rough)
    with pytest.raises(ValueError, match="do not fit"):
        flat_attributes(mesh, np.full((1, 3), 16), 16)


def textured(rng: np.random.Generator, faces: int) -> TexturedMesh:
    vertices, index, rgba, _ = example(rng, faces)
    pictures = [rng.integers(0, 256, size).astype(np.uint8) for size in ((7, 5, 4), (16, 16, 4), (1, 9, 4))]
    soft, mirrored, hard = Texture(pictures[0]), Texture(pictures[1], "mirror"), Texture(pictures[2], "clamp", False)
    materials = (
        Material(
            soft, mirrored, mirrored, soft, (0.5, 1.0, 0.25, 0.8, 1.0, 1.0), None, soft, (1.0, 0.5, 0.0), mirrored
        ),
        Material(mirrored, None, hard, mirrored, alpha_cutoff=0.4, normal=hard),
        Material(factors=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)),
    )
    uv, choice = rng.uniform(-1.5, 2, (faces, 3, 2)).astype(np.float32), rng.integers(0, 3, faces).astype(np.int32)
    uv[0] = 0.3
    normals = rng.normal(size=(faces, 3, 3))
    normals = (normals / np.linalg.norm(normals, axis=2, keepdims=True)).astype(np.float32)
    return TexturedMesh(vertices, index, uv, choice, materials, (rgba / 255).astype(np.float32), normals)


@pytest.mark.parametrize("cells", [(9, 9, 9), (12, 7, 67)])
def test_textured_matches_reference(cells: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(sum(cells))
    mesh, box = textured(rng, 14), GridBox((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5), cells)
    coords = rng.permutation(np.unique(rng.integers(0, cells, (500, 3)), axis=0)).astype(np.int32)
    fast = textured_attributes(mesh, coords, box)
    slow = textured_attributes(mesh, coords, box, implementation="reference")
    np.testing.assert_allclose(fast, slow, rtol=0, atol=2e-5)
    assert np.array_equal(fast, textured_attributes(mesh, coords, box, Sampling(workers=3)))
    assert textured_attributes(mesh, coords[:0], box).shape == (0, 6)


@pytest.mark.parametrize("details", [emissive_colours, shading_normals])
def test_details_match_reference(details: Callable[..., np.ndarray]) -> None:
    rng = np.random.default_rng(8)
    mesh, box = textured(rng, 14), GridBox((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5), (12, 7, 33))
    coords = rng.permutation(np.unique(rng.integers(0, box.cells, (500, 3)), axis=0)).astype(np.int32)
    for shown in (mesh, replace(mesh, normals=None)):
        fast, slow = details(shown, coords, box), details(shown, coords, box, implementation="reference")
        np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-4)
        assert 0 < (fast == 0).all(1).sum() < len(coords)  # some voxels have no triangle
    assert details(mesh, coords[:0], box).shape == (0, 3)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_normal_map_leans_along_the_texture(mirrored: bool) -> None:
    """A level square whose map leans towards rising u: towards x, or away from it where the texture is mirrored."""
    vertices = np.array([[-0.4, -0.4, 0.03], [0.4, -0.4, 0.03], [0.4, 0.4, 0.03], [-0.4, 0.4, 0.03]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    uv = vertices[faces][..., :2] * ((-1, 1) if mirrored else (1, 1))
    leaning = Material(normal=Texture(np.full((2, 2, 4), (218, 128, 218, 255), np.uint8)))
    mesh = TexturedMesh(vertices, faces, uv.astype(np.float32), np.zeros(2, np.int32), (leaning,))
    coords = np.array([[3, 4, 8], [8, 8, 8], [0, 0, 0]], np.int32)
    found = shading_normals(mesh, coords, GridBox.cube(16))
    half = 0.5**0.5
    np.testing.assert_allclose(found[:2], [[-half if mirrored else half, 0, half]] * 2, atol=6e-3)
    assert not found[2].any()


def test_slabs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    mesh, box = textured(rng, 30), GridBox.cube(40)
    coords = np.unique(rng.integers(0, 40, (9000, 3)), axis=0).astype(np.int32)
    whole = [textured_attributes(mesh, coords, box, Sampling(original)) for original in (False, True)]
    monkeypatch.setattr("trellis_kernels.mesh_to_dual_grid.cpu.SLAB_BYTES", 40 * 8 * 3)
    assert np.array_equal(textured_attributes(mesh, coords, box), whole[0])
    assert np.array_equal(textured_attributes(mesh, coords, box, Sampling(original=True)), whole[1])


def test_mip_levels_keep_the_mean_of_any_size() -> None:
    image = np.full((13, 6, 4), 77, np.uint8)
    chain = mip_levels(image, rounded=True)
    assert [level.shape[:2] for level in chain] == [(13, 6), (6, 3), (3, 1), (1, 1)]
    assert all((level == 77).all() for level in chain)
    half = np.array([[[0] * 4, [1] * 4], [[0] * 4, [1] * 4]], np.uint8)
    assert mip_levels(half, rounded=True)[1].max() == 1
    assert mip_levels(half, rounded=False)[1].max() == 0
