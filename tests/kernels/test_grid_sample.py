"""Sampling against a loop over voxels and the golden vectors."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trellis_kernels.grid_sample.op import grid_sample_3d

from tests.kernels.test_voxel_index import IMPLEMENTATIONS, random_voxels


def flat(query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, L, 3] -> [B*L, 3] and the batch item of each."""
    return query.reshape(-1, 3), torch.arange(query.shape[0]).repeat_interleave(query.shape[1])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_golden(shared: Path, implementation: str) -> None:
    golden = load_file(shared / "golden/geometry/grid_sample_3d.safetensors")
    query, batch = flat(golden["query"])
    for mode, name in (("trilinear", "trilinear"), ("nearest", "nearest"), ("trilinear", "trilinear_kernel_rule")):
        found = grid_sample_3d(
            golden["feats"], golden["coords"], (12, 9, 10), query, batch=batch, mode=mode, implementation=implementation
        )
        torch.testing.assert_close(found, golden[name].view(-1, 6), rtol=0, atol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_golden_outside(shared: Path, implementation: str) -> None:
    golden = load_file(shared / "golden/geometry/grid_sample_3d.safetensors")
    query, _ = flat(golden["outside.query"])
    found = grid_sample_3d(
        golden["outside.feats"], golden["outside.coords"], (12, 9, 10), query, implementation=implementation
    )
    torch.testing.assert_close(found, golden["outside.trilinear_kernel_rule"].view(-1, 6), rtol=0, atol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("count", "points"), [(0, 5), (1, 0), (400, 501)])
def test_fallback_takes_the_nearest_centre(implementation: str, count: int, points: int) -> None:
    torch.manual_seed(count)
    coords = random_voxels(count, 24, 2, seed=count)
    feats, query = torch.rand(len(coords), 3) + 1, torch.rand(points, 3) * 30 - 3
    batch = torch.randint(0, 3, (points,))
    found = grid_sample_3d(
        feats, coords, (24,) * 3, query, batch=batch, fallback_to_nearest=True, implementation=implementation
    )
    plain = grid_sample_3d(feats, coords, (24,) * 3, query, batch=batch, implementation="reference")
    for i in range(points):
        mine = coords[:, 0] == batch[i]
        expected = plain[i]
        if mine.any() and not plain[i].any():
            distance = (coords[mine][:, 1:] + 0.5 - query[i]).square().sum(1)
            expected = feats[mine][distance.argmin()]
        torch.testing.assert_close(found[i], expected)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gradient_is_the_scattered_weights(implementation: str, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    coords, query = random_voxels(300, 8, 1, seed=2), torch.rand(77, 3) * 8
    feats = torch.rand(len(coords), 5).to(dtype).requires_grad_()
    one_hot = torch.eye(len(coords))
    weights = grid_sample_3d(one_hot, coords, (8, 8, 8), query, implementation="reference")
    out = grid_sample_3d(feats, coords, (8, 8, 8), query, implementation=implementation)
    assert out.dtype == dtype
    grad = torch.rand(out.shape).to(dtype)
    (found,) = torch.autograd.grad(out, feats, grad)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(out.float(), weights @ feats.detach().float(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.float(), weights.T @ grad.float(), rtol=tolerance, atol=tolerance)


def test_says_what_it_expects() -> None:
    feats, coords = torch.rand(2, 3), torch.zeros(2, 4, dtype=torch.int32)
    with pytest.raises(ValueError, match="mode must be"):
        grid_sample_3d(feats, coords, (4, 4, 4), torch.rand(1, 3), mode="cubic")
    with pytest.raises(ValueError, match="query must be"):
        grid_sample_3d(feats, coords, (4, 4, 4), torch.rand(1, 2))
