"""Corner lists, edges and vertex quadrics against plain loops, on closed, open and non-manifold meshes."""

import os
from collections import defaultdict

import numpy as np
import pytest
import torch
from trellis_kernels.mesh_links.op import link, plane_quadrics

# Triton runs in these tests only inside its interpreter: see test_triton.py.
IMPLEMENTATIONS = ["reference"] if os.environ.get("TRITON_INTERPRET") != "1" else ["triton"]


def bumpy_ball(subdivisions: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """(points float32 [V, 3] about an edge length apart, faces int32 [F, 3]) of a closed ball with bumps."""
    corners = [np.array(p, float) for p in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (-1, 0, 0), (0, -1, 0), (0, 0, -1))]
    faces = [(0, 1, 2), (1, 3, 2), (3, 4, 2), (4, 0, 2), (1, 0, 5), (3, 1, 5), (4, 3, 5), (0, 4, 5)]
    for _ in range(subdivisions):
        middle: dict[tuple[int, int], int] = {}
        for face in faces:
            for a, b in zip(face, (*face[1:], face[0]), strict=True):
                if (b, a) not in middle:
                    middle[a, b] = middle[b, a] = len(corners)
                    corners.append((corners[a] + corners[b]) / 2)
        split = [(f, middle[f[0], f[1]], middle[f[1], f[2]], middle[f[2], f[0]]) for f in faces]
        faces = [t for f, m, n, o in split for t in ((f[0], m, o), (m, f[1], n), (o, n, f[2]), (m, n, o))]
    points = np.stack(corners) / np.linalg.norm(np.stack(corners), axis=1, keepdims=True)
    points = points * (1 + 0.1 * np.sin(7 * points).prod(1, keepdims=True)) * 2**subdivisions
    return torch.tensor(points, dtype=torch.float32), torch.tensor(faces, dtype=torch.int32)


def sheet(side: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """An open, bent square of (side - 1)^2 quads."""
    x, y = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    points = np.stack([x.ravel(), y.ravel(), 0.3 * np.sin(x.ravel() * 0.9) * np.cos(y.ravel())], axis=1)
    corner = (np.arange(side - 1)[:, None] * side + np.arange(side - 1)).ravel()
    one = np.stack([corner, corner + side, corner + side + 1], 1)
    other = np.stack([corner, corner + side + 1, corner + 1], 1)
    return torch.tensor(points, dtype=torch.float32), torch.tensor(np.concatenate([one, other]), dtype=torch.int32)


def tangle(count: int = 60, vertices: int = 25) -> tuple[torch.Tensor, torch.Tensor]:
    """Random triangles over few points: edges with any number of faces, all windings."""
    random = np.random.default_rng(3)
    faces = np.stack([random.permutation(vertices)[:3] for _ in range(count)])
    return torch.tensor(random.random((vertices, 3)), dtype=torch.float32), torch.tensor(faces, dtype=torch.int32)


MESHES = {"ball": bumpy_ball, "sheet": sheet, "tangle": tangle}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", MESHES)
def test_lists_and_edges(name: str, implementation: str) -> None:
    points, faces = MESHES[name]()
    links = link(faces, len(points) + 1, implementation=implementation)
    corners, edges = defaultdict(set), defaultdict(list)
    for f, face in enumerate(faces.tolist()):
        for c in range(3):
            corners[face[c]].add(3 * f + c)
            edges[frozenset((face[c], face[(c + 1) % 3]))].append(3 * f + c)
    for vertex in range(len(points) + 1):
        found, corner = [], int(links.head[vertex])
        while corner >= 0:
            found.append(corner)
            corner = int(links.following[corner])
        assert set(found) == corners[vertex]
        assert len(found) == len(corners[vertex])
        assert (found or [-1])[-1] == links.tail[vertex]
    rising = sorted((min(halves), len(halves), edge) for edge, halves in edges.items())
    assert links.halves.tolist() == [half for half, _, _ in rising]
    assert links.faces_at.tolist() == [count for _, count, _ in rising]
    border = {vertex for _, count, edge in rising if count != 2 for vertex in edge}
    assert set(torch.nonzero(links.border)[:, 0].tolist()) == border


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", MESHES)
def test_quadrics_measure_the_planes_around_a_vertex(name: str, implementation: str) -> None:
    points, faces = MESHES[name]()
    found = plane_quadrics(points, faces, pull=0.01, implementation=implementation)
    expected = torch.zeros(len(points), 3, 3, dtype=torch.float64)
    for face in faces.long():
        p = points[face].double()
        cross = torch.linalg.cross(p[1] - p[0], p[2] - p[0])
        long = cross.norm()
        for vertex in face:
            expected[vertex] += long / 6 * (torch.outer(cross, cross) / long**2 + 0.01 * torch.eye(3))
    rows, columns = torch.triu_indices(3, 3)
    torch.testing.assert_close(found[:, :6].double(), expected[:, rows, columns], rtol=1e-5, atol=1e-6)
    assert not found[:, 6:].any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_empty(implementation: str) -> None:
    none = torch.zeros(0, 3)
    links = link(none.int(), 2, implementation=implementation)
    assert links.head.tolist() == [-1, -1]
    assert len(links.halves) == len(links.following) == 0
    assert plane_quadrics(none, none.int(), pull=0.0, implementation=implementation).shape == (0, 10)


@pytest.mark.gpu
@pytest.mark.parametrize("name", MESHES)
def test_the_same_on_the_gpu(name: str) -> None:
    points, faces = MESHES[name]()
    here, there = link(faces.cuda(), len(points)), link(faces, len(points))
    for field in ("border", "halves", "faces_at"):
        assert torch.equal(getattr(here, field).cpu(), getattr(there, field)), field
    found = plane_quadrics(points.cuda(), faces.cuda(), pull=0.01)
    torch.testing.assert_close(found.cpu(), plane_quadrics(points, faces, pull=0.01), rtol=1e-5, atol=1e-6)
    assert torch.equal(found, plane_quadrics(points.cuda(), faces.cuda(), pull=0.01))
