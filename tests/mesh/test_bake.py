"""Texels carry the colour of the voxels at their place; gutters continue the charts."""

import numpy as np
import pytest

from tests.voxel_shapes import ball, decoded, glass_top, gradient, voxel_asset
from trellis_app.mesh.bake import Sampler, bake, choose_alpha_mode, fill_gutters
from trellis_app.mesh.bvh import build_tree
from trellis_app.mesh.repair import repair
from trellis_app.mesh.simplify import simplify
from trellis_app.mesh.unwrap import unwrap

SIZE = 128


def test_baked_texels_match_the_paint() -> None:
    asset = voxel_asset(ball(), 48)
    full = repair(decoded(asset), voxel=1 / 48)
    surface = simplify(full, 800)
    atlas = unwrap(surface, texture_size=SIZE)
    sampler = Sampler(asset, build_tree(full))
    baked = bake(surface, atlas, sampler, size=SIZE)
    assert baked.textures.alpha_mode == "OPAQUE"
    assert (baked.textures.base_color[:, :, 3] == 255).all()
    assert not baked.translucent.any()
    weights = np.random.default_rng(0).dirichlet((1, 1, 1), len(surface.faces))
    points = np.einsum("fk,fkd->fd", weights, surface.vertices[surface.faces])
    uv = np.einsum("fk,fkd->fd", weights, atlas.uvs)
    column, row = np.minimum((uv * SIZE).astype(int), SIZE - 1).T
    expected = 255 * gradient(points)
    texel = 255 * 4.0 / SIZE  # the gradient over a few texels
    np.testing.assert_allclose(baked.textures.base_color[row, column, :3], expected[:, :3], atol=texel)
    np.testing.assert_allclose(baked.textures.metallic_roughness[row, column, 2], expected[:, 3], atol=texel)
    np.testing.assert_allclose(baked.textures.metallic_roughness[row, column, 1], expected[:, 4], atol=texel)
    assert not baked.textures.metallic_roughness[:, :, 0].any()


def test_gutters_continue_the_charts_without_black() -> None:
    asset = voxel_asset(ball(), 32, lambda points: np.tile((0.8, 0.6, 0.4, 0.2, 0.9, 1.0), (len(points), 1)))
    full = repair(decoded(asset), voxel=1 / 32)
    baked = bake(full, unwrap(full, texture_size=SIZE), Sampler(asset, build_tree(full)), size=SIZE)
    assert np.array_equal(np.unique(baked.textures.base_color.reshape(-1, 4), axis=0), [[204, 153, 102, 255]])


@pytest.mark.parametrize("side", [1, 2, 5, 16, 33])
def test_fill_gutters_keeps_known_texels_and_stays_in_range(side: int) -> None:
    rng = np.random.default_rng(side)
    pixels = rng.random((side, side, 3), dtype=np.float32)
    weight = (rng.random((side, side)) < 0.3).astype(np.float32)
    weight[0, 0] = 1.0
    filled = fill_gutters(pixels * weight[:, :, None], weight)
    known = weight > 0
    assert np.array_equal(filled[known], pixels[known])
    assert filled.shape == pixels.shape
    assert (filled >= pixels[known].min(axis=0) - 1e-6).all()
    assert (filled <= pixels[known].max(axis=0) + 1e-6).all()


def test_glass_is_found_and_can_be_overruled() -> None:
    asset = voxel_asset(ball(), 32, glass_top)
    full = repair(decoded(asset), voxel=1 / 32)
    atlas, sampler = unwrap(full, texture_size=SIZE), Sampler(asset, build_tree(full))
    baked = bake(full, atlas, sampler, size=SIZE)
    assert baked.textures.alpha_mode == "BLEND"
    height = full.vertices[full.faces].mean(axis=1)[:, 2]
    assert baked.translucent[height > 0.05].all()
    assert not baked.translucent[height < -0.05].any()
    forced = bake(full, atlas, sampler, size=SIZE, alpha="opaque")
    assert forced.textures.alpha_mode == "OPAQUE"
    assert not forced.translucent.any()


@pytest.mark.parametrize(
    ("alpha", "mode"),
    [
        (np.ones(1000), "OPAQUE"),
        (np.full(1000, 0.95), "OPAQUE"),
        (np.r_[np.ones(999), 0.0], "OPAQUE"),
        (np.r_[np.ones(900), np.zeros(100)], "MASK"),
        (np.r_[np.ones(900), np.full(100, 0.5)], "BLEND"),
        (np.full(1000, 0.3), "BLEND"),
    ],
)
def test_alpha_mode_follows_the_samples(alpha: np.ndarray, mode: str) -> None:
    assert choose_alpha_mode(alpha) == mode
