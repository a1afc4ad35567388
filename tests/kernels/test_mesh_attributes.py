"""mesh_attributes: the fast path against the reference."""

import numpy as np
import pytest
from trellis_kernels.mesh_attributes import reference
from trellis_kernels.mesh_attributes.op import flat_attributes


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
    out = flat_attributes(vertices, faces, rgba, metal_rough, coords, resolution)
    points, cells = ((vertices.astype(np.float64) + 0.5) * resolution).astype(np.float32), np.full(3, resolution)
    slow = reference.flat_attributes(points, faces, rgba, metal_rough, coords, cells)
    assert out.dtype == np.uint8
    assert np.abs(out.astype(int) - slow.astype(int)).max() <= 1
    assert (out == slow).mean() > 0.99


def test_one_colour_stays_that_colour() -> None:
    vertices, faces, rgba, metal_rough = example(np.random.default_rng(1), 20)
    rgba[:], metal_rough[:] = (7, 100, 255, 31), (0, 254)
    coords = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"), -1).reshape(-1, 3)
    out = flat_attributes(vertices, faces, rgba, metal_rough, coords, 16)
    met = ~(out == [128, 128, 128, 128, 128, 255]).all(1)
    assert met.sum() > 300
    assert (out[met] == [7, 100, 255, 0, 254, 31]).all()


def test_empty_and_mistakes() -> None:
    vertices, faces, rgba, metal_rough = example(np.random.default_rng(1), 4)
    nothing = np.empty((0, 3), np.int32)
    assert flat_attributes(vertices, faces, rgba, metal_rough, nothing, 16).shape == (0, 6)
    with pytest.raises(ValueError, match="4 faces"):
        flat_attributes(vertices, faces, rgba[:3], metal_rough, nothing, 16)
    with pytest.raises(ValueError, match="do not fit"):
        flat_attributes(vertices, faces, rgba, metal_rough, np.full((1, 3), 16), 16)
