"""mesh_to_dual_grid: the fast path against the reference and the golden vectors."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from trellis_kernels.mesh_to_dual_grid import reference
from trellis_kernels.mesh_to_dual_grid.cpu import boundary_edges, weld_labels
from trellis_kernels.mesh_to_dual_grid.op import DualVoxels, GridBox, QefWeights, mesh_to_dual_grid

MESHES = (
    "cube",
    "icosphere",
    "hemisphere",
    "tee",
    "crossplanes",
    "torus",
    "thin",
    "degenerate",
    "gridaligned",
    "touching",
)
WEIGHTS = {
    "def": QefWeights(1.0, 1.0, 0.1),
    "call": QefWeights(1.0, 0.2, 0.01),
    "noface": QefWeights(0.0, 0.2, 0.01),
    "nobound": QefWeights(1.0, 0.0, 0.01),
    "face5": QefWeights(1.0, 0.2, 0.01),  # made with a face weight of 5, which the original takes for 1
}


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    folder = shared / "golden/geometry"
    names = ("mesh_to_dual_grid", "mesh_to_dual_grid_exact_derived")
    return {key: value for name in names for key, value in load_file(folder / f"{name}.safetensors").items()}


def soup(rng: np.random.Generator, faces: int, size: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Random triangles of about `size`, some sharing vertices, one degenerate, one partly outside the box."""
    centres = rng.uniform(-0.45, 0.45, (faces, 1, 3))
    vertices = (centres + rng.normal(0, size, (faces, 3, 3))).reshape(-1, 3).astype(np.float32)
    index = np.arange(faces * 3, dtype=np.int32).reshape(-1, 3)
    index[1::2, 0] = index[::2, 2][: len(index[1::2])]
    vertices[-1] += 0.6
    return torch.from_numpy(vertices), torch.from_numpy(np.concatenate([index, index[:1, [0, 1, 1]]]))


def lexicographic(coords: np.ndarray) -> np.ndarray:
    return np.lexsort((coords[:, 2], coords[:, 1], coords[:, 0]))


def same(a: DualVoxels, b: DualVoxels) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("cells", "size"), [((13, 9, 17), 0.1), ((7, 70, 5), 0.3), ((32, 32, 66), 0.02)])
@pytest.mark.parametrize("weights", ["def", "call", "noface", "nobound"])
def test_matches_reference(cells: tuple[int, int, int], size: float, weights: str) -> None:
    vertices, faces = soup(np.random.default_rng(7), 40, size)
    box = GridBox((-0.5, -0.45, -0.5), (0.5, 0.5, 0.6), cells)
    fast = mesh_to_dual_grid(vertices, faces, box, WEIGHTS[weights])
    slow = mesh_to_dual_grid(vertices, faces, box, WEIGHTS[weights], implementation="reference")
    assert torch.equal(fast.coords, slow.coords)
    assert torch.equal(fast.crossed, slow.crossed)
    torch.testing.assert_close(fast.dual, slow.dual, rtol=0, atol=2e-5)
    assert fast.coords.dtype == torch.int32
    assert len(fast.coords) > 20


@pytest.mark.parametrize("beyond", [-0.1, -0.5, -0.99, -1.01, 8.0, 8.01, 8.5])
def test_just_outside_the_box(beyond: float) -> None:
    """A square across one axis, by its place in voxels."""
    for axis in range(3):
        square = np.array([[beyond, 1.3, 1.4], [beyond, 6.6, 1.2], [beyond, 6.7, 6.8], [beyond, 1.6, 6.4]])
        vertices = torch.from_numpy(np.roll(square / 8 - 0.5, axis, axis=1).astype(np.float32))
        faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
        fast = mesh_to_dual_grid(vertices, faces, GridBox.cube(8))
        slow = mesh_to_dual_grid(vertices, faces, GridBox.cube(8), implementation="reference")
        assert torch.equal(fast.coords, slow.coords)
        assert torch.equal(fast.crossed, slow.crossed)
        assert (len(fast.coords) > 0) == (-1 < beyond < 0)


def test_nothing_in_nothing_out() -> None:
    none = torch.empty(0, 3)
    for implementation in ("cpu", "reference"):
        out = mesh_to_dual_grid(none, none.int(), GridBox.cube(8), implementation=implementation)
        assert [tuple(t.shape) for t in out] == [(0, 3)] * 3
    far = mesh_to_dual_grid(torch.eye(3) + 5, torch.tensor([[0, 1, 2]]), GridBox.cube(8))
    assert len(far.coords) == 0


def test_result_does_not_depend_on_slabs_or_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    vertices, faces = soup(np.random.default_rng(3), 200, 0.2)
    whole = mesh_to_dual_grid(vertices, faces, GridBox.cube(64))
    monkeypatch.setattr("trellis_kernels.mesh_to_dual_grid.cpu.SLAB_BYTES", 64 * 8 * 5)
    assert same(whole, mesh_to_dual_grid(vertices, faces, GridBox.cube(64)))
    assert same(whole, mesh_to_dual_grid(vertices, faces, GridBox.cube(64), workers=3))


def test_welding_removes_seams_only() -> None:
    quad = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 1, 0], [-0.0, 0, 0]], np.float32)
    faces = np.array([[0, 1, 2], [5, 4, 3]], np.int32)
    labels = weld_labels(quad)
    assert labels.tolist() == [0, 1, 2, 3, 2, 0]
    assert boundary_edges(labels, faces).tolist() == [[0, 1], [0, 3], [1, 2], [2, 3]]
    assert len(boundary_edges(np.arange(6, dtype=np.int32), faces)) == 6


def test_boundary_of_a_fan_around_one_vertex() -> None:
    """A vertex with more edges than are sorted by insertion alone."""
    rng = np.random.default_rng(4)
    ring = rng.permutation(np.arange(1, 401))
    fan = np.stack([np.zeros(300, int), ring[:300], ring[1:301]], axis=1)
    uses = Counter(tuple(sorted((face[e], face[(e + 1) % 3]))) for face in fan.tolist() for e in range(3))
    expected = sorted([a, b] for (a, b), count in uses.items() if count == 1)
    assert boundary_edges(np.arange(401, dtype=np.int32), fan.astype(np.int32)).tolist() == expected
    assert len(expected) == 302


def test_split_vertices_change_nothing_when_welded() -> None:
    rng = np.random.default_rng(0)
    vertices = torch.from_numpy(rng.uniform(-0.4, 0.4, (12, 3)).astype(np.float32))
    faces = torch.from_numpy(rng.permuted(np.tile(np.arange(12), (8, 1)), axis=1)[:, :3].astype(np.int32))
    loose = vertices[faces.reshape(-1).long()], torch.arange(24).reshape(-1, 3)
    joined = mesh_to_dual_grid(vertices, faces, GridBox.cube(24))
    torch.testing.assert_close(mesh_to_dual_grid(*loose, GridBox.cube(24)).dual, joined.dual, rtol=0, atol=1e-6)
    assert not torch.allclose(mesh_to_dual_grid(*loose, GridBox.cube(24), weld=False).dual, joined.dual, atol=1e-3)


@pytest.mark.parametrize("mistake", ["shape", "nan", "index", "implementation"])
def test_mistakes_are_named(mistake: str) -> None:
    vertices, faces, chosen = torch.rand(3, 3), torch.tensor([[0, 1, 2]]), "auto"
    if mistake == "shape":
        faces = faces[0]
    elif mistake == "nan":
        vertices[1, 1] = float("nan")
    elif mistake == "index":
        faces = faces + 1
    else:
        chosen = "quick"
    with pytest.raises(ValueError, match=r"expected|finite|do not fit|choose"):
        mesh_to_dual_grid(vertices, faces, GridBox.cube(8), implementation=chosen)


@pytest.mark.parametrize("resolution", [16, 32, 64])
@pytest.mark.parametrize("mesh", MESHES)
def test_golden(golden: dict[str, np.ndarray], mesh: str, resolution: int) -> None:
    vertices, faces = (torch.from_numpy(golden[f"{mesh}.{part}"]) for part in ("vertices", "faces"))
    coords = golden[f"{mesh}.{resolution}.coords"].astype(np.int32)
    order = lexicographic(coords)
    for name, weights in WEIGHTS.items():
        expected = golden.get(f"{mesh}.{resolution}.dual.{name}")
        if expected is None:
            continue
        out = mesh_to_dual_grid(vertices, faces, GridBox.cube(resolution), weights, weld=False)
        assert np.array_equal(out.coords.numpy(), coords[order])
        assert np.array_equal(out.crossed.numpy() @ [1, 2, 4], golden[f"{mesh}.{resolution}.flags"][order])
        error = np.abs(out.dual.numpy() - (expected * np.float64(resolution) - coords)[order]).max(1)
        assert np.quantile(error, 0.99) < (1e-4 if name == "def" else 8e-4) * max(resolution / 32, 1)
        assert (error > 1e-2).mean() <= 0.005
        assert resolution > 32 or error.max() < 0.1
        exact = golden.get(f"{mesh}.{resolution}.local_exact.{name}")
        if exact is not None:
            np.testing.assert_allclose(out.dual.numpy(), exact[order], rtol=0, atol=2e-5)


@pytest.mark.parametrize("mesh", ["torus", "hemisphere"])
def test_golden_without_regularisation_has_as_small_an_error(golden: dict[str, np.ndarray], mesh: str) -> None:
    """Flat regions leave the point free, so the errors are compared, in squared voxels."""
    vertices, faces, box = golden[f"{mesh}.vertices"], golden[f"{mesh}.faces"], GridBox.cube(32)
    coords = golden[f"{mesh}.32.coords"].astype(np.int32)
    out = mesh_to_dual_grid(
        torch.from_numpy(vertices), torch.from_numpy(faces), box, QefWeights(1.0, 0.2, 0.0), weld=False
    )
    shifted, cells = vertices + np.float32(0.5), np.array(box.cells)
    A, b, _ = reference.quadrics(shifted, faces, box.step, cells, (1.0, 0.2, 0.0), weld=False)

    def errors(coords: np.ndarray, local: np.ndarray) -> np.ndarray:
        placed = zip(map(tuple, coords.tolist()), local / 32.0, strict=True)
        return np.array([x @ A[cell] @ x - 2 * b[cell] @ x for cell, x in placed]) * 32**2

    order = lexicographic(coords)
    assert np.array_equal(out.coords.numpy(), coords[order])
    expected = errors(coords, golden[f"{mesh}.32.dual.noreg"] * 32.0 - coords)[order]
    more = expected - errors(out.coords.numpy(), out.dual.numpy().astype(np.float64))
    assert more.min() > -1e-9  # never a larger error than the original's
    assert more.max() < 1e-3


@pytest.mark.parametrize(
    ("case", "box"),
    [
        ("aniso", GridBox((-0.5, -0.4, -0.3), (0.5, 0.4, 0.3), (40, 28, 20))),
        ("aniso_vs", GridBox.of_voxels((-0.51, -0.39, -0.3), (0.51, 0.39, 0.3), 0.03)),
    ],
)
def test_golden_uneven_grid(golden: dict[str, np.ndarray], case: str, box: GridBox) -> None:
    source = "aniso" if f"{case}.vertices" not in golden else case
    vertices, faces = (torch.from_numpy(golden[f"{source}.{part}"]) for part in ("vertices", "faces"))
    coords = golden[f"{case}.coords"].astype(np.int32)
    order = lexicographic(coords)
    out = mesh_to_dual_grid(vertices, faces, box, weld=False)
    assert np.array_equal(out.coords.numpy(), coords[order])
    assert np.array_equal(out.crossed.numpy() @ [1, 2, 4], golden[f"{case}.flags"][order])
    error = np.abs(out.dual.numpy() - (golden[f"{case}.dual.call"] / box.step - coords)[order]).max(1)
    shifted, cells = vertices.numpy() - np.array(box.low, np.float32), np.array(box.cells)
    tied = tied_voxels(shifted, faces.numpy(), box.step, cells)
    free = np.array([tuple(cell) not in tied for cell in out.coords.tolist()])
    assert free.mean() > 0.9
    assert np.quantile(error[free], 0.99) < 8e-4
    assert (error[free] > 1e-2).mean() <= 0.005
    assert error[free].max() < 0.1


def tied_voxels(vertices: np.ndarray, faces: np.ndarray, step: np.ndarray, cells: np.ndarray) -> set[tuple[int, ...]]:
    """Voxels that a triangle meets in exact arithmetic but not in float32, or the other way round (spec 1.4)."""
    tied: set[tuple[int, ...]] = set()
    for face in faces:
        triangle = vertices[face].astype(np.float64)
        exact = reference.overlapped(triangle, reference.plane(triangle)[0], step.astype(np.float64), cells)
        tied |= set(exact) ^ overlapped_in_float32(vertices[face], step, cells)
    return tied


def overlapped_in_float32(triangle: np.ndarray, h: np.ndarray, cells: np.ndarray) -> set[tuple[int, ...]]:
    """The original's overlap test in its own precision and order of operations (spec 1.4)."""
    edges, nothing = np.roll(triangle, -1, axis=0) - triangle, np.float32(0)
    normal = np.cross(edges[0], edges[1])
    normal /= np.sqrt((normal * normal).sum(dtype=np.float32))
    first = np.maximum((triangle.min(0) / h).astype(int), 0)
    last = np.minimum((triangle.max(0) / h + np.float32(1)).astype(int), cells) - 1
    found = np.stack(np.meshgrid(*map(np.arange, first, last + 1), indexing="ij"), -1).reshape(-1, 3)
    p, far = found.astype(np.float32) * h, np.where(normal > 0, h, nothing)

    def along(v: np.ndarray) -> np.ndarray:
        return normal[0] * v[..., 0] + normal[1] * v[..., 1] + normal[2] * v[..., 2]

    meets = (along(p) + along(far - triangle[0])) * (along(p) + along(h - far - triangle[0])) <= 0
    for u, w, other in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        sign = np.float32(-1 if normal[other] < 0 else 1)
        for start, edge in zip(triangle, edges, strict=True):
            a, b = -sign * edge[w], sign * edge[u]
            reach = -(a * start[u] + b * start[w]) + max(nothing, a * h[u]) + max(nothing, b * h[w])
            meets &= a * p[:, u] + b * p[:, w] + reach >= 0
    return set(map(tuple, found[meets].tolist()))


def test_golden_1024_patches(shared: Path) -> None:
    patches = load_file(shared / "golden/geometry/mesh_to_dual_grid_1024_patch.safetensors")
    names = sorted(key.removesuffix(".vertices") for key in patches if key.endswith(".vertices"))
    assert len(names) == 4
    for name in names:
        vertices, faces = (torch.from_numpy(patches[f"{name}.{part}"]) for part in ("vertices", "faces"))
        coords = patches[f"{name}.coords"].astype(np.int32)
        order = lexicographic(coords)
        out = mesh_to_dual_grid(vertices, faces, GridBox.cube(1024), weld=False)
        assert np.array_equal(out.coords.numpy(), coords[order])
        assert np.array_equal(out.crossed.numpy() @ [1, 2, 4], patches[f"{name}.flags"][order])
        error = np.abs(out.dual.numpy() - patches[f"{name}.local_exact_fp64"][order]).max(1)
        assert (error > 1e-3).mean() <= 0.005
        original = patches[f"{name}.dual_original_fp32"] * np.float64(1024) - coords
        assert np.median(np.abs(out.dual.numpy() - original[order]).max(1)) < 0.01  # its float32 sums are that noisy
