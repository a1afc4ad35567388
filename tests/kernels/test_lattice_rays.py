"""Rays through a lattice with closed edges against a plain walk, one ray at a time."""

import os

import numpy as np
import pytest
import torch
from trellis_kernels.lattice_rays.op import OPEN, OUT, SHUT_IN, Walls, ray_reach

# Triton runs in these tests only inside its interpreter: see test_triton.py.
IMPLEMENTATIONS = ["reference"] if os.environ.get("TRITON_INTERPRET") != "1" else ["triton"]
SHAPE, GRAIN, LIMIT = (11, 9, 14), 4, 9


def number(axis: int, place: list[int]) -> int:
    """The number of the edge that leaves a lattice point upwards along an axis."""
    b, c = (axis + 1) % 3, (axis + 2) % 3
    return axis * int(np.prod(SHAPE)) + (place[b] * SHAPE[c] + place[c]) * SHAPE[axis] + place[axis]


def how_far(place: list[int], step: list[int], closed: set[int], cells: np.ndarray, limit: int) -> int:
    due, aired = [abs(s) // 2 for s in step], False
    for _ in range(limit):
        open_here = bool(cells[tuple(p // GRAIN for p in place)])
        aired |= open_here
        axis = due.index(min(due))
        low = list(place)
        low[axis] -= step[axis] < 0
        if not 0 <= low[axis] < SHAPE[axis] - 1:
            return OUT
        if not open_here and number(axis, low) in closed:
            return OPEN if aired else SHUT_IN
        place[axis] += 1 if step[axis] > 0 else -1
        due[axis] += abs(step[axis])
    return OUT


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("share", [0.0, 0.06, 0.3])
def test_rays_walk_until_an_edge_stops_them(share: float, implementation: str) -> None:
    random = np.random.default_rng(5)
    edges = np.flatnonzero(random.random(3 * np.prod(SHAPE)) < share)
    cells = random.random([-(-n // GRAIN) for n in SHAPE]) < 0.1
    points = random.choice(int(np.prod(SHAPE)), 60, replace=False)
    steps = random.integers(1, 40, (3, 7, 3)) * random.choice([-1, 1], (3, 7, 3))
    steps[:, 0] = [8, -8, 8]  # all due at once
    steps = np.asfortranarray(steps)  # in any layout
    walls = Walls(torch.from_numpy(np.repeat(edges, 2)), torch.from_numpy(np.asfortranarray(cells)), GRAIN, SHAPE)
    found = ray_reach(
        torch.from_numpy(points), torch.from_numpy(steps), walls, limit=LIMIT, implementation=implementation
    )
    closed = set(edges.tolist())
    places = np.stack(np.unravel_index(points, SHAPE), axis=1).tolist()
    wanted = [
        [how_far(list(p), s, closed, cells, LIMIT) for s in steps[n % 3].tolist()]
        for n, p in zip(points, places, strict=True)
    ]
    assert found.tolist() == wanted
    assert share == 0.0 or len(found.unique()) == 3


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_no_ray(implementation: str) -> None:
    walls = Walls(torch.zeros(0, dtype=torch.int64), torch.zeros(3, 3, 4, dtype=torch.bool), GRAIN, SHAPE)
    none = torch.zeros(0, dtype=torch.int64)
    steps = torch.tensor([[[1, 2, -3]]])
    assert ray_reach(none, steps, walls, limit=LIMIT, implementation=implementation).shape == (0, 1)


@pytest.mark.gpu
def test_the_same_on_the_gpu() -> None:
    generator = torch.Generator().manual_seed(1)
    shape, grain = (300, 280, 310), 8
    count = int(np.prod(shape))
    edges = torch.randint(3 * count, (count // 100,), generator=generator).sort().values
    cells = torch.rand([-(-n // grain) for n in shape], generator=generator) < 0.001
    points = torch.randint(count, (5000,), generator=generator)
    steps = torch.randint(1 << 14, 1 << 24, (5, 12, 3), generator=generator)
    steps *= torch.where(torch.rand(5, 12, 3, generator=generator) < 0.5, -1, 1)
    there = Walls(edges.cuda(), cells.cuda(), grain, shape)
    found = ray_reach(points.cuda(), steps.cuda(), there, limit=400)
    assert torch.equal(found.cpu(), ray_reach(points, steps, Walls(edges, cells, grain, shape), limit=400))
