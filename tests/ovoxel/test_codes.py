"""Curve codes against the golden vectors, and back."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from trellis_app.ovoxel import codes


def z_order_coords(values: np.ndarray, bits: int = 10, *, axes: tuple[int, int, int] = codes.AXES) -> np.ndarray:
    return codes.z_order_coords(values, axes=axes)


CURVES = {"z_order": (codes.z_order, z_order_coords), "hilbert": (codes.hilbert, codes.hilbert_coords)}


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    return load_file(shared / "golden/geometry/serialization.safetensors")


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("curve", CURVES)
def test_golden_ovoxel(golden: dict[str, np.ndarray], curve: str, axes: tuple[int, int, int]) -> None:
    encode, decode = CURVES[curve]
    expected = golden[f"ovoxel.{curve}.perm{axes[0]}{axes[1]}{axes[2]}"]
    assert np.array_equal(encode(golden["coords10"], axes=axes), expected)
    assert np.array_equal(decode(expected, axes=axes), golden["coords10"])


@pytest.mark.parametrize("bits", [5, 8, 10, 11, 16])
@pytest.mark.parametrize("curve", CURVES)
def test_golden_with_batch(golden: dict[str, np.ndarray], curve: str, bits: int) -> None:
    encode, decode = CURVES[curve]
    located = golden[f"flexgemm.bits{bits}.bxyz"]
    plain = encode(located[:, 1:], bits)
    expected = golden[f"flexgemm.bits{bits}.{curve}"]  # int32 where 32 bits are enough: the top bit is its sign
    assert np.array_equal(codes.with_batch(plain, located[:, 0], bits).astype(expected.dtype), expected)
    assert np.array_equal(decode(plain, bits), located[:, 1:])


@pytest.mark.parametrize("bits", [1, 2, 3, 21])
@pytest.mark.parametrize("curve", CURVES)
def test_round_trip(curve: str, bits: int) -> None:
    encode, decode = CURVES[curve]
    coords = np.random.default_rng(bits).integers(0, 1 << bits, (200, 3))
    assert np.array_equal(decode(encode(coords, bits, axes=(1, 2, 0)), bits, axes=(1, 2, 0)), coords)
    assert encode(coords[:0], bits).shape == (0,)


def test_neighbours_on_the_hilbert_curve_share_a_face() -> None:
    steps = np.abs(np.diff(codes.hilbert_coords(np.arange(8**4), 4), axis=0))
    assert (steps.sum(1) == 1).all()


def test_out_of_range_is_an_error() -> None:
    with pytest.raises(ValueError, match="do not fit 10 bits"):
        codes.z_order(np.array([[0, 1024, 0]]))
    with pytest.raises(ValueError, match=r"1\.\.21"):
        codes.hilbert(np.zeros((1, 3), int), 22)
