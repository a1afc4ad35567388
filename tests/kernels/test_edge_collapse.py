"""Rounds of edge collapses: the picked edges are apart, refusals are right, every implementation does the same."""

import os

import pytest
import torch
from trellis_kernels.edge_collapse.op import (
    NEVER,
    CollapseMesh,
    Verdict,
    edge_keys,
    examine,
    independent_edges,
    merge,
    unit_normals,
)
from trellis_kernels.mesh_links.op import link, plane_quadrics

from tests.kernels.test_mesh_links import MESHES, bumpy_ball, sheet

IMPLEMENTATIONS = ["reference"] if os.environ.get("TRITON_INTERPRET") != "1" else ["triton"]


def collapsible(points: torch.Tensor, faces: torch.Tensor) -> CollapseMesh:
    """The state before the first round."""
    links = link(faces, len(points), implementation="reference")
    ends = torch.stack([faces.view(-1)[links.halves], faces[:, [1, 2, 0]].reshape(-1)[links.halves]], dim=1)
    quadrics = plane_quadrics(points, faces, pull=1e-4, implementation="reference")
    return CollapseMesh(
        points.clone(), quadrics, links.border, faces.clone(), unit_normals(points, faces),
        torch.ones(len(faces), dtype=torch.bool),
        links.head, links.tail, links.following, ends, torch.zeros(len(ends), dtype=torch.int8),
    )  # fmt: skip


def play_round(mesh: CollapseMesh, limit: int, implementation: str) -> tuple[torch.Tensor, torch.Tensor, Verdict]:
    """(keys, picked edges, verdict) of one round that is carried out."""
    _, keys = edge_keys(mesh, implementation=implementation)
    picked = independent_edges(mesh, keys, limit, implementation=implementation)
    verdict = examine(mesh, picked, implementation=implementation)
    mesh.refused[picked] += (verdict.vanishing == 0).to(torch.int8)
    allowed = verdict.vanishing > 0
    fits = Verdict(verdict.vanishing[allowed], verdict.points[allowed], verdict.quadrics[allowed])
    merge(mesh, picked[allowed], fits, implementation=implementation)
    return keys, picked, verdict


def living(mesh: CollapseMesh) -> torch.Tensor:
    return mesh.faces[mesh.alive]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", MESHES)
def test_the_same_rounds_as_the_reference(name: str, implementation: str) -> None:
    here, there = collapsible(*MESHES[name]()), collapsible(*MESHES[name]())
    for _ in range(4):
        limit = int(edge_keys(there, implementation="reference")[1].sort().values[len(there.edges) // 2])
        keys, picked, verdict = play_round(here, limit, implementation)
        expected_keys, expected_picked, expected = play_round(there, limit, "reference")
        assert (keys == expected_keys).float().mean() > 0.99  # a cost on the verge of a step may fall to either side
        assert torch.equal(picked, expected_picked)
        assert torch.equal(verdict.vanishing, expected.vanishing)
        torch.testing.assert_close(verdict.points, expected.points, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(verdict.quadrics, expected.quadrics, rtol=1e-4, atol=1e-4)
        for field in ("border", "faces", "alive", "edges", "refused"):
            assert torch.equal(getattr(here, field), getattr(there, field)), field


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_picked_edges_are_apart_and_some_always_win(implementation: str) -> None:
    mesh = collapsible(*bumpy_ball())
    keys = edge_keys(mesh, implementation=implementation)[1]
    picked = independent_edges(mesh, keys, NEVER - 1, implementation=implementation)
    assert int(keys.argmin()) in picked.tolist()
    near = torch.eye(len(mesh.points), dtype=torch.bool)
    near[mesh.edges[:, 0].long(), mesh.edges[:, 1].long()] = True
    near |= near.T.clone()
    ends = mesh.edges[picked].long()
    for i in range(len(picked)):
        for j in range(i):
            assert not near[ends[i][:, None], ends[j][None]].any()
    assert len(independent_edges(mesh, keys, -1, implementation=implementation)) == 0


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_ball_shrinks_to_a_closed_ball(implementation: str) -> None:
    mesh = collapsible(*bumpy_ball(1))
    for _ in range(12):
        play_round(mesh, NEVER - 1, implementation)
    faces = living(mesh)
    links = link(faces, len(mesh.points))
    assert len(faces) < 40
    assert (links.faces_at == 2).all()
    used = len(faces.unique())
    assert used - len(links.halves) + len(faces) == 2
    p = mesh.points[faces.long()]
    assert torch.linalg.det(p).sum() > 0


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_links_and_borders_refuse(implementation: str) -> None:
    """A tetrahedron, the waist of two balls joined in a triangle, and an edge between two borders stay."""
    tetrahedron = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]], dtype=torch.int32)
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    mesh = collapsible(corners, tetrahedron)
    assert not examine(mesh, torch.arange(len(mesh.edges)), implementation=implementation).vanishing.any()
    waist = torch.tensor([[0, 1, 3], [1, 2, 3], [2, 0, 3], [1, 0, 4], [2, 1, 4], [0, 2, 4]], dtype=torch.int32)
    mesh = collapsible(torch.cat([corners, -corners[3:]]), waist)
    ring = torch.nonzero((mesh.edges < 3).all(1))[:, 0]
    assert len(ring) == 3
    assert not examine(mesh, ring, implementation=implementation).vanishing.any()
    points, strip = sheet(3)
    mesh = collapsible(points, strip)
    across = torch.nonzero(mesh.border[mesh.edges.long()].all(1))[:, 0]
    faces_at = link(strip, len(points)).faces_at
    vanishing = examine(mesh, across, implementation=implementation).vanishing
    assert not vanishing[faces_at[across] == 2].any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_no_face_turns_away_from_its_first_normal(implementation: str) -> None:
    mesh = collapsible(*bumpy_ball())
    every = torch.arange(len(mesh.edges))
    before = examine(mesh, every, implementation=implementation).vanishing
    mesh.ahead[0] *= -1  # as if many small turns had turned it over
    after = examine(mesh, every, implementation=implementation).vanishing
    at_face = torch.isin(mesh.edges, mesh.faces[0]).any(1)
    dies = torch.isin(mesh.edges, mesh.faces[0]).all(1)
    assert before[at_face & ~dies].any()
    assert not after[at_face & ~dies].any()
    assert torch.equal(after[~at_face | dies], before[~at_face | dies])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_nothing_to_do(implementation: str) -> None:
    mesh = collapsible(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int32))
    keys, picked, verdict = play_round(mesh, NEVER - 1, implementation)
    assert len(keys) == len(picked) == len(verdict.vanishing) == 0
    mesh = collapsible(*sheet(4))
    mesh.refused[:] = 4
    cost, keys = edge_keys(mesh, implementation=implementation)
    assert (keys == NEVER).all()
    assert torch.isinf(cost).all()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["ball", "sheet"])
def test_the_same_rounds_on_the_gpu(name: str) -> None:
    there = collapsible(*MESHES[name]())
    here = CollapseMesh(**{field: value.cuda() for field, value in vars(collapsible(*MESHES[name]())).items()})
    for _ in range(3):
        _, picked, verdict = play_round(here, NEVER - 1, "triton")
        _, expected_picked, expected = play_round(there, NEVER - 1, "reference")
        assert torch.equal(picked.cpu(), expected_picked)
        assert torch.equal(verdict.vanishing.cpu(), expected.vanishing)
        torch.testing.assert_close(verdict.points.cpu(), expected.points, rtol=1e-3, atol=1e-3)
        for field in ("border", "faces", "alive", "edges", "refused"):
            assert torch.equal(getattr(here, field).cpu(), getattr(there, field)), field
