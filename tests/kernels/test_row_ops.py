"""Row arithmetic against the reference: odd sizes, shared values, every dtype, empty input."""

import os

import pytest
import torch
from trellis_kernels.choice import TRITON
from trellis_kernels.row_ops import op, reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
SIZES = [(1, 16), (7, 48), (40, 64), (5, 1536), (12, 2050)]
needs_triton = pytest.mark.skipif(
    not (INTERPRETED or DEVICE.type == "cuda"), reason="needs an NVIDIA GPU or the interpreter of Triton"
)


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(DEVICE, dtype)


def same(ours: torch.Tensor | tuple, expected: torch.Tensor | tuple, dtype: torch.dtype) -> None:
    pairs = zip(ours, expected, strict=True) if isinstance(ours, tuple) else [(ours, expected)]
    for a, b in pairs:
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@needs_triton
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", SIZES)
def test_triton_norms(size: tuple[int, int], dtype: torch.dtype) -> None:
    x, weight, bias = draw(*size, dtype=dtype), draw(size[1], seed=1), draw(size[1], seed=2)
    for affine in ((weight, bias), (None, None)):
        for out in (dtype, torch.float32):
            ours = op.norm(x, *affine, 1e-6, out, implementation=TRITON)
            same(ours, reference.norm(x, *affine, 1e-6, out), dtype)
        ours = op.norm_silu(x, *affine, 1e-6, implementation=TRITON)
        same(ours, reference.norm_silu(x, *affine, 1e-6), dtype)


@needs_triton
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("serves", [1, 3, 6])
@pytest.mark.parametrize("count", [6, 12])
def test_triton_sums(count: int, serves: int, dtype: torch.dtype) -> None:
    """Values shared by 1, 3 or 6 rows, in rows that are wider apart than they are long."""
    channels = 80
    x, update = draw(count, channels, dtype=dtype), draw(count, channels, dtype=dtype, seed=1)
    gate, scale, shift = draw(count // serves, 4 * channels, dtype=dtype).chunk(4, dim=1)[:3]
    weight, bias = draw(channels, seed=3), draw(channels, seed=4)
    chosen = {"implementation": TRITON}
    same(op.modulated_norm(x, scale, shift, 1e-6, **chosen), reference.modulated_norm(x, scale, shift, 1e-6), dtype)
    same(op.gated_sum(x, gate, update, **chosen), reference.gated_sum(x, gate, update), dtype)
    ours = op.gated_sum_norm(x, gate, update, weight, bias, 1e-6, **chosen)
    same(ours, reference.gated_sum_norm(x, gate, update, weight, bias, 1e-6), dtype)
    for offset in (None, gate):
        ours = op.gated_sum_modulated_norm(x, gate, update, (scale, shift), 1e-6, offset, **chosen)
        same(ours, reference.gated_sum_modulated_norm(x, gate, update, (scale, shift), 1e-6, offset), dtype)
    for part in (update, gate):
        ours = op.sum_modulated_norm(x, part, scale, shift, 1e-6, **chosen)
        same(ours, reference.sum_modulated_norm(x, part, scale, shift, 1e-6), dtype)


@needs_triton
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("heads", "width"), [(12, 128), (3, 32), (4, 16), (1, 64)])
def test_triton_heads(heads: int, width: int, dtype: torch.dtype) -> None:
    qkv, angles = draw(9, 3, heads, width, dtype=dtype), draw(9, width // 2)
    qkv[4] = 0
    gamma, phases = draw(2, heads, width, seed=5), torch.stack([angles.cos(), angles.sin()], dim=2)
    same(op.norm_heads(qkv[:, 1], gamma[0], implementation=TRITON), reference.norm_heads(qkv[:, 1], gamma[0]), dtype)
    ours = op.norm_rotate(qkv[:, :2], gamma, phases, implementation=TRITON)
    same(ours, reference.norm_rotate(qkv[:, :2], gamma, phases), dtype)


@needs_triton
@pytest.mark.parametrize(("width", "channels"), [(64, 32), (16, 16), (128, 96)])
def test_triton_parents(width: int, channels: int) -> None:
    x, slots = draw(9, width), torch.randperm(72, generator=torch.Generator().manual_seed(1))[:31].to(DEVICE)
    h = draw(31, channels)
    ours = op.add_parents(h, x, slots, implementation=TRITON)
    same(ours, reference.add_parents(h, x, slots), torch.float32)
    share = x.view(72, -1)[slots]
    same(ours, h + share[:, torch.arange(channels, device=DEVICE) * share.shape[1] // channels], torch.float32)


ROUNDED = ["reference", pytest.param(TRITON, marks=[needs_triton])]


def restored(rounded: reference.Fp8Rows, exact: torch.Tensor) -> bool:
    """Whether the right dtypes came, and each number within half a step of e4m3 or of its smallest numbers."""
    values, factor = rounded
    assert (values.dtype, factor.dtype, factor.shape) == (torch.float8_e4m3fn, torch.float32, (len(exact), 1))
    room = exact.abs() / 16 + exact.abs().amax(1, keepdim=True) / 448 / 64
    return bool(((values.float() * factor - exact).abs() <= room).all())


@pytest.mark.parametrize("implementation", ROUNDED)
def test_quantised_rows(implementation: str) -> None:
    if implementation == TRITON and INTERPRETED:
        pytest.skip("Triton's interpreter has no float8 of torch")
    x = draw(17, 200) * torch.logspace(-6, 3, 17, device=DEVICE)[:, None]
    x[3] = 0
    assert restored(op.quantise_rows(x, implementation=implementation), x)
    gelu = torch.nn.functional.gelu(x.double(), approximate="tanh").float()
    assert restored(op.quantise_gelu(x, implementation=implementation), gelu)


@pytest.mark.parametrize("implementation", ROUNDED)
@pytest.mark.parametrize("channels", [80, 1536])
def test_normed_rows_quantised(channels: int, implementation: str) -> None:
    """Each norm's float8 form against the norm itself, whose sum it leaves as it is."""
    if implementation == TRITON and INTERPRETED:
        pytest.skip("Triton's interpreter has no float8 of torch")
    x, update = draw(9, channels), draw(9, channels, seed=1)
    gate, scale, shift = (draw(3, channels, seed=seed) for seed in (2, 3, 4))
    for norm, args in (
        (op.modulated_norm, (x, scale, shift, 1e-6)),
        (op.gated_sum_norm, (x, gate, update, scale[0], shift[0], 1e-6)),
        (op.gated_sum_modulated_norm, (x, gate, update, (scale, shift), 1e-6)),
        (op.sum_modulated_norm, (x, update, scale, shift, 1e-6)),
    ):
        exact, rounded = (norm(*args, fp8=fp8, implementation=implementation) for fp8 in (False, True))
        if not isinstance(rounded, reference.Fp8Rows):
            assert torch.equal(exact[0], rounded[0])
            exact, rounded = exact[1], rounded[1]
        assert restored(rounded, exact)


@needs_triton
def test_triton_empty() -> None:
    x = draw(0, 32)
    assert op.norm(x, None, None, 1e-6, torch.float16, implementation=TRITON).shape == (0, 32)
    assert op.gated_sum(x, draw(1, 32), x, implementation=TRITON).shape == (0, 32)
    assert op.norm_heads(draw(0, 2, 32), draw(2, 32), implementation=TRITON).shape == (0, 2, 32)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_linear_gelu(dtype: torch.dtype) -> None:
    x, weight, bias = draw(33, 48, dtype=dtype), draw(64, 48, dtype=dtype) / 7, draw(64, dtype=dtype)
    ours = op.linear_gelu(x, weight, bias)
    exact = reference.linear_gelu(x.double(), weight.double(), bias.double()).to(dtype)
    torch.testing.assert_close(ours, exact, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_values_serve_consecutive_rows() -> None:
    values = torch.arange(6.0).view(3, 2)
    assert torch.equal(reference.serve(values, 6), values.repeat_interleave(2, dim=0))
    x = draw(6, 2)
    expected = x + values.to(DEVICE).repeat_interleave(2, dim=0) * x
    assert torch.equal(op.gated_sum(x, values.to(DEVICE), x, implementation="reference"), expected)


def test_gradients_take_the_reference() -> None:
    x = draw(4, 16).requires_grad_()
    total, normed = op.sum_modulated_norm(x, x * 2, draw(1, 16), draw(1, 16, seed=1), 1e-6)
    (total.sum() + normed.square().sum()).backward()
    assert x.grad is not None
    with pytest.raises(ValueError, match="implementation"):
        op.norm(x, None, None, 1e-6, torch.float32, implementation="magic")
