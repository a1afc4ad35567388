"""Samples: voxels and pictures show the same object from the same side; streams are reproducible."""

import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from trellis_kernels.dual_grid_faces.op import dual_grid_faces
from trellis_kernels.rasterise.op import rasterise

from trellis_app.errors import MeshError, PictureError
from trellis_app.image.framing import frame_cutout
from trellis_app.training.augment import to_view_frame
from trellis_app.training.grammar import box
from trellis_app.training.library import LibraryObject, join, pack
from trellis_app.training.paints import Paint
from trellis_app.training.samples import (
    Sample,
    SampleOptions,
    SampleStream,
    Skipped,
    Task,
    framed_view,
    make_sample,
    produce,
    read_shard,
    square_view,
    write_shard,
)
from trellis_app.training.shapes import FAMILIES, random_object
from trellis_app.training.views import random_light, render_view

SMALL = SampleOptions(resolution=32, views=1, view_side=48, procedural=0.3, pairs=0.3)
ARRAYS = ("coords", "dual", "crossed", "attributes", "views")


def marked_block() -> LibraryObject:
    """Grey, with a red plate in front (+Z), green on top (+Y) and blue at its right (+X); taller than wide."""
    return join(
        "marked",
        [
            Paint((0.5, 0.5, 0.5)).on(box(0.8, 1.0, 0.6)),
            Paint((1.0, 0.0, 0.0)).on(box(0.6, 0.8, 0.05).move(z=0.32)),
            Paint((0.0, 1.0, 0.0)).on(box(0.6, 0.05, 0.4).move(y=0.52)),
            Paint((0.0, 0.0, 1.0)).on(box(0.05, 0.8, 0.4).move(x=0.42)),
        ],
    )


def voxel_mesh(sample: Sample) -> tuple[np.ndarray, torch.Tensor]:
    """The mesh a decoder would show for the sample's voxels."""
    coords, dual = torch.from_numpy(sample.coords.astype(np.int32)), torch.from_numpy(sample.dual / np.float32(255))
    crossed = (torch.from_numpy(sample.crossed)[:, None] & torch.tensor([1, 2, 4], dtype=torch.uint8)) > 0
    faces = dual_grid_faces(coords, crossed, coords + dual, split=None)
    return (coords + dual).numpy() / sample.resolution - 0.5, faces.int()


def same(a: Sample, b: Sample) -> bool:
    return (
        a.name == b.name
        and a.cameras == b.cameras
        and all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ARRAYS)
    )


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_voxels_cover_what_the_view_shows(family: str) -> None:
    rng = np.random.default_rng(11)
    obj = random_object(rng, family)
    sample = make_sample(obj, rng, resolution=256, views=1, view_side=64)
    camera, framed = sample.cameras[0], to_view_frame(obj, sample.yaw)
    seen = render_view(framed, camera, random_light(rng), size=384, supersample=1)[..., 3] > 0
    vertices, faces = voxel_mesh(sample)
    covered = rasterise(torch.from_numpy(camera.clip(vertices)), faces, (384, 384)).face.numpy() >= 0
    assert (seen & covered).sum() / (seen | covered).sum() > 0.97


def test_seen_side_faces_minus_y_and_stands_upright() -> None:
    sample = make_sample(marked_block(), np.random.default_rng(0), resolution=64, views=4, view_side=64, yaw=0.0)
    colours = sample.attributes[:, :3].astype(int)
    red = np.flatnonzero((colours[:, 0] > 200) & (colours[:, 1] < 40))
    green = np.flatnonzero((colours[:, 1] > 200) & (colours[:, 0] < 40))
    blue = np.flatnonzero((colours[:, 2] > 200) & (colours[:, 0] < 40))
    x, y, z = sample.coords.T
    assert y[red].max() < 32 - 14  # glTF front (+Z) is -Y
    assert z[green].min() > 32 + 24  # glTF up is +Z
    assert x[blue].min() > 32 + 18  # the object's left stays at +X, right in the picture
    for view in sample.views.astype(int):
        opaque = view[..., 3] > 128
        reddest = (view[..., 0] - view[..., 1] - view[..., 2]) * opaque
        rows, columns = np.nonzero(reddest > 0.5 * reddest.max())
        assert 0.3 * 64 < columns.mean() < 0.7 * 64
        assert opaque[rows.astype(int), columns.astype(int)].all()
    above = framed_view(to_view_frame(marked_block(), 0.0), np.random.default_rng(3), side=64)
    assert above[0].shape == (64, 64, 4)


@pytest.mark.parametrize("turn", [0.0, 1.0, 4.0])
def test_view_frame_is_the_exporters_inverse(turn: float) -> None:
    obj = marked_block()
    framed = to_view_frame(obj, turn).vertices.astype(float)
    exported = np.stack([framed[:, 0], framed[:, 2], -framed[:, 1]], axis=1)
    cos, sin = math.cos(turn), math.sin(turn)
    turned = obj.vertices @ np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]).T
    low, high = turned.min(axis=0), turned.max(axis=0)
    np.testing.assert_allclose(exported, (turned - (low + high) / 2) * 0.99999 / (high - low).max(), atol=1e-6)


def test_voxel_rows_are_sorted_and_inside() -> None:
    sample = make_sample(random_object(np.random.default_rng(4)), np.random.default_rng(5), resolution=48, views=1)
    keys = sample.coords.astype(np.int64) @ [48 * 48, 48, 1]
    assert (np.diff(keys) > 0).all()
    assert sample.coords.min() >= 0
    assert sample.coords.max() < 48
    assert sample.crossed.max() <= 7
    assert [sample.coords.dtype, sample.dual.dtype, sample.attributes.dtype] == [np.int16, np.uint8, np.uint8]
    assert sample.views.shape == (1, 256, 256, 4)


def test_views_fill_the_frame_like_the_product() -> None:
    picture = np.zeros((90, 120, 4), np.uint8)
    picture[20:71, 30:61] = (200, 100, 50, 255)
    square = square_view(picture, 50)
    opaque = square[..., 3] > 204
    assert opaque.any(axis=1).all()  # 51 rows: inclusive box of side 50, no margin
    columns = np.flatnonzero(opaque.any(axis=0))
    assert (columns[0], columns[-1]) == (10, 40)
    picture[25:60, 33:50, 3] = 230
    framed = np.asarray(frame_cutout(Image.fromarray(picture)))
    straight = square_view(picture, 50).astype(np.float32) / 255
    np.testing.assert_array_equal(framed, (straight[..., :3] * straight[..., 3:] * 255).astype(np.uint8))


def test_a_crop_that_loses_glass_is_refused() -> None:
    picture = np.zeros((60, 60, 4), np.uint8)
    picture[5:55, 20:40] = (90, 160, 200, 120)
    picture[40:50, 20:40, 3] = 255
    with pytest.raises(PictureError, match="see-through"):
        square_view(picture, 32)


def test_nothing_to_show_is_refused() -> None:
    block = marked_block()
    flat = replace(block, vertices=block.vertices * np.float32([1, 0, 0]))
    clear = replace(block, corner_rgba=block.corner_rgba * np.uint8([1, 1, 1, 0]))
    broken = replace(block, vertices=block.vertices * np.float32(np.nan))
    for index, obj in enumerate((flat, clear, broken)):
        with pytest.raises(MeshError):
            make_sample(obj, np.random.default_rng(0), resolution=32)
        result = produce(Task(index, 0, SMALL, obj, None))
        assert isinstance(result, Skipped)
        assert result.reason


def test_shards_keep_every_value(tmp_path: Path) -> None:
    samples = [produce(Task(i, 0, SMALL, None, None)) for i in range(3)]
    write_shard(tmp_path / "a.npz", samples)
    for written, read in zip(samples, read_shard(tmp_path / "a.npz"), strict=True):
        assert same(written, read)
        assert (written.resolution, written.yaw) == (read.resolution, read.yaw)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_stream_is_ordered_reproducible_and_reports(caplog: pytest.LogCaptureFixture) -> None:
    library = pack([marked_block(), replace(marked_block(), corner_rgba=marked_block().corner_rgba * np.uint8(0))])
    with SampleStream(library, workers=2, seed=7, options=SMALL) as stream, caplog.at_level(logging.WARNING):
        got = [next(stream) for _ in range(6)]
        expected = (produce(stream._task(i)) for i in range(100))
        wanted = [s for s, _ in zip((s for s in expected if isinstance(s, Sample)), range(6), strict=False)]
        folder = Path(stream._folder.name)
    assert all(same(a, b) for a, b in zip(got, wanted, strict=True))
    assert "fully transparent" in caplog.text
    assert not folder.exists()
    assert next(stream, None) is None


def test_stream_raises_what_a_worker_raises() -> None:
    options = replace(SMALL, resolution=0)
    with SampleStream([marked_block()], workers=1, options=options) as stream, pytest.raises(ValueError, match="cells"):
        next(stream)


def test_strides_share_out_the_indices() -> None:
    with pytest.raises(ValueError, match="stride"):
        SampleStream([marked_block()], workers=1, stride=0)
    with pytest.raises(MeshError):
        SampleStream([], workers=1)
