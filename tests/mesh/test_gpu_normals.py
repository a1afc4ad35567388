"""Split vertices, normals, tangents and health as tensor operations are those of the compiled loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from tests.voxel_shapes import ball, ring, surface_of
from trellis_app.mesh.gpu import health as gpu_health
from trellis_app.mesh.gpu import normals as gpu_normals
from trellis_app.mesh.gpu.charts import half_edge_partners
from trellis_app.mesh.health import report
from trellis_app.mesh.normals import SplitSurface, crease_normals, split_surface
from trellis_app.mesh.surface import Surface
from trellis_app.mesh.tangents import vertex_tangents
from trellis_app.mesh.unwrap import unwrap
from trellis_app.types import Mesh

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def rough() -> Surface:
    """A crumpled ball with a hole, a second sheet at an edge, a face wound the wrong way, a needle and a tip."""
    surface = surface_of(ball(subdivisions=3))
    vertices = surface.vertices + np.random.default_rng(0).normal(0, 0.01, surface.vertices.shape).astype(np.float32)
    faces = surface.faces[5:].copy()
    faces[100] = faces[100, ::-1]
    a, b, c = faces[300]
    tips = vertices[[a]] + np.float32([[0.1, 0, 0], [0, 0.1, 0]])
    fresh = len(vertices)
    more = [[a, b, fresh], [faces[400, 0], fresh, fresh + 1], [a, a, c]]
    return Surface(np.concatenate([vertices, tips, tips]), np.concatenate([faces, more]).astype(np.int32))


def boxes() -> Surface:
    """Two sharp boxes apart, one within the other's side of the world."""
    two = trimesh.util.concatenate(
        [trimesh.creation.box().subdivide(), trimesh.creation.box().apply_translation((3, 0, 0))]
    )
    return surface_of(two)


SHAPES = {"ball": lambda: surface_of(ball()), "ring": lambda: surface_of(ring()), "boxes": boxes, "rough": rough}


def mesh_of(surface: Surface, device: str) -> Mesh:
    return Mesh(torch.from_numpy(surface.vertices).to(device), torch.from_numpy(surface.faces).to(device))


def split_on(device: str, surface: Surface, uvs: np.ndarray) -> gpu_normals.SplitMesh:
    mesh = mesh_of(surface, device)
    return gpu_normals.split_mesh(mesh, half_edge_partners(mesh.faces), torch.from_numpy(uvs).to(device))


def unwrapped(name: str) -> tuple[Surface, np.ndarray]:
    surface = SHAPES[name]()
    return surface, unwrap(surface, texture_size=256).uvs


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SHAPES)
def test_split_vertices_and_normals_are_the_serial_ones(name: str, device: str) -> None:
    surface, uvs = unwrapped(name)
    serial, parallel = split_surface(surface, uvs), split_on(device, surface, uvs).on_cpu()
    for field in ("vertices", "faces", "uvs"):
        np.testing.assert_array_equal(getattr(parallel, field), getattr(serial, field))
    np.testing.assert_allclose(parallel.normals, serial.normals, atol=1e-5)
    again = split_on(device, surface, uvs)
    assert again.normals.cpu().numpy().tobytes() == parallel.normals.tobytes()


@pytest.mark.parametrize("degrees", [10.0, 100.0])
def test_the_limit_counts_as_in_the_serial_one(degrees: float) -> None:
    surface = boxes()
    mesh = mesh_of(surface, "cpu")
    groups, normals = crease_normals(surface, crease_degrees=degrees)
    found = gpu_normals.crease_normals(mesh, half_edge_partners(mesh.faces), crease_degrees=degrees)
    np.testing.assert_array_equal(found[0].numpy().reshape(-1, 3), groups)
    np.testing.assert_allclose(found[1].numpy(), normals, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SHAPES)
def test_tangents_are_the_serial_ones(name: str, device: str) -> None:
    surface, uvs = unwrapped(name)
    split = split_on(device, surface, uvs)
    parallel, arrays = gpu_normals.vertex_tangents(split).cpu().numpy(), split.on_cpu()
    serial = vertex_tangents(arrays.vertices, arrays.faces, arrays.normals, arrays.uvs)
    np.testing.assert_allclose(parallel, serial, atol=1e-5)


def test_tangents_are_unit_and_across_the_normal_whatever_comes() -> None:
    random = np.random.default_rng(0)
    normals = random.normal(size=(60, 3))
    normals = (normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32)
    arrays = SplitSurface(
        random.normal(size=(60, 3)).astype(np.float32),
        random.integers(0, 50, (80, 3)).astype(np.int32),  # degenerate faces and unused vertices among them
        normals,
        random.random((60, 2), dtype=np.float32),
    )
    for given in (arrays, replace(arrays, uvs=np.zeros_like(arrays.uvs)), replace(arrays, faces=arrays.faces[:0])):
        split = gpu_normals.SplitMesh(*map(torch.from_numpy, (given.vertices, given.faces, given.normals, given.uvs)))
        tangents = gpu_normals.vertex_tangents(split).numpy()
        np.testing.assert_allclose(tangents, vertex_tangents(*vars(given).values()), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(tangents[:, :3], axis=1), 1, atol=1e-6)
        np.testing.assert_allclose((tangents[:, :3] * normals).sum(axis=1), 0, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [*SHAPES, "empty"])
def test_health_counts_what_the_serial_one_counts(name: str, device: str) -> None:
    surface = SHAPES[name]() if name in SHAPES else Surface(np.zeros((2, 3), np.float32), np.zeros((0, 3), np.int32))
    found = gpu_health.report(mesh_of(surface, device))
    assert found == report(surface.vertices, surface.faces)
    if name == "rough":
        assert min(found.boundary_edges, found.non_manifold_edges, found.inconsistent_edges) > 0
        assert min(found.boundary_loops - 1, found.non_manifold_vertices) > 0
