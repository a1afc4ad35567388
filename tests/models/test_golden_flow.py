"""Flow transformers against vectors of the original classes at a tiny size."""

import copy
from pathlib import Path

import pytest
import torch
from trellis_kernels.row_ops.reference import norm_rotate

from tests.models.golden import Golden, read_golden
from trellis_app.models.fp8 import Fp8Linear, saved_bytes, use_fp8
from trellis_app.models.recording import FlowInputs
from trellis_app.models.registry import build_model
from trellis_app.sparse.rotary import rotary_phases
from trellis_app.sparse.rowwise import AUTOMATIC, REFERENCE, compiled_row_ops, norm_rotate_real, use_row_ops
from trellis_app.sparse.tensor import SparseTensor

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.06}
MIDDLE = {
    "mid.t_emb": "t_embedder",
    "mid.mod": "adaLN_modulation",
    "mid.block0_self_attn": "blocks.0.self_attn",
    "mid.block0_cross_attn": "blocks.0.cross_attn",
    "mid.block0": "blocks.0",
    "mid.block1": "blocks.1",
}


def weight_bytes(model: torch.nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def first(out: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The rows of a block, which also returns them normed for the next one."""
    return out[0] if isinstance(out, tuple) else out


def run(golden: Golden, dtype: torch.dtype) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Output rows, and the outputs of the modules named in MIDDLE."""
    model, seen = golden.model(), {}
    model.set_precision(dtype)
    for name, path in MIDDLE.items():
        model.get_submodule(path).register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: first(out)}))
    model.t_embedder.mlp.register_forward_pre_hook(lambda _m, args: seen.update({"mid.t_freq": args[0]}))
    model.blocks[0].register_forward_pre_hook(lambda _m, args: seen.update({"phases": args[5]}))
    with torch.no_grad():
        if "in.x" in golden.tensors:
            return model(golden["in.x"], golden["in.t"], golden["in.cond"]), seen
        x = SparseTensor(golden["in.feats"], golden["in.coords"])
        concat = golden.tensors.get("in.concat_cond_feats")
        concat = None if concat is None else x.replace(concat)
        return model(x, golden["in.t"], golden["in.cond"], concat).feats, seen


@pytest.mark.parametrize("case", ["ss_flow", "slat_flow_shape", "slat_flow_tex"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_velocity(shared: Path, case: str, dtype: torch.dtype) -> None:
    golden = read_golden(shared, case)
    name = "out.v" if case == "ss_flow" else "out.v_feats"
    expected = golden[name if dtype == torch.float32 else f"{name}_bf16"]
    velocity, seen = run(golden, dtype)
    assert velocity.dtype == torch.float32
    torch.testing.assert_close(velocity, expected, atol=TOLERANCE[dtype], rtol=0)
    if dtype == torch.float32:
        positions = len(golden["mid.rope_cos"])  # of one item, where the grid is dense
        seen["mid.rope_cos"], seen["mid.rope_sin"] = seen["phases"][:positions].unbind(2)
        middles = {name for name in golden.tensors if name.startswith("mid.")}
        assert middles <= seen.keys()
        for middle in middles:
            value = seen[middle]
            torch.testing.assert_close(value.reshape_as(golden[middle]), golden[middle], atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", ["ss_flow", "slat_flow_tex"])
def test_memory_of_the_condition_changes_nothing(shared: Path, case: str) -> None:
    golden = read_golden(shared, case)
    model = golden.model()
    with torch.no_grad():
        memory = model.remember(golden["in.cond"])
        if case == "ss_flow":
            args = (golden["in.x"], golden["in.t"])
            assert torch.equal(model(*args, memory), model(*args, golden["in.cond"]))
        else:
            x = SparseTensor(golden["in.feats"], golden["in.coords"])
            concat = x.replace(golden["in.concat_cond_feats"])
            remembered = model(x, golden["in.t"], memory, concat)
            assert torch.equal(remembered.feats, model(x, golden["in.t"], golden["in.cond"], concat).feats)
            assert remembered.cache is x.cache


def test_zero_condition_needs_one_token(shared: Path) -> None:
    golden = read_golden(shared, "ss_flow")
    model, zeros = golden.model(), torch.zeros_like(golden["in.cond"])
    with torch.no_grad():
        full = model(golden["in.x"], golden["in.t"], zeros)
        one = model(golden["in.x"], golden["in.t"], zeros[:, :1])
    torch.testing.assert_close(one, full, atol=1e-5, rtol=0)


@pytest.mark.parametrize("head_dim", [128, 64, 32])
def test_rotary_positions(shared: Path, head_dim: int) -> None:
    golden = read_golden(shared, "rope")
    phases = rotary_phases(golden["out.coords"], head_dim, tuple(golden.settings["rope_freq"]))
    torch.testing.assert_close(phases[..., 0], golden[f"out.hd{head_dim}_cos"], atol=2e-5, rtol=0)
    torch.testing.assert_close(phases[..., 1], golden[f"out.hd{head_dim}_sin"], atol=2e-5, rtol=0)
    step = rotary_phases(torch.tensor([[1, 0, 0]]), head_dim, tuple(golden.settings["rope_freq"]))[0]
    frequencies = torch.atan2(step[:, 1], step[:, 0])[: head_dim // 6]
    torch.testing.assert_close(frequencies, golden[f"out.hd{head_dim}_freqs"], atol=2e-5, rtol=0)
    q = golden[f"out.hd{head_dim}_q"]  # norming and then undoing it leaves the rotation
    undo = q.norm(dim=-1, keepdim=True) / head_dim**0.5
    for op in (norm_rotate, norm_rotate_real):
        turned = op(q[:, None], torch.ones(1, 2, head_dim), phases)[:, 0] * undo
        torch.testing.assert_close(turned, golden[f"out.hd{head_dim}_q_rot"], atol=1e-4, rtol=0)


@pytest.mark.gpu
def test_recorded_passes_equal_plain_ones() -> None:
    """Three runs of two sizes: the first pass of a size runs as it is, the next ones from its recording."""
    device = torch.device("cuda")
    torch.manual_seed(0)
    sizes = dict(model_channels=64, cond_channels=16, num_blocks=2, num_heads=2, resolution=8, in_channels=4)
    flow = build_model("SLatFlowModel", {**sizes, "out_channels": 4, "dtype": "bfloat16"}).to(device).eval()
    for parameter in flow.parameters():
        parameter.data.normal_(std=0.1)
    flow.set_precision(torch.bfloat16)
    for seed, count in ((1, 90), (2, 40), (3, 90)):
        torch.manual_seed(seed)
        coords = torch.nn.functional.pad(torch.randint(0, 64, (count, 3), device=device), (1, 0)).int()
        tokens = torch.randn(1, 7, 16, device=device)
        with torch.inference_mode():
            memories = [flow.remember(tokens), flow.remember(torch.zeros_like(tokens[:, :1]))]
        for t in (900.0, 500.0, 20.0):
            x = SparseTensor.packed(torch.randn(count, 4, device=device), coords, (count,))
            time = torch.tensor([t], device=device)
            for memory in memories:
                with torch.inference_mode():
                    recorded = flow(x, time, memory).feats
                with torch.no_grad(), torch.autocast("cuda", enabled=False):
                    use_row_ops(flow, REFERENCE)
                    exact = flow._velocity(
                        FlowInputs(x.feats, x.packing, rotary_phases(coords[:, 1:], 32), time, memory)
                    )
                    use_row_ops(flow, AUTOMATIC)
                torch.testing.assert_close(recorded, exact, atol=0.03, rtol=0.03)
    assert copy.deepcopy(flow).recordings._known == {}
    flow.recordings.clear()


@pytest.mark.gpu
@torch.inference_mode()
def test_fp8_lets_go_of_recordings() -> None:
    """A pass recorded before the layers were replaced would read weights that are no longer there."""
    device, count = torch.device("cuda"), 90
    torch.manual_seed(0)
    sizes = dict(model_channels=128, cond_channels=16, num_blocks=2, num_heads=2, resolution=8, in_channels=4)
    with torch.inference_mode(False):
        flow = build_model("SLatFlowModel", {**sizes, "out_channels": 4, "dtype": "bfloat16"}).to(device).eval()
        for parameter in flow.parameters():
            parameter.data.normal_(std=0.1)
        flow.set_precision(torch.bfloat16)
    coords = torch.nn.functional.pad(torch.randint(0, 64, (count, 3), device=device), (1, 0)).int()
    x = SparseTensor.packed(torch.randn(count, 4, device=device), coords, (count,))
    time, memory = torch.tensor([500.0], device=device), flow.remember(torch.randn(1, 7, 16, device=device))
    expected = [flow(x, time, memory).feats for _ in range(2)][-1]
    assert use_fp8(flow, device)
    assert flow.recordings._known == {}
    for _ in range(3):
        velocity = flow(x, time, memory).feats
        assert 0 < (velocity - expected).norm() / expected.norm() < 0.2  # not a number fails too
    flow.recordings.clear()


@pytest.mark.parametrize("case", ["ss_flow", "slat_flow_tex"])
def test_compiled_row_ops(shared: Path, case: str) -> None:
    golden = read_golden(shared, case)
    model = golden.model()
    use_row_ops(model, compiled_row_ops(backend="aot_eager"))
    assert model.blocks[0].self_attn.row_ops is model.blocks[1].row_ops is not AUTOMATIC
    for items in (2, 1):  # also another number of rows
        if case == "ss_flow":
            velocity = model(golden["in.x"][:items], golden["in.t"][:items], golden["in.cond"][:items])
            expected = golden["out.v"][:items]
        else:
            rows = golden["in.coords"][:, 0] < items
            x = SparseTensor(golden["in.feats"][rows], golden["in.coords"][rows])
            concat = x.replace(golden["in.concat_cond_feats"][rows])
            velocity = model(x, golden["in.t"][:items], golden["in.cond"][:items], concat).feats
            expected = golden["out.v_feats"][rows]
        torch.testing.assert_close(velocity, expected, atol=1e-4, rtol=0)
        velocity.sum().backward()


@pytest.mark.parametrize("case", ["ss_flow", "slat_flow_tex"])
def test_fp8_is_near(shared: Path, case: str) -> None:
    """On a CPU the rounding is the same, the products are float32."""
    golden = read_golden(shared, case)
    model = golden.model()
    before, less = weight_bytes(model), saved_bytes(model)
    assert [use_fp8(model, torch.device("cpu")) for _ in range(2)] == [True, False]
    assert weight_bytes(model) == before - less
    assert sum(isinstance(module, Fp8Linear) for module in model.modules()) == 6 * len(model.blocks)
    with torch.no_grad():
        if case == "ss_flow":
            velocity, expected = model(golden["in.x"], golden["in.t"], golden["in.cond"]), golden["out.v"]
        else:
            x = SparseTensor(golden["in.feats"], golden["in.coords"])
            concat = x.replace(golden["in.concat_cond_feats"])
            velocity, expected = model(x, golden["in.t"], golden["in.cond"], concat).feats, golden["out.v_feats"]
    assert 0 < (velocity - expected).norm() / expected.norm() < 0.08


def test_training_under_autocast(shared: Path) -> None:
    golden = read_golden(shared, "slat_flow_shape")
    model = golden.model().train()
    x = SparseTensor.packed(golden["in.feats"], golden["in.coords"], (150, 90))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        velocity = model(x, golden["in.t"], golden["in.cond"]).feats
    assert velocity.dtype == torch.float32
    torch.testing.assert_close(velocity, golden["out.v_feats"], atol=0.06, rtol=0)
    velocity.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_wrong_arguments(shared: Path) -> None:
    golden = read_golden(shared, "slat_flow_shape")
    with pytest.raises(ValueError, match="pe_mode 'ape'"):
        golden.model(pe_mode="ape")
    with pytest.raises(ValueError, match="no argument window"):
        golden.model(window=4)
    read_golden(shared, "ss_flow").model(window=4)  # this class ignores what it does not know
    x = SparseTensor(golden["in.feats"][:, :3], golden["in.coords"])
    with pytest.raises(ValueError, match="3 channels, expected 8"):
        golden.model()(x, golden["in.t"], golden["in.cond"])
