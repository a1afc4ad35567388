"""Shape and material autoencoders against vectors of the original classes at a tiny size."""

from pathlib import Path

import pytest
import torch

from tests.models.golden import Golden, read_golden
from trellis_app.models.material_vae import attributes
from trellis_app.models.shape_vae import shape_features
from trellis_app.sparse.tensor import SparseTensor
from trellis_app.sparse.workspace import Workspace

EXACT = {"atol": 1e-4, "rtol": 0}


def shape_input(golden: Golden) -> SparseTensor:
    return SparseTensor(shape_features(golden["in.vertices"], golden["in.intersected"]), golden["in.coords"])


@torch.no_grad()
def test_shape_decoder(shared: Path) -> None:
    golden = read_golden(shared, "shape_dec")
    model, levels = golden.model(), {}
    for level in range(3):
        block = model.blocks[level][-1]
        block.register_forward_hook(lambda _m, _i, out, level=level: levels.update({level: out[0]}))
    first: list[SparseTensor] = []
    model.blocks[0][0].register_forward_hook(lambda _m, _i, out: first.append(out))
    z = SparseTensor(golden["in.feats"], golden["in.coords"])
    decoding = model(z)
    torch.testing.assert_close(first[0].feats, golden["mid.level0_block0_feats"], **EXACT)
    assert torch.equal(decoding.raw.coords, golden["out.raw_coords"])
    torch.testing.assert_close(decoding.raw.feats, golden["out.raw_feats"], **EXACT)
    for level, x in levels.items():
        assert torch.equal(x.coords, golden[f"mid.level{level}_up_coords"])
        torch.testing.assert_close(x.feats, golden[f"mid.level{level}_up_feats"], **EXACT)
    assert len(decoding.subdivisions) == 4
    for level, logits in enumerate(decoding.subdivisions):
        assert torch.equal(logits.coords, golden[f"out.sub{level}_coords"])
        torch.testing.assert_close(logits.feats, golden[f"out.sub{level}_logits"], **EXACT)
    grids = model.dual_grids(decoding.raw, golden.settings["args"]["resolution"])
    assert [len(grid.coords) for grid in grids] == golden["out.mesh_counts"].tolist()
    assert torch.equal(torch.cat([grid.coords for grid in grids]), golden["out.mesh_coords"].int())
    torch.testing.assert_close(torch.cat([grid.dual for grid in grids]), golden["out.vertices"], **EXACT)
    torch.testing.assert_close(torch.cat([grid.split for grid in grids]), golden["out.split_weight"], **EXACT)
    assert torch.equal(torch.cat([grid.crossed for grid in grids]), golden["out.intersected"].bool())


@torch.no_grad()
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_upsample(shared: Path, levels: int) -> None:
    golden = read_golden(shared, "shape_dec")
    coords = golden.model().upsample(SparseTensor(golden["in.feats"], golden["in.coords"]), levels)
    assert torch.equal(coords, golden[f"out.upsample{levels}_coords"])


@torch.no_grad()
def test_material_decoder_with_guides(shared: Path) -> None:
    golden, shape = read_golden(shared, "tex_dec"), read_golden(shared, "shape_dec")
    guides = [
        SparseTensor(golden[f"in.guide_sub{level}_logits"], shape[f"out.sub{level}_coords"]) for level in range(4)
    ]
    model = golden.model()
    z = SparseTensor(golden["in.feats"], golden["in.coords"])
    raw = model(z, guides).raw
    assert torch.equal(raw.coords, golden["out.coords"])
    torch.testing.assert_close(raw.feats, golden["out.raw_feats"], **EXACT)
    torch.testing.assert_close(attributes(raw.feats), golden["out.attrs"], **EXACT)


@torch.no_grad()
def test_material_decoder_shares_the_voxels_of_the_shape_decoder(shared: Path) -> None:
    golden, shape = read_golden(shared, "tex_dec"), read_golden(shared, "shape_dec")
    z = SparseTensor(shape["in.feats"], shape["in.coords"])
    decoding = shape.model()(z)
    raw = golden.model()(SparseTensor(golden["in.feats"], golden["in.coords"]), decoding.subdivisions).raw
    assert raw.cache is decoding.raw.cache
    torch.testing.assert_close(raw.feats, golden["out.raw_feats"], **EXACT)


@torch.no_grad()
def test_shape_encoder(shared: Path) -> None:
    golden = read_golden(shared, "shape_enc")
    model, levels = golden.model(), {}
    for level in range(4):
        block = model.blocks[level][-1]
        block.register_forward_hook(lambda _m, _i, out, level=level: levels.update({level: out}))
    posterior = model(shape_input(golden))
    for level, x in levels.items():
        assert torch.equal(x.coords, golden[f"mid.level{level}_down_coords"])
        torch.testing.assert_close(x.feats, golden[f"mid.level{level}_down_feats"], **EXACT)
    assert torch.equal(posterior.mean.coords, golden["out.z_coords"])
    torch.testing.assert_close(posterior.mean.feats, golden["out.z_feats"], **EXACT)
    torch.testing.assert_close(posterior.logvar, golden["out.logvar"], **EXACT)


@torch.no_grad()
def test_material_encoder(shared: Path) -> None:
    golden = read_golden(shared, "tex_enc")
    posterior = golden.model()(SparseTensor(golden["in.feats"], golden["in.coords"]))
    assert torch.equal(posterior.mean.coords, golden["out.z_coords"])
    torch.testing.assert_close(posterior.mean.feats, golden["out.z_feats"], **EXACT)
    torch.testing.assert_close(posterior.logvar, golden["out.logvar"], **EXACT)


@torch.no_grad()
def test_material_decoder_returns_to_the_encoded_voxels(shared: Path) -> None:
    golden, encoded = read_golden(shared, "tex_dec_cached"), read_golden(shared, "shape_enc")
    x = shape_input(encoded)
    latent = encoded.model()(x).mean.replace(golden["in.feats"])
    assert torch.equal(latent.coords, golden["in.coords"])
    raw = read_golden(shared, "tex_dec").model()(latent).raw
    assert torch.equal(raw.coords, golden["out.coords"])
    assert raw.cache is x.cache
    torch.testing.assert_close(raw.feats, golden["out.raw_feats"], **EXACT)


@pytest.mark.parametrize("autocast", [False, True])
def test_training_is_teacher_forced(shared: Path, autocast: bool) -> None:
    source = read_golden(shared, "shape_enc")
    encoder, decoder = source.model().train(), read_golden(shared, "shape_dec").model().train()
    x = shape_input(source)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        posterior = encoder(x)
        decoding = decoder(posterior.sample(torch.Generator().manual_seed(0)))
    assert torch.equal(decoding.raw.coords, x.coords)
    assert decoding.raw.feats.dtype == torch.float32
    targets = decoding.targets()
    assert [len(t) for t in targets] == [16, 44, 136, 503]
    assert [int(t.sum()) for t in targets] == [44, 136, 503, 1498]
    loss = decoding.raw.feats.square().mean() + sum(s.feats.float().square().mean() for s in decoding.subdivisions)
    loss.backward()
    for model in (encoder, decoder):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
def test_half_precision_stays_close(shared: Path) -> None:
    golden = read_golden(shared, "shape_enc")
    model = golden.model()
    model.set_precision(torch.float16)
    posterior = model(shape_input(golden))
    assert posterior.mean.feats.dtype == torch.float32
    torch.testing.assert_close(posterior.mean.feats, golden["out.z_feats"], atol=0.05, rtol=0.05)


@torch.no_grad()
def test_wrong_calls(shared: Path) -> None:
    golden, shape = read_golden(shared, "tex_dec"), read_golden(shared, "shape_dec")
    z = SparseTensor(golden["in.feats"], golden["in.coords"])
    with pytest.raises(ValueError, match="needs the subdivisions"):
        golden.model()(z)
    with pytest.raises(ValueError, match="takes no guides"):
        shape.model()(z, [z] * 4)
    with pytest.raises(ValueError, match="has 10 rows"):
        golden.model()(z, [SparseTensor(torch.zeros(10, 8), z.coords[:10])] * 4)
    with pytest.raises(ValueError, match="neighbouring widths 96 and 64"):
        shape.model(model_channels=[96, 64, 32, 16, 8])
    with pytest.raises(ValueError, match="no true children"):
        shape.model()(z).targets()


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 40_000, 1 << 20])
def test_the_workspace_changes_nothing(shared: Path, size: int) -> None:
    golden, shape, space = read_golden(shared, "tex_dec"), read_golden(shared, "shape_dec"), Workspace(size)
    z = SparseTensor(shape["in.feats"], shape["in.coords"])
    model = shape.model()
    decoding, expected = model(z.fresh(), space=space), model(z.fresh())
    assert torch.equal(decoding.raw.coords, expected.raw.coords)
    torch.testing.assert_close(decoding.raw.feats, expected.raw.feats, atol=1e-5, rtol=1e-5)
    assert torch.equal(model.upsample(z.fresh(), 4, space), expected.raw.coords)
    z = SparseTensor(golden["in.feats"], golden["in.coords"])
    raw = golden.model()(z, decoding.subdivisions, space).raw
    torch.testing.assert_close(raw.feats, golden["out.raw_feats"], **EXACT)


@torch.no_grad()
def test_a_small_workspace_with_recorded_children(shared: Path) -> None:
    shape = read_golden(shared, "shape_enc")
    z = SparseTensor(torch.randn(len(shape["in.coords"]), 6), shape["in.coords"])
    latent = shape.model()(z).mean
    decoder = read_golden(shared, "shape_dec").model()
    expected = decoder(latent).raw
    found = decoder(latent, space=Workspace(40_000)).raw
    assert torch.equal(found.coords, expected.coords)
    torch.testing.assert_close(found.feats, expected.feats, atol=1e-5, rtol=1e-5)
