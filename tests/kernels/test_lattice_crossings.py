"""Where triangles cross lattice lines, against a plain loop over all lines."""

import os
from fractions import Fraction

import pytest
import torch
from trellis_kernels.lattice_crossings.op import FINE, crossings

from tests.kernels.test_mesh_links import bumpy_ball

# Triton runs in these tests only inside its interpreter: see test_triton.py.
IMPLEMENTATIONS = ["reference"] if os.environ.get("TRITON_INTERPRET") != "1" else ["triton"]
UNIT, SHAPE = 64, (12, 14, 11)


def meshes() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Corners in parts of a lattice step, and faces: a ball; a fan whose edges go through lattice points; needles."""
    points, faces = bumpy_ball(1)
    ball = ((points - points.amin(dim=0)) * (UNIT * 9 / float(points.max() - points.min())) + 31).round().long()
    fan = torch.tensor([[4, 4, 5], [8, 4, 5], [8, 8, 6], [4, 8, 7], [1, 6, 5]]) * UNIT
    needles = torch.tensor([[100, 100, 100], [101, 600, 130], [100, 101, 500], [5, 5, 5], [5, 5, 9]])
    return {
        "ball": (ball, faces),
        "fan": (fan, torch.tensor([[0, 1, 2], [0, 2, 3], [4, 0, 3]], dtype=torch.int32)),
        "needles": (needles, torch.tensor([[0, 1, 2], [2, 0, 1], [3, 4, 3]], dtype=torch.int32)),
    }


def expected(corners: torch.Tensor, faces: torch.Tensor, axis: int) -> list[tuple[int, Fraction, int, bool]]:
    """(line, height, face, rising) of every crossing, in the order of faces and lines."""
    b, c = (axis + 1) % 3, (axis + 2) % 3
    out = []
    for f, face in enumerate(faces.tolist()):
        p = [(int(corners[v, b]), int(corners[v, c]), int(corners[v, axis])) for v in face]
        area = (p[1][0] - p[0][0]) * (p[2][1] - p[0][1]) - (p[1][1] - p[0][1]) * (p[2][0] - p[0][0])
        if area < 0:
            p = [p[0], p[2], p[1]]
        for m in range(SHAPE[b]):
            for n in range(SHAPE[c]):
                sides, within = [], area != 0
                for i in range(3):
                    (ax, ay, _), (bx, by, _) = p[(i + 1) % 3], p[(i + 2) % 3]
                    value = (bx - ax) * (n * UNIT - ay) - (by - ay) * (m * UNIT - ax)
                    within &= value > 0 or (value == 0 and (by < ay or (by == ay and bx > ax)))
                    sides.append(value)
                if within:
                    height = Fraction(sum(s * q[2] for s, q in zip(sides, p, strict=True)), abs(area) * UNIT)
                    out.append((m * SHAPE[c] + n, height, f, area > 0))
    return out


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("name", meshes())
def test_every_crossing_is_found_once(name: str, axis: int, implementation: str) -> None:
    corners, faces = meshes()[name]
    found = crossings(corners, faces, axis, SHAPE, UNIT, implementation=implementation)
    wanted = expected(corners, faces, axis)
    assert found.face.tolist() == [f for _, _, f, _ in wanted]
    assert found.rising.tolist() == [up for _, _, _, up in wanted]
    assert (found.key // (SHAPE[axis] * FINE)).tolist() == [line for line, _, _, _ in wanted]
    heights = torch.tensor([float(h) for _, h, _, _ in wanted], dtype=torch.float64)
    torch.testing.assert_close(found.height, heights, rtol=1e-12, atol=1e-12)
    assert torch.equal(found.key % (SHAPE[axis] * FINE), (found.height * FINE).floor().long())
    assert name == "needles" or len(wanted) > 3


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_no_face(implementation: str) -> None:
    none = torch.zeros(0, 3)
    found = crossings(none.long(), none.int(), 0, SHAPE, UNIT, implementation=implementation)
    assert len(found.key) == len(found.height) == len(found.face) == len(found.rising) == 0


@pytest.mark.gpu
@pytest.mark.parametrize("axis", range(3))
def test_the_same_on_the_gpu(axis: int) -> None:
    points, faces = bumpy_ball(5)
    corners = ((points - points.amin(dim=0)) * 20_000 + 200_000).round().long()
    shape = tuple(int(n) // 65536 + 4 for n in corners.amax(dim=0))
    here = crossings(corners.cuda(), faces.cuda(), axis, shape, 65536)
    there = crossings(corners, faces, axis, shape, 65536)
    assert torch.equal(here.face.cpu(), there.face)
    assert torch.equal(here.rising.cpu(), there.rising)
    torch.testing.assert_close(here.height.cpu(), there.height, rtol=1e-12, atol=1e-12)
