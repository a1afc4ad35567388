"""Which UVs can carry a texture."""

import numpy as np
import pytest

from trellis_app.mesh.surface import Surface
from trellis_app.mesh.user_uvs import judge_uvs


def sheet(side: int = 4) -> tuple[Surface, np.ndarray]:
    """A square of 2 side² triangles in the unit box and its UVs, one to one."""
    x, y = np.meshgrid(np.linspace(0, 1, side + 1), np.linspace(0, 1, side + 1), indexing="ij")
    uvs = np.stack([x, y], -1).reshape(-1, 2).astype(np.float32)
    first = (np.arange(side)[:, None] * (side + 1) + np.arange(side)).reshape(-1, 1)
    faces = np.concatenate([first + np.array(part) for part in ([0, 1, side + 2], [0, side + 2, side + 1])]).astype(
        np.int32
    )
    return Surface(np.pad(uvs - 0.5, ((0, 0), (0, 1))), faces), uvs


def test_own_uvs_are_usable_and_unchanged() -> None:
    surface, uvs = sheet()
    verdict = judge_uvs(surface, uvs)
    assert verdict.usable
    assert not verdict.wrapped
    assert verdict.corners is not None
    assert np.array_equal(verdict.corners, uvs[surface.faces])
    assert judge_uvs(surface, uvs * np.float32([1, -1]) + np.float32([0, 1])).usable  # mirrored charts are fine


def test_whole_tiles_away_wrap() -> None:
    surface, uvs = sheet()
    verdict = judge_uvs(surface, uvs * np.float32(0.5) + np.float32([3.25, -2.75]))
    assert verdict.usable
    assert verdict.wrapped
    assert verdict.corners is not None
    np.testing.assert_allclose(verdict.corners, uvs[surface.faces] * 0.5 + 0.25, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda uv: uv + 0.55, "across the border"),
        (lambda uv: np.abs(uv - 0.5), "several faces"),
        (lambda uv: uv * 0.01, "of the texture"),
        (lambda uv: np.where(uv[:, :1] > 0.7, [[0.7, 0.0]], uv), "nearly no texels"),
    ],
)
def test_reasons(change: object, words: str) -> None:
    surface, uvs = sheet(10)
    verdict = judge_uvs(surface, change(uvs).astype(np.float32))  # type: ignore[operator]
    assert not verdict.usable
    assert words in verdict.reason


def test_none() -> None:
    surface, _ = sheet()
    verdict = judge_uvs(surface, None)
    assert not verdict.usable
    assert verdict.corners is None
