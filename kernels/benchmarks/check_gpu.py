"""Checks every Triton kernel on this machine's GPU against the references, then times Triton against plain torch.

    PYTHONPATH=kernels python kernels/benchmarks/check_gpu.py [--seconds 80] [--sweep]

Needs torch, triton and numpy only. Exit status 1 if anything differs. The last line is JSON.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch
from benchmarks.workload import milliseconds, report, voxel_shell
from trellis_kernels.dual_grid_faces.op import dual_grid_quads
from trellis_kernels.grid_sample.op import grid_sample_3d
from trellis_kernels.neighbour_map.op import neighbour_map
from trellis_kernels.sparse_conv import gathered, triton
from trellis_kernels.sparse_conv.op import children_conv3d, submanifold_conv3d
from trellis_kernels.sparse_conv.plan import ConvPlan, plan_conv
from trellis_kernels.voxel_index.op import build_voxel_index
from triton.errors import TritonError

GPU = torch.device("cuda")
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}  # of the largest value
TRAINING = [(1_000_000, 16), (2_000_000, 16), (1_000_000, 32), (1_000_000, 64), (500_000, 128)]
DECODER = [(9_000, 1024), (37_000, 512), (150_000, 256), (600_000, 128), (2_300_000, 64)]


def shuffled_shell(count: int) -> torch.Tensor:
    """A shell in two batch items, rows in random order."""
    shell = voxel_shell(count // 2, GPU)
    both = torch.cat([shell, shell + torch.tensor([1, 3, 0, 1], device=GPU, dtype=torch.int32)])
    generator = torch.Generator(GPU).manual_seed(0)
    return both[torch.randperm(len(both), generator=generator, device=GPU)].contiguous()


def check_index() -> None:
    coords = shuffled_shell(300_001)
    query = torch.cat([coords.flip(0), coords + 1, torch.randint(-5, 40_000, (1000, 4), device=GPU, dtype=torch.int32)])
    found = [build_voxel_index(coords, implementation=name).lookup(query) for name in ("reference", "triton")]
    assert torch.equal(*found), "look-ups differ"
    doubled = torch.cat([coords, coords.flip(0)])
    found = [build_voxel_index(doubled, implementation=name).lookup(query) for name in ("reference", "triton")]
    assert torch.equal(*found), "look-ups among doubles differ"


def check_map() -> None:
    coords = shuffled_shell(300_001)
    for kernel_size, dilation in ((3, 1), (3, 2), (5, 1)):
        options = {"kernel_size": kernel_size, "dilation": dilation}
        maps = [neighbour_map(coords, implementation=name, **options) for name in ("reference", "triton")]
        assert torch.equal(*maps), f"maps differ for {options}"


def check_sample() -> None:
    coords = shuffled_shell(100_001)
    side = int(coords[:, 1:].max()) + 1
    feats = torch.rand(len(coords), 6, device=GPU)
    pick = torch.randint(0, len(coords), (200_003,), device=GPU)
    query = coords[pick, 1:] + torch.rand(len(pick), 3, device=GPU) * 3 - 1
    options = {"batch": coords[pick, 0].long(), "fallback_to_nearest": False}
    found = [
        grid_sample_3d(feats, coords, (side,) * 3, query, implementation=name, **options)
        for name in ("reference", "triton")
    ]
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)
    few = [
        grid_sample_3d(feats, coords, (side,) * 3, query[:999], implementation=name, fallback_to_nearest=True)
        for name in ("reference", "triton")
    ]
    torch.testing.assert_close(*few, rtol=0, atol=1e-5)


def check_quads() -> None:
    coords = shuffled_shell(300_001)
    coords = coords[coords[:, 0] == 0][:, 1:].contiguous()
    crossed = torch.rand(coords.shape, device=GPU) < 0.5
    assert torch.equal(*(dual_grid_quads(coords, crossed, implementation=name) for name in ("reference", "triton")))


def gradients(
    leaves: list[torch.Tensor], neighbours: torch.Tensor | ConvPlan, grad: torch.Tensor, name: str
) -> list[torch.Tensor]:
    """Output and gradients to feats, weight, bias."""
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    out = submanifold_conv3d(*leaves, neighbours, implementation=name)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def check_conv(count: int, inputs: int, outputs: int, dtype: torch.dtype, *, against: str = "reference") -> None:
    """Forward and backward against the reference in fp64, or at full size against plain torch in fp32."""
    torch.manual_seed(0)
    coords = shuffled_shell(count)
    neighbours = neighbour_map(coords)
    shapes = [(len(coords), inputs), (outputs, 3, 3, 3, inputs), (outputs,), (len(coords), outputs)]
    tensors = [torch.randn(shape, device=GPU).to(dtype) for shape in shapes]
    exact = [tensor.to(torch.float64 if against == "reference" else torch.float32) for tensor in tensors]
    expected = gradients(exact[:3], neighbours, exact[3], against)
    found = gradients(tensors[:3], neighbours, tensors[3], "triton")
    again = gradients(tensors[:3], plan_conv(neighbours), tensors[3], "triton")
    for name, one, two, other in zip(("out", "feats", "weight", "bias"), found, again, expected, strict=True):
        error = float((one.to(other.dtype) - other).abs().max() / other.abs().max())
        assert error <= TOLERANCE[dtype], f"{name}: off by {error:.2e} of the largest value"
        assert torch.equal(one, two), f"{name}: a second run differs"


def check_children(count: int, inputs: int, outputs: int) -> None:
    """Some children of each voxel, in random order, against all eight by plain torch in fp32."""
    torch.manual_seed(0)
    neighbours = neighbour_map(shuffled_shell(count))
    plan, parents = plan_conv(neighbours), len(neighbours)
    shapes = [(parents, inputs), (8 * outputs, 3, 3, 3, inputs), (8 * outputs,)]
    feats, weight, bias = (torch.randn(shape, device=GPU).half() for shape in shapes)
    slots = torch.randperm(8 * parents, device=GPU)[: 4 * parents]
    wide = submanifold_conv3d(feats.float(), weight.float(), bias.float(), neighbours, implementation="torch")
    expected = wide.view(-1, outputs)[slots]
    found, again = (children_conv3d(feats, weight, bias, plan, slots) for _ in range(2))
    error = float((found - expected).abs().max() / expected.abs().max())
    assert error <= TOLERANCE[torch.float16], f"off by {error:.2e} of the largest value"
    assert torch.equal(found, again), "a second run differs"


def checks() -> dict[str, Callable[[], None]]:
    """Every check by name."""
    named: dict[str, Callable[[], None]] = {
        "voxel_index": check_index,
        "neighbour_map": check_map,
        "grid_sample": check_sample,
        "dual_grid_faces": check_quads,
    }
    for dtype in TOLERANCE:
        for inputs, outputs in ((6, 33), (16, 16), (32, 64), (128, 128), (512, 256)):
            label = f"conv {inputs}->{outputs} {str(dtype)[6:]}"
            named[label] = lambda i=inputs, o=outputs, d=dtype: check_conv(20_001, i, o, d)
    for count, channels in ((2_000, 1024), (9_000, 1024), (20_001, 512)):
        named[f"conv {channels}->{channels} float16, {count} rows"] = lambda n=count, c=channels: check_conv(
            n, c, c, torch.float16, against="torch"
        )
    for count, inputs, outputs in ((2_000, 1024, 512), (9_000, 512, 256), (20_000, 128, 64)):
        named[f"children {inputs}->{outputs} float16"] = lambda n=count, i=inputs, o=outputs: check_children(n, i, o)
    named["conv 64->64 float16, 2 M rows"] = lambda: check_conv(2_000_000, 64, 64, torch.float16, against="torch")
    return named


def run_checks(deadline: float) -> list[str]:
    """Runs all checks and returns what failed."""
    failures = []
    for name, check in checks().items():
        if time.perf_counter() > deadline:
            failures.append(f"{name}: not reached in time")
            continue
        try:
            check()
            print(f"ok    {name}", flush=True)
        except (AssertionError, RuntimeError, ValueError, TritonError) as error:
            failures.append(f"{name}: {type(error).__name__}: {str(error)[:400]}")
            print(f"FAIL  {failures[-1]}", flush=True)
    return failures


def time_conv(count: int, channels: int, dtype: torch.dtype) -> dict[str, object]:
    """Milliseconds of the parts of a convolution C -> C, Triton and plain torch."""
    coords = voxel_shell(count, GPU)
    neighbours = neighbour_map(coords)
    plan = plan_conv(neighbours)
    feats = torch.randn(len(coords), channels, device=GPU).to(dtype)
    weights = torch.randn(channels, 27, channels, device=GPU).to(dtype)
    matrices = weights.permute(1, 2, 0).contiguous()
    pairs = int((neighbours >= 0).sum())
    teraflops = 2e-9 * pairs * channels * channels  # per millisecond
    row: dict[str, object] = {"rows": len(coords), "channels": channels, "dtype": str(dtype)[6:]}
    row["plan_ms"] = milliseconds(lambda: plan_conv(neighbours).parts(1, 128), GPU, repeats=3, warm=1)
    row["triton_forward_ms"] = milliseconds(lambda: triton.forward(feats, weights, None, plan), GPU)
    row["torch_forward_ms"] = milliseconds(
        lambda: gathered.forward(feats, matrices, None, neighbours), GPU, repeats=3, warm=1
    )
    row["triton_weight_ms"] = milliseconds(lambda: triton.weight_gradient(feats, feats, plan), GPU)
    row["torch_weight_ms"] = milliseconds(
        lambda: gathered.weight_gradient(feats, feats, neighbours), GPU, repeats=3, warm=1
    )
    row["forward_tflops"] = teraflops / row["triton_forward_ms"]  # type: ignore[operator]
    row["weight_tflops"] = teraflops / row["triton_weight_ms"]  # type: ignore[operator]
    return row


def time_geometry(count: int, name: str) -> dict[str, object]:
    """Milliseconds of the index, the map, the quads and 4 M samples of one grid, by one implementation."""
    coords = voxel_shell(count, GPU)
    crossed = torch.rand(len(coords), 3, device=GPU) < 0.5
    points = torch.randint(0, len(coords), (1 << 22,), device=GPU)
    query = coords[points, 1:] + torch.rand(len(points), 3, device=GPU)
    feats = torch.rand(len(coords), 6, device=GPU)
    shape = (int(coords.max()) + 1,) * 3
    cells = coords[:, 1:].contiguous()
    calls: dict[str, Callable[[], object]] = {
        "index_ms": lambda: build_voxel_index(coords, implementation=name),
        "map_ms": lambda: neighbour_map(coords, implementation=name),
        "quads_ms": lambda: dual_grid_quads(cells, crossed, implementation=name),
        "sample_4m_ms": lambda: grid_sample_3d(feats, coords, shape, query, implementation=name),
    }
    timed = {key: milliseconds(call, GPU, repeats=3, warm=1) for key, call in calls.items()}
    return {"implementation": name, "rows": len(coords)} | timed


def sweep(count: int, channels: int, dtype: torch.dtype, deadline: float) -> list[dict[str, object]]:
    """Milliseconds of other tiles, to choose the built-in ones by."""
    plan = plan_conv(neighbour_map(voxel_shell(count, GPU)))
    feats = torch.randn(len(plan.neighbours), channels, device=GPU).to(dtype)
    weights = torch.randn(channels, 27, channels, device=GPU).to(dtype)
    rows: list[dict[str, object]] = []
    column = triton.fit(channels, 128)
    tiles = [
        triton.Tile(rows, columns, triton.fit(channels, inner), warps, stages)
        for columns in sorted({min(64, column), column}, reverse=True)
        for rows, warps in ((128, 4), (64, 4), (128, 8), (256, 8))
        for inner, stages in ((64, 3), (32, 3), (64, 2), (32, 4), (64, 4), (128, 2), (128, 3))
    ]
    for tile in dict.fromkeys(tiles):
        if time.perf_counter() > deadline:
            break
        row = {"channels": channels, "tile": [tile.rows, tile.columns, tile.inner, tile.warps, tile.stages]}
        try:
            row["forward_ms"] = milliseconds(
                lambda t=tile: triton.forward(feats, weights, None, plan, t), GPU, repeats=3, warm=1
            )
            shape = triton.Tile(min(tile.rows, column), tile.columns, tile.inner, tile.warps, tile.stages)
            row["weight_ms"] = milliseconds(
                lambda t=shape: triton.weight_gradient(feats, feats, plan, t), GPU, repeats=3, warm=1
            )
        except (RuntimeError, TritonError) as error:
            row["error"] = type(error).__name__
        rows.append(row)
    return sorted(rows, key=lambda row: row.get("forward_ms", 1e9))  # type: ignore[arg-type, return-value]


def main() -> int:
    """Checks, then times within the seconds given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=80)
    parser.add_argument("--sweep", action="store_true", help="also try other tiles while time lasts")
    options = parser.parse_args()
    begin = time.perf_counter()
    failures = run_checks(begin + options.seconds * 0.6)
    rows: list[dict[str, object]] = [{"failed": failure} for failure in failures]
    for count in (1_000_000, 3_400_000):
        rows += [time_geometry(count, name) for name in ("triton", "reference")]
    for count, channels in TRAINING + DECODER:
        if time.perf_counter() < begin + options.seconds:
            rows.append(time_conv(count, channels, torch.float16))
            torch.cuda.empty_cache()
    if options.sweep:
        for k, (count, channels) in enumerate(
            [(1_000_000, 32), (1_000_000, 64), (500_000, 128), (1_000_000, 16), (37_000, 512)]
        ):
            rows += sweep(count, channels, torch.float16, begin + options.seconds * (1 + 0.25 * (k + 1)))
    report(rows, GPU)
    print(f"{len(failures)} failures, {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
