"""Structure autoencoder against vectors of the original classes at a tiny size."""

from pathlib import Path

import pytest
import torch

from tests.models.golden import read_golden


def test_decoder(shared: Path) -> None:
    golden = read_golden(shared, "ss_dec")
    model, seen = golden.model(), {}
    paths = {"mid.input_layer": "input_layer", "mid.middle": "middle_block", "mid.up0_shuffled": "blocks.2"}
    paths["mid.up0_conv"] = "blocks.2.conv"
    for name, path in paths.items():
        model.get_submodule(path).register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        logits = model(golden["in.z"])
    torch.testing.assert_close(logits, golden["out.logits"], atol=2e-4, rtol=0)
    for name, value in seen.items():
        torch.testing.assert_close(value, golden[name], atol=2e-4, rtol=0)


def test_encoder(shared: Path) -> None:
    golden = read_golden(shared, "ss_enc")
    with torch.no_grad():
        posterior = golden.model()(golden["in.x"])
    torch.testing.assert_close(posterior.mean, golden["out.mean"], atol=2e-4, rtol=0)
    torch.testing.assert_close(posterior.logvar, golden["out.logvar"], atol=2e-4, rtol=0)
    assert torch.equal(golden["out.z"], golden["out.mean"])
    sample = posterior.sample(torch.Generator().manual_seed(0))
    assert sample.shape == posterior.mean.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_close(shared: Path, dtype: torch.dtype) -> None:
    golden = read_golden(shared, "ss_dec")
    model = golden.model()
    model.set_precision(dtype)
    assert {p.dtype for p in model.blocks[0].conv1.parameters()} == {dtype}
    assert {p.dtype for p in model.out_layer.parameters()} == {torch.float32}
    with torch.no_grad():
        logits = model(golden["in.z"])
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, golden["out.logits"], atol=0.1, rtol=0.1)


def test_training_under_autocast(shared: Path) -> None:
    encoder, decoder = read_golden(shared, "ss_enc").model(), read_golden(shared, "ss_dec").model()
    x = read_golden(shared, "ss_enc")["in.x"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = decoder(encoder(x).sample())
    assert logits.dtype == torch.float32
    assert logits.shape == x.shape
    logits.square().mean().backward()
    assert all(p.grad is not None for model in (encoder, decoder) for p in model.parameters())
