"""Packed attention by every implementation against softmax written out in float64, for equal and unequal lengths."""

import math
import sys
from pathlib import Path

import pytest
import torch
from trellis_kernels.attention import flash
from trellis_kernels.attention.op import CUDNN, FLASH3, attend
from trellis_kernels.attention.sdpa import packed_kernel, padded
from trellis_kernels.choice import REFERENCE, TORCH, installed

from trellis_app.sparse.packing import Packing

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 2e-3}
LENGTHS = [((7,), (5,)), ((4, 4), (3, 3)), ((1, 9, 4), (5, 2, 8)), ((3, 0, 2), (4, 4, 4)), ((0,), (3,))]
GPU_LENGTHS = [
    ((777,), (777,)), ((5000,), (1029,)), ((300, 300), (41, 41)), ((100, 1, 700, 33), (50, 257, 80, 257)),
    ((3000, 90), (64, 5)),
]  # fmt: skip


def written_out(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, queries: Packing, keys: Packing) -> torch.Tensor:
    parts = zip(*(rows.split(p.lengths) for rows, p in ((q, queries), (k, keys), (v, keys))), strict=True)
    out = []
    for a, b, c in parts:
        scores = torch.einsum("qhd,khd->hqk", a.double(), b.double()) / math.sqrt(q.shape[-1])
        out.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), c.double()))
    return torch.cat(out).to(q.dtype)


def draw(queries: Packing, keys: Packing, dtype: torch.dtype, head_dim: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    totals = (queries.total, keys.total, keys.total)
    return [torch.randn(n, 3, head_dim, generator=generator).to(queries.device, dtype) for n in totals]


def plainly(*args) -> torch.Tensor:
    return attend(*args, implementation=REFERENCE)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("path", [attend, padded, plainly])
@pytest.mark.parametrize(("q_lengths", "k_lengths"), LENGTHS)
def test_against_softmax(path, q_lengths: tuple[int, ...], k_lengths: tuple[int, ...], dtype: torch.dtype) -> None:
    queries, keys = (Packing(lengths, torch.device("cpu")) for lengths in (q_lengths, k_lengths))
    q, k, v = draw(queries, keys, dtype)
    expected = written_out(q, k, v, queries, keys)
    torch.testing.assert_close(path(q, k, v, queries, keys), expected, atol=TOLERANCE[dtype], rtol=0.02)


@pytest.mark.parametrize("path", [attend, padded, plainly])
def test_gradients(path) -> None:
    queries = Packing((3, 1, 6), torch.device("cpu"))
    inputs = [rows.requires_grad_() for rows in draw(queries, queries, torch.float32)]
    reference = [rows.detach().clone().requires_grad_() for rows in inputs]
    path(*inputs, queries, queries).square().sum().backward()
    written_out(*reference, queries, queries).square().sum().backward()
    for ours, theirs in zip(inputs, reference, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-3)


def test_items_must_match() -> None:
    queries, keys = Packing((2, 2), torch.device("cpu")), Packing((4,), torch.device("cpu"))
    with pytest.raises(ValueError, match="2 batch items, keys have 1"):
        attend(*draw(queries, keys, torch.float32), queries, keys)


def test_only_what_is_offered() -> None:
    rows = Packing((2,), torch.device("cpu"))
    with pytest.raises(ValueError, match="auto or one of"):
        attend(*draw(rows, rows, torch.float32), rows, rows, implementation="magic")
    with pytest.raises(ValueError, match="no flash-attn 3"):
        attend(*draw(rows, rows, torch.float32), rows, rows, implementation=FLASH3)


def test_a_package_that_does_not_load_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a build for another torch does not: its library lacks symbols."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "flash_attn_interface.py").write_text("raise ImportError('undefined symbol')")
    for ask in (flash.interface, installed):
        ask.cache_clear()
    assert installed("flash_attn_interface")
    assert flash.interface() is None
    for ask in (flash.interface, installed):
        ask.cache_clear()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_gradients_on_a_gpu(dtype: torch.dtype, head_dim: int) -> None:
    device = torch.device("cuda")
    queries, keys = Packing((100, 1, 700, 33), device), Packing((50, 257, 80, 257), device)
    inputs = [rows.requires_grad_() for rows in draw(queries, keys, dtype, head_dim)]
    reference = [rows.detach().clone().requires_grad_() for rows in inputs]
    ours, theirs = attend(*inputs, queries, keys), written_out(*reference, queries, keys)
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE[dtype], rtol=0.02)
    weight = torch.randn(ours.shape, device=device, generator=torch.Generator(device).manual_seed(0)).to(dtype)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    for a, b in zip(inputs, reference, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=5 * TOLERANCE[dtype], rtol=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", ["auto", TORCH, CUDNN, FLASH3, REFERENCE])
@pytest.mark.parametrize(("q_lengths", "k_lengths"), GPU_LENGTHS)
def test_inference_on_a_gpu(implementation: str, q_lengths: tuple[int, ...], k_lengths: tuple[int, ...]) -> None:
    """Heads of 128 in bfloat16, queries and values in rows with other rows between them, as the flows have them."""
    device = torch.device("cuda")
    if implementation == FLASH3 and flash.interface() is None:
        pytest.skip("flash-attn 3 is not installed")
    queries, keys = Packing(q_lengths, device), Packing(k_lengths, device)
    q, k, v = draw(queries, keys, torch.bfloat16, 128)
    q, v = (torch.stack([rows, torch.full_like(rows, torch.nan)], dim=1)[:, 0] for rows in (q, v))
    with torch.inference_mode():
        ours = attend(q, k, v, queries, keys, implementation=implementation)
    torch.testing.assert_close(ours, written_out(q, k, v, queries, keys), atol=0.02, rtol=0.02)


def test_an_older_torch_has_no_packed_kernel(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    packed_kernel.cache_clear()
    assert packed_kernel() is None
    monkeypatch.undo()
    packed_kernel.cache_clear()
    assert callable(packed_kernel())
