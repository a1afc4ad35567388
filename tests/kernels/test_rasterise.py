"""Rasteriser: fast versions against the reference, exact coverage, clipping, peeling, and checks of the door."""

import os
import sys

import numpy as np
import pytest
import torch
from benchmarks.rasterise import sphere
from trellis_kernels.rasterise.cpu import rasterise_serial
from trellis_kernels.rasterise.op import Fragments, rasterise, rasterise_batch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # see test_triton.py
FAST = ["triton"] if INTERPRETED else ["cpu", pytest.param("triton", marks=pytest.mark.gpu)]
SIZES = [(1, 1), (7, 13), (33, 20), *([] if INTERPRETED else [(64, 64)])]
FACES = 12 if INTERPRETED else 60
TOLERANCE = 1e-6  # barycentric and depth; faces are exact


def _device(implementation: str) -> str:
    return "cuda" if implementation == "triton" and not INTERPRETED else "cpu"


def _soup(seed: int, faces: int = FACES) -> tuple[torch.Tensor, torch.Tensor]:
    """Random triangles in front of, around and behind the camera."""
    generator = torch.Generator().manual_seed(seed)
    clip = torch.randn(40, 4, generator=generator)
    clip[:, 3] = clip[:, 3] * 0.7 + 0.8
    return clip, torch.randint(0, 40, (faces, 3), generator=generator, dtype=torch.int32)


def _grid(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A square sheet of 2 side^2 triangles that covers the clip square, corners at odd places."""
    steps = torch.linspace(-1.0, 1.0, side + 1)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    inner = (x.abs() < 1) & (y.abs() < 1)
    generator = torch.Generator().manual_seed(side)
    shake = (torch.rand(2, side + 1, side + 1, generator=generator) - 0.5) * inner / side
    clip = torch.stack([x + shake[0], y + shake[1], torch.zeros_like(x), torch.ones_like(x)], dim=-1).reshape(-1, 4)
    first = (torch.arange(side)[:, None] * (side + 1) + torch.arange(side)).reshape(-1)
    a, b, c, d = first, first + 1, first + side + 1, first + side + 2
    return clip, torch.cat([torch.stack([a, b, c], 1), torch.stack([d, b, c], 1)]).int()


def _same(actual: Fragments, expected: Fragments) -> None:
    assert torch.equal(actual.face.cpu(), expected.face)
    torch.testing.assert_close(actual.barycentric.cpu(), expected.barycentric, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(actual.depth.cpu(), expected.depth, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("size", SIZES)
def test_matches_reference(implementation: str, size: tuple[int, int]) -> None:
    for seed in range(3):
        clip, faces = _soup(seed)
        expected = rasterise(clip, faces, size, implementation="reference")
        device = _device(implementation)
        actual = rasterise(clip.to(device), faces.to(device), size, implementation=implementation)
        _same(actual, expected)


def test_nvdiffrast_is_not_asked_for_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not the package is there: by itself the door takes our own, by name it says what is missing."""
    monkeypatch.setitem(sys.modules, "nvdiffrast", None)  # importing it fails
    clip, faces = _soup(0)
    _same(rasterise(clip, faces, (20, 31)), rasterise(clip, faces, (20, 31), implementation="reference"))
    with pytest.raises(ValueError, match="nvdiffrast draws one layer"):
        rasterise(clip, faces, (20, 31), implementation="nvdiffrast")


@pytest.mark.gpu
@pytest.mark.parametrize("side", [9, 40])
def test_nvdiffrast_differs_on_edges_only(side: int) -> None:
    """It snaps vertices more coarsely: a face may win or lose a pixel on its edge, nothing more."""
    pytest.importorskip("nvdiffrast.torch")
    clip, faces = (part.cuda() for part in sphere(side, torch.device("cpu")))
    wanted = rasterise(clip, faces, (190, 256), implementation="triton")
    found = rasterise(clip, faces, (190, 256), implementation="nvdiffrast")
    same = found.face == wanted.face
    assert same.float().mean() > 0.97
    assert ((found.face >= 0) != (wanted.face >= 0)).float().mean() < 2e-3
    seen = same & (wanted.face >= 0)
    assert seen.sum() > 10_000
    torch.testing.assert_close(found.barycentric[seen], wanted.barycentric[seen], atol=0.1, rtol=0)
    point, other = (
        torch.einsum("qk,qkc->qc", x.barycentric[seen], clip[faces[x.face[seen]].long()]) for x in (found, wanted)
    )
    torch.testing.assert_close(point[:, :2] / point[:, 3:], other[:, :2] / other[:, 3:], atol=2 / 190 / 8, rtol=0)
    torch.testing.assert_close(found.depth[seen], wanted.depth[seen], atol=1e-3, rtol=0)
    unseen = found.face < 0
    assert (found.barycentric[unseen] == 0).all()
    assert found.depth[unseen].isposinf().all()


@pytest.mark.parametrize("implementation", FAST)
def test_peels_layers_like_the_reference(implementation: str) -> None:
    clip, faces = _soup(3)
    device = _device(implementation)
    expected: Fragments | None = None
    actual: Fragments | None = None
    last = torch.full((20, 31), -torch.inf)
    for _ in range(4):
        expected = rasterise(clip, faces, (20, 31), behind=expected, implementation="reference")
        actual = rasterise(clip.to(device), faces.to(device), (20, 31), behind=actual, implementation=implementation)
        _same(actual, expected)
        assert torch.all(expected.depth >= last)
        last = expected.depth


@pytest.mark.parametrize("implementation", ["reference", *FAST])
def test_batch_is_one_picture_each(implementation: str) -> None:
    device = _device(implementation)
    pairs = [_soup(seed) for seed in range(3)]
    clip, faces = torch.stack([pair[0] for pair in pairs]).to(device), pairs[0][1].to(device)
    batch = rasterise_batch(clip, faces, (17, 9), implementation=implementation)
    for k in range(3):
        _same(batch[k], _cpu(rasterise(clip[k], faces, (17, 9), implementation=implementation)))


def _cpu(fragments: Fragments) -> Fragments:
    return Fragments(fragments.face.cpu(), fragments.barycentric.cpu(), fragments.depth.cpu())


@pytest.mark.parametrize("implementation", ["reference", *FAST])
@pytest.mark.parametrize("side", [1, 3] if INTERPRETED else [1, 3, 7])
def test_sheet_covers_every_pixel_once(implementation: str, side: int) -> None:
    """Shared edges leave no gap and no pixel belongs to two triangles: areas of all faces add up to the picture."""
    device = _device(implementation)
    clip, faces = (part.to(device) for part in _grid(side))
    size = (23, 29)
    whole = rasterise(clip, faces, size, implementation=implementation)
    assert bool((whole.face >= 0).all())
    one_by_one = sum(
        (rasterise(clip, faces[k : k + 1], size, implementation=implementation).face >= 0).int()
        for k in range(len(faces))
    )
    assert bool((one_by_one == 1).all())


@pytest.mark.parametrize("implementation", ["reference", *FAST])
def test_barycentrics_are_perspective_correct(implementation: str) -> None:
    """The interpolated clip position projects back to the pixel centre."""
    device = _device(implementation)
    clip = torch.tensor([[-1.0, -0.9, 0.3, 1.0], [2.4, -0.2, 1.0, 3.0], [-0.3, 1.6, 0.8, 2.0]], device=device)
    faces = torch.tensor([[0, 1, 2]], dtype=torch.int32, device=device)
    size = (40, 50)
    seen = rasterise(clip, faces, size, implementation=implementation)
    covered = seen.face == 0
    point = seen.barycentric[covered] @ clip
    row, column = covered.nonzero().T
    wanted = torch.stack([(column + 0.5) / size[1], (row + 0.5) / size[0]], dim=1) * 2 - 1
    assert covered.sum() > 300
    torch.testing.assert_close(point[:, :2] / point[:, 3:], wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(point[:, 2] / point[:, 3], seen.depth[covered], atol=1e-4, rtol=0)


@pytest.mark.parametrize("implementation", ["reference", *FAST])
def test_near_plane_cuts(implementation: str) -> None:
    """A floor that runs below the camera: seen below the horizon only, nothing from behind the camera."""
    device = _device(implementation)
    corners = torch.tensor([[-50.0, 1.0, -50.0], [50.0, 1.0, -50.0], [50.0, 1.0, 50.0], [-50.0, 1.0, 50.0]])
    near, far = 0.1, 100.0
    x, y, z = corners.T
    clip = torch.stack([x, y, (far + near) / (far - near) * z - 2 * near * far / (far - near), z], dim=1).to(device)
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32, device=device)
    seen = rasterise(clip, faces, (64, 64), implementation=implementation)
    assert bool((seen.face[:32] == -1).all())
    assert bool((seen.face[34:] >= 0).all())
    depth = seen.depth[40:, 32]
    assert bool((depth[1:] < depth[:-1]).all())
    assert bool((depth >= -1).all())


@pytest.mark.parametrize("implementation", ["reference", *FAST])
def test_nearer_face_wins_and_ties_go_to_the_smaller_index(implementation: str) -> None:
    device = _device(implementation)
    square = torch.tensor([[-1.0, -1, 0.5, 1], [3, -1, 0.5, 1], [-1, 3, 0.5, 1]], device=device)
    nearer = square - torch.tensor([0, 0, 0.25, 0], device=device)
    clip = torch.cat([square, square, nearer])
    three = torch.arange(9, dtype=torch.int32, device=device).reshape(3, 3)
    assert bool((rasterise(clip, three, (5, 4), implementation=implementation).face == 2).all())
    assert bool((rasterise(clip, three[:2], (5, 4), implementation=implementation).face == 0).all())
    assert bool((rasterise(clip, three[:2].flip(0), (5, 4), implementation=implementation).face == 0).all())


@pytest.mark.parametrize("implementation", ["reference", *FAST])
def test_nothing_to_draw(implementation: str) -> None:
    device = _device(implementation)
    nothing = torch.zeros(0, 3, dtype=torch.int32, device=device)
    seen = rasterise(torch.zeros(3, 4, device=device), nothing, (6, 5), implementation=implementation)
    assert bool((seen.face == -1).all())
    assert bool(seen.depth.isinf().all())
    assert not seen.barycentric.any()
    flat = torch.tensor([[0.0, 0, 0, 1], [0.5, 0.5, 0, 1], [1, 1, 0, 1], [torch.nan, 0, 0, 1]], device=device)
    degenerate = torch.tensor([[0, 1, 2], [0, 0, 1], [0, 1, 3]], dtype=torch.int32, device=device)
    assert bool((rasterise(flat, degenerate, (6, 5), implementation=implementation).face == -1).all())
    assert rasterise_batch(torch.zeros(0, 3, 4, device=device), nothing, (6, 5)).depth.shape == (0, 6, 5)


def test_serial_equals_parallel() -> None:
    clip, faces = _soup(5, faces=200)
    parallel = rasterise(clip, faces, (50, 41))
    none = np.zeros((0, 0), np.int32), np.zeros((0, 0), np.float32)
    face, barycentric, depth = rasterise_serial(clip.numpy(), faces.numpy(), (50, 41), *none)
    assert np.array_equal(face, parallel.face)
    assert np.array_equal(depth, parallel.depth)
    assert np.array_equal(barycentric, parallel.barycentric)


def test_door_names_what_does_not_fit() -> None:
    clip, faces = _soup(0)
    with pytest.raises(ValueError, match="clip must be float32"):
        rasterise(clip.double(), faces, (4, 4))
    with pytest.raises(ValueError, match="faces must be int32"):
        rasterise(clip, faces.long(), (4, 4))
    with pytest.raises(ValueError, match="outside"):
        rasterise(clip[:10], faces, (4, 4))
    with pytest.raises(ValueError, match="size"):
        rasterise(clip, faces, (0, 4))
    with pytest.raises(ValueError, match="behind"):
        rasterise(clip, faces, (4, 4), behind=rasterise(clip, faces, (4, 5)))
    with pytest.raises(ValueError, match="implementation"):
        rasterise(clip, faces, (4, 4), implementation="gpu")
