"""voxel_octree: the fast path against the reference and the golden vectors."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from trellis_kernels.voxel_octree import op


def scattered(rng: np.random.Generator, depth: int, count: int) -> np.ndarray:
    return np.unique(op.morton(rng.integers(0, 1 << depth, (count, 3))))


@pytest.mark.parametrize("depth", [1, 2, 5, 10])
@pytest.mark.parametrize("count", [0, 1, 7, 300])
def test_matches_reference_and_comes_back(depth: int, count: int) -> None:
    rng = np.random.default_rng(depth * 1000 + count)
    codes = scattered(rng, depth, count)
    masks = op.encode_octree(codes, depth)
    assert masks.dtype == np.uint8
    assert np.array_equal(masks, op.encode_octree(codes, depth, implementation="reference"))
    for implementation in ("cpu", "reference"):
        assert np.array_equal(op.decode_octree(masks, depth, implementation=implementation), codes)
    attributes = rng.integers(0, 256, (len(codes), 3)).astype(np.uint8)
    parent = op.apply_parent_filter(codes, depth, attributes)
    assert np.array_equal(parent, op.apply_parent_filter(codes, depth, attributes, implementation="reference"))
    near = op.apply_neighbor_filter(codes, op.unmorton(codes), attributes)
    for implementation in ("cpu", "reference"):
        back = op.undo_parent_filter(codes, depth, parent, implementation=implementation)
        assert np.array_equal(back, attributes)
        back = op.undo_neighbor_filter(codes, op.unmorton(codes), near, implementation=implementation)
        assert np.array_equal(back, attributes)


def test_golden(shared: Path) -> None:
    golden = load_file(shared / "golden/geometry/io.safetensors")
    for name, depth, masks in (("svo", 5, "svo.bytes_depth5"), ("tiny", 3, "tiny.svo_depth3")):
        codes, coords = golden[f"{name}.codes"].astype(np.int64), golden[f"{name}.coords"]
        assert np.array_equal(op.morton(coords), codes)
        assert np.array_equal(op.unmorton(codes), coords)
        assert np.array_equal(op.encode_octree(codes, depth), golden[masks])
        assert np.array_equal(op.decode_octree(golden[masks], depth), codes)
        attributes = golden[f"{name}.attr"]
        assert np.array_equal(op.apply_parent_filter(codes, depth, attributes), golden[f"{name}.attr_parent"])
        if name == "svo":
            assert np.array_equal(op.apply_neighbor_filter(codes, coords, attributes), golden["svo.attr_neighbor"])


@pytest.mark.parametrize("implementation", ["cpu", "reference"])
def test_broken_trees_are_errors(implementation: str) -> None:
    masks = op.encode_octree(scattered(np.random.default_rng(0), 4, 50), 4)
    for broken in (masks[:-1], np.r_[masks, np.uint8(1)], np.zeros(1, np.uint8)):
        with pytest.raises(ValueError, match="no octree of depth 4"):
            op.decode_octree(broken, 4, implementation=implementation)


def test_codes_that_do_not_rise_or_fit_are_errors() -> None:
    for codes in (np.array([3, 3]), np.array([5, 2]), np.array([8]), np.array([-1])):
        with pytest.raises(ValueError, match="rise within"):
            op.encode_octree(codes, 1)
