"""Sparse convolutions against the readable reference, dense conv3d and the golden vectors."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trellis_kernels.neighbour_map.op import neighbour_map
from trellis_kernels.sparse_conv.op import children_conv3d, sparse_conv3d, submanifold_conv3d
from trellis_kernels.sparse_conv.plan import plan_conv
from trellis_kernels.sparse_conv.reference import strided_map

from tests.kernels.test_voxel_index import random_voxels

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
IMPLEMENTATIONS = ["triton"] if INTERPRETED else ["torch", "cpu"]
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 2e-6,
    torch.float16: 2e-3,
    torch.bfloat16: 1.5e-2,
}  # of the largest value


def close(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    assert found.shape == expected.shape
    if expected.numel():
        error = (found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp_min(1e-6)
        assert error <= TOLERANCE[dtype]


def case(count: int, inputs: int, outputs: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """neighbours, feats, weight, bias, gradient."""
    torch.manual_seed(count + inputs)
    coords = random_voxels(count, 3 + count // 150, 2, seed=count)
    shapes = [(len(coords), inputs), (outputs, 3, 3, 3, inputs), (outputs,), (len(coords), outputs)]
    return [neighbour_map(coords), *(torch.randn(shape).to(dtype) for shape in shapes)]


def gradients(
    inputs: list[torch.Tensor], neighbours: torch.Tensor, grad: torch.Tensor, implementation: str
) -> list[torch.Tensor]:
    """Output and gradients to feats, weight, bias."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    out = submanifold_conv3d(*leaves, neighbours, implementation=implementation)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("count", "inputs", "outputs"), [(0, 4, 8), (1, 3, 5), (211, 16, 16), (700, 6, 33), (900, 96, 64)]
)
def test_matches_the_reference(implementation: str, dtype: torch.dtype, count: int, inputs: int, outputs: int) -> None:
    if INTERPRETED and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies bfloat16 as integers")
    neighbours, feats, weight, bias, grad = case(count, inputs, outputs, dtype)
    exact = [tensor.double() for tensor in (feats, weight, bias)]
    expected = gradients(exact, neighbours, grad.double(), "reference")
    found = gradients([feats, weight, bias], neighbours, grad, implementation)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        close(one, other, dtype)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("count", "inputs", "outputs"), [(0, 8, 16), (1, 3, 8), (150, 6, 24)])
def test_children(implementation: str, dtype: torch.dtype, count: int, inputs: int, outputs: int) -> None:
    neighbours, feats, weight, bias, _ = case(count, inputs, outputs * 8, dtype)
    slots = torch.nonzero(torch.rand(len(feats) * 8) < 0.4)[:, 0]
    wide = submanifold_conv3d(feats.double(), weight.double(), bias.double(), neighbours, implementation="reference")
    expected = wide.view(-1, outputs)[slots]
    plan = plan_conv(neighbours)
    for added in (bias, None):
        found = children_conv3d(feats, weight, added, plan, slots, implementation=implementation)
        assert found.dtype == dtype
        close(found, expected if added is not None else expected - bias.double().view(8, -1)[slots % 8], dtype)
    shuffled = slots[torch.randperm(len(slots))]  # fine rows in another order, as an encoder records them
    found = children_conv3d(feats, weight, bias, plan, shuffled, implementation=implementation)
    close(found, wide.view(-1, outputs)[shuffled], dtype)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("part", [slice(0, 100), slice(100, 101), slice(50, 50)])
def test_some_rows(implementation: str, part: slice) -> None:
    neighbours, feats, weight, bias, _ = case(300, 16, 24, torch.float32)
    whole = submanifold_conv3d(feats, weight, bias, neighbours, implementation=implementation)
    found = submanifold_conv3d(feats, weight, bias, neighbours[part], implementation=implementation)
    close(found, whole[part], torch.float32)


@pytest.mark.skipif(not INTERPRETED, reason="runs in Triton's interpreter: see test_triton.py")
@pytest.mark.parametrize("parts", [1, 3, 9])
@pytest.mark.parametrize(("count", "inputs", "outputs"), [(1, 3, 5), (300, 16, 24)])
def test_triton_in_parts(parts: int, count: int, inputs: int, outputs: int) -> None:
    """Forward, both gradients and children, the kernel offsets taken in parts with row orders of their own."""
    from trellis_kernels.sparse_conv import triton

    neighbours, feats, weight, bias, grad = case(count, inputs, outputs * 8, torch.float16)
    plan, stored = plan_conv(neighbours), weight.flatten(1, 3)
    tile = triton.Tile(64, 32, 16, 4, 2, parts)
    expected = gradients([tensor.double() for tensor in (feats, weight, bias)], neighbours, grad.double(), "reference")
    close(triton.forward(feats, stored, bias, plan, tile), expected[0], torch.float16)
    close(triton.forward(grad, stored, None, plan, tile, mirrored=True), expected[1], torch.float16)
    close(triton.weight_gradient(feats, grad, plan, tile).view(weight.shape), expected[2], torch.float16)
    slots = torch.randperm(len(feats) * 8)[: len(feats) * 3]
    found = triton.children_forward(feats, stored, bias, plan, slots, tile)
    close(found, expected[0].view(-1, outputs)[slots], torch.float16)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_is_conv3d_where_every_voxel_is_active(implementation: str) -> None:
    torch.manual_seed(0)
    coords = torch.nonzero(torch.ones(2, 5, 6, 7)).to(torch.int32)
    feats, weight = torch.randn(len(coords), 8), torch.randn(12, 3, 3, 3, 8)
    dense = feats.view(2, 5, 6, 7, 8).permute(0, 4, 1, 2, 3)
    expected = torch.nn.functional.conv3d(dense, weight.permute(0, 4, 1, 2, 3), padding=1)
    found = submanifold_conv3d(feats, weight, None, plan_conv(neighbour_map(coords)), implementation=implementation)
    close(found, expected.permute(0, 2, 3, 4, 1).reshape(-1, 12), torch.float32)


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
@pytest.mark.parametrize("dilation", [1, 2])
def test_golden(shared: Path, implementation: str, dilation: int) -> None:
    golden = load_file(shared / "golden/geometry/submanifold_conv3d.safetensors")
    get = lambda name: golden[f"d{dilation}.{name}"]  # noqa: E731
    inputs = [golden["feats"], get("weight"), get("bias")]
    found = gradients(inputs, get("neighbor_map"), get("grad_out"), implementation)
    for one, name in zip(found, ("out", "grad_in", "grad_w", "grad_b"), strict=True):
        torch.testing.assert_close(one, get(name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "stride", "padding"), [("k3s2p1", 2, 1), ("k2s2p0", 2, 0)])
def test_golden_strided(shared: Path, name: str, stride: int, padding: int) -> None:
    golden = load_file(shared / "golden/geometry/sparse_conv3d.safetensors")
    weight, bias = golden[f"{name}.weight"], golden[f"{name}.bias"]
    out, coords = sparse_conv3d(
        golden["feats"], golden["coords"], weight, bias, stride=stride, padding=padding, shape=(12, 9, 10)
    )
    assert torch.equal(coords, golden[f"{name}.out_coords"])
    neighbours = strided_map(golden["coords"], coords, weight.shape[1], stride, padding)
    assert torch.equal(neighbours, golden[f"{name}.neighbor_map"])
    torch.testing.assert_close(out, golden[f"{name}.out"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_under_autocast_everything_is_cast(implementation: str) -> None:
    neighbours, feats, weight, bias, grad = case(300, 16, 8, torch.float32)
    leaves = [tensor.requires_grad_() for tensor in (feats, weight, bias)]
    with torch.autocast("cpu", dtype=torch.float16):
        out = submanifold_conv3d(*leaves, neighbours, implementation=implementation)
    assert out.dtype == torch.float16
    found = torch.autograd.grad(out, leaves, grad.to(torch.float16))
    assert [tensor.dtype for tensor in found] == [torch.float32] * 3
    exact = [tensor.detach().double() for tensor in leaves]
    for one, other in zip(found, gradients(exact, neighbours, grad.double(), "reference")[1:], strict=True):
        close(one, other, torch.float16)


def test_repeats_itself_and_leaves_its_inputs_alone() -> None:
    neighbours, feats, weight, bias, _ = case(500, 32, 32, torch.float32)
    copies = [tensor.clone() for tensor in (feats, weight, bias, neighbours)]
    first = submanifold_conv3d(feats, weight, bias, neighbours)
    assert torch.equal(first, submanifold_conv3d(feats, weight, bias, plan_conv(neighbours)))
    assert all(torch.equal(a, b) for a, b in zip(copies, (feats, weight, bias, neighbours), strict=True))


def test_says_what_it_expects() -> None:
    neighbours, feats, weight, bias, _ = case(30, 4, 4, torch.float32)
    with pytest.raises(ValueError, match="expected feats"):
        submanifold_conv3d(feats[:, :3], weight, bias, neighbours)
    with pytest.raises(ValueError, match="expected neighbours"):
        submanifold_conv3d(feats, weight, bias, neighbours[:, :8])
    with pytest.raises(ValueError, match="cast one, or use autocast"):
        submanifold_conv3d(feats.half(), weight, bias, neighbours)
