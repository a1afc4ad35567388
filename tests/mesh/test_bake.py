"""Texels carry the colour of the voxels at their place; gutters continue the charts."""

import numpy as np
import pytest
import torch

from tests.voxel_shapes import Paint, ball, decoded, glass_top, gradient, voxel_asset
from trellis_app.mesh.bake import Sampler, bake, choose_alpha_mode, fill_gutters
from trellis_app.mesh.bvh import build_tree
from trellis_app.mesh.detail import surface_detail
from trellis_app.mesh.gpu import bake as gpu_bake
from trellis_app.mesh.gpu.normals import SplitMesh
from trellis_app.mesh.normals import split_surface
from trellis_app.mesh.repair import repair
from trellis_app.mesh.simplify import simplify
from trellis_app.mesh.surface import Surface
from trellis_app.mesh.tangents import vertex_tangents
from trellis_app.mesh.unwrap import Atlas, unwrap
from trellis_app.types import OVoxel

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


def with_detail(asset: OVoxel, full: Surface) -> Sampler:
    vertices, faces = torch.from_numpy(full.vertices), torch.from_numpy(full.faces)
    return Sampler(asset, detail=surface_detail(vertices, faces, asset.grid.resolution))


def simplified_ball(paint: Paint = gradient, faces: int = 300) -> tuple[OVoxel, Surface, Surface, Atlas]:
    asset = voxel_asset(ball(), 64, paint)
    full = repair(decoded(asset), voxel=1 / 64)
    surface = simplify(full, faces)
    return asset, full, surface, unwrap(surface, texture_size=SIZE)


@pytest.mark.parametrize("paint", [gradient, glass_top])
def test_the_parallel_bake_is_the_serial_one(paint: Paint) -> None:
    asset, full, surface, atlas = simplified_ball(paint)
    split, sampler = split_surface(surface, atlas.uvs), with_detail(asset, full)
    serial = bake(surface, atlas, sampler, size=SIZE, split=split)
    tensors = SplitMesh(*map(torch.from_numpy, (split.vertices, split.faces, split.normals, split.uvs)))
    parallel = gpu_bake.bake(tensors, sampler, size=SIZE)
    assert serial.textures.alpha_mode == parallel.textures.alpha_mode
    assert serial.covered == parallel.covered
    assert (serial.translucent != parallel.translucent).mean() < 0.01
    for name in ("base_color", "metallic_roughness", "normal"):
        a, b = getattr(serial.textures, name), getattr(parallel.textures, name)
        assert (np.abs(a.astype(int) - b) > 1).mean() < 1e-3
    again = bake(surface, atlas, sampler, size=SIZE, split=split)
    assert again.textures.normal.tobytes() == serial.textures.normal.tobytes()
    np.testing.assert_allclose(parallel.tangents, serial.tangents, atol=1e-5)
    bare = gpu_bake.bake(tensors, sampler, size=SIZE, normal_map=False)
    assert bare.textures.normal is None
    assert bare.tangents is None


def test_a_coarse_ball_with_its_normal_map_shades_like_the_fine_one() -> None:
    asset, full, surface, atlas = simplified_ball(faces=80)
    split = split_surface(surface, atlas.uvs)
    texture = bake(surface, atlas, with_detail(asset, full), size=SIZE, split=split).textures.normal
    assert texture is not None
    tangents = vertex_tangents(split.vertices, split.faces, split.normals, split.uvs)
    weights = np.random.default_rng(0).dirichlet((2, 2, 2), len(split.faces))

    def mixed(values: np.ndarray) -> np.ndarray:
        total = np.einsum("fk,fkd->fd", weights, values[split.faces])
        return total / np.linalg.norm(total, axis=1, keepdims=True)

    column, row = (np.einsum("fk,fkd->fd", weights, split.uvs[split.faces]) * SIZE).astype(int).T
    stored = texture[row, column] / 127.5 - 1.0
    normal, along, up = mixed(split.normals), mixed(tangents[:, :3]), mixed(np.cross(split.normals, tangents[:, :3]))
    shaded = stored[:, :1] * along + stored[:, 1:2] * up * tangents[split.faces[:, 0], 3:] + stored[:, 2:] * normal
    shaded /= np.linalg.norm(shaded, axis=1, keepdims=True)
    true = mixed(split.vertices)
    plain, mapped = (np.degrees(np.arccos(np.clip((n * true).sum(axis=1), -1, 1))) for n in (normal, shaded))
    assert mapped.mean() < 0.5 * plain.mean()
    assert (tangents[:, 3] == 1).all()


def test_what_cannot_be_seen_lends_no_colour() -> None:
    def holes(points: np.ndarray) -> np.ndarray:
        seen = np.sin(14 * points[:, 2]) > 0
        return np.where(seen[:, None], (0.2, 0.5, 0.3, 0.0, 0.5, 1.0), (1.0, 1.0, 1.0, 0.0, 0.5, 0.0))

    asset, full, surface, atlas = simplified_ball(holes)
    split = split_surface(surface, atlas.uvs)
    baked = bake(surface, atlas, with_detail(asset, full), size=SIZE, split=split)
    assert baked.textures.alpha_mode == "MASK"
    seen = baked.textures.base_color[..., 3] >= 26
    assert np.abs(baked.textures.base_color[seen][:, :3].astype(int) - (51, 128, 77)).max() <= 12
