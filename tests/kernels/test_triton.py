"""Triton kernels without a GPU: they compile for the GPUs we name, and agree with the reference in the interpreter."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

from trellis_kernels.dual_grid_faces.triton import quads_kernel  # noqa: E402
from trellis_kernels.edge_collapse.reference import AWAY, LENIENT, LONGEST, NEEDLE, STEP_BITS, TURN  # noqa: E402
from trellis_kernels.edge_collapse.triton import (  # noqa: E402
    examine_kernel,
    follow_kernel,
    keys_kernel,
    least_kernel,
    merge_kernel,
    near_kernel,
    winners_kernel,
)
from trellis_kernels.grid_sample.triton import taps_kernel  # noqa: E402
from trellis_kernels.lattice_crossings.triton import cross_kernel  # noqa: E402
from trellis_kernels.lattice_rays.triton import walk_kernel  # noqa: E402
from trellis_kernels.mesh_links.triton import link_kernel, own_kernel, planes_kernel  # noqa: E402
from trellis_kernels.neighbour_map.reference import code_bits  # noqa: E402
from trellis_kernels.neighbour_map.triton import (  # noqa: E402
    child_coords_kernel,
    child_map_kernel,
    lists_kernel,
    map_kernel,
    visits_kernel,
    whole_child_map_kernel,
    whole_map_kernel,
)
from trellis_kernels.neighbour_map.triton_order import codes_kernel, order_kernel, table_kernel  # noqa: E402
from trellis_kernels.rasterise.triton import draw_kernel, resolve_kernel  # noqa: E402
from trellis_kernels.row_ops.triton import child_kernel, head_kernel, quantise_kernel, row_kernel  # noqa: E402
from trellis_kernels.sparse_conv.triton import (  # noqa: E402
    forward_kernel,
    sum_kernel,
    weight_kernel,
)
from trellis_kernels.sparse_conv.triton_children import group_kernel  # noqa: E402
from trellis_kernels.triton_barrier import ALL_AT_ONCE, RESIDENT  # noqa: E402
from trellis_kernels.voxel_index.triton import build_kernel, lookup_kernel  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
OPS = (
    "voxel_index",
    "neighbour_map",
    "sparse_conv",
    "grid_sample",
    "dual_grid_faces",
    "rasterise",
    "row_ops",
    "mesh_links",
    "edge_collapse",
    "lattice_rays",
    "lattice_crossings",
)
DRAW, RESOLVE = (
    "*i32 *fp64 *i32 *i32 *i32 *i32 *i32 *i32 *fp32 *i64 i32 i32",
    "*i32 *fp64 *fp64 *i32 *i64 *i32 *fp32 *fp32 i32 i32 i32",
)


WARP = dict(num_warps=1)
CROSSED = dict(UNIT=65536, FINE=4096, WRITE=True, LANES=32)
ORDERED = dict(VOLUME=27, PARTS=1, PLACES=code_bits(27), PASSES=2, BINS=256, DIGIT=8, LIST=32)
ORDERED_PARTS = dict(VOLUME=27, PARTS=3, PLACES=code_bits(9), PASSES=1, BINS=512, DIGIT=9, LIST=32)
ORDERED_FEW = dict(VOLUME=27, PARTS=9, PLACES=code_bits(3), PASSES=1, BINS=32, DIGIT=5, LIST=32)
TABLE = "*i32 *i64 *i32 *i32 *i32 *i32 *i32 *i32 i32 i32"
GROUP = "*i64 *i32 *i32 *i32 *i32 *i32 *i32 *i32 *i32 *i32 i32 i32 i32 i32 i32"
CHILD_MAP = "*i32 *i32 *i64 *i32 *i32 i32 i32"
TILES = dict(TILE=128, BLOCK=128)
WHOLE_MAP = dict(K=3, DILATION=1, BLOCK=128, ROWS=64, PAD=16)
SUMMED = dict(CO=64, PARTS=3, BIASED=True, CHILDREN=True, BLOCK=1024)
KEYS = dict(TRIES=4, STEP_BITS=STEP_BITS, NEVER=2**63 - 1, BLOCK=128)
EXAMINE = dict(LENIENT=LENIENT, LONGEST=LONGEST, TURN=TURN, AWAY=AWAY, NEEDLE=NEEDLE, LANES=32)
EXAMINED = "*fp32 *fp32 *u8 *i32 *fp32 *u8 *i32 *i32 *i32 *i8 *i64 *i32 *fp32 *fp32 i32"
MERGED = "*fp32 *fp32 *u8 *i32 *u8 *i32 *i32 *i32 *i32 *i64 *fp32 *fp32 *i32 *u8 i32"


@dataclass(frozen=True)
class Case:
    """A kernel, the types of its run-time arguments in order, its constants and launch options."""

    name: str
    kernel: object
    types: str
    constants: dict
    options: dict


ROW = "*bf16 *bf16 *bf16 *bf16 *bf16 *bf16 *bf16 *bf16 *bf16 i32 fp32" + 8 * " i32"
ROW_FP8 = ROW.replace("*bf16 *bf16 i32 fp32", "*fp8e4nv *fp32 i32 fp32")
ROW_FLAGS = dict(C=1536, BLOCK=2048, ROWS=1, ADD=True, GATED=True, SHIFTED=True, NORM=True, SCALED=True, SILU=True)


def conv_case(dtype: str, channels: int, rows: int, columns: int, inner: int, warps: int, stages: int) -> Case:
    constants = dict(CI=channels, CO=channels, VOLUME=27, PARTS=1, BIASED=True, CHILDREN=True, MIRRORED=False)
    constants |= dict(BM=rows, BN=columns, BK=inner)
    constants["PRECISION"] = "tf32x3" if dtype == "fp32" else "tf32"
    types = " ".join([f"*{dtype}"] * 4 + ["*i32"] * 6 + ["i32"] * 4)
    return Case(
        f"forward-{dtype}-{channels}", forward_kernel, types, constants, dict(num_warps=warps, num_stages=stages)
    )


def weight_case(dtype: str, channels: int, rows: int, columns: int, inner: int, warps: int, stages: int) -> Case:
    constants = dict(CI=channels, CO=channels, SPLITS=4, PARTS=3, BM=rows, BN=columns, BP=inner)
    constants["PRECISION"] = "tf32x3" if dtype == "fp32" else "tf32"
    types = f"*{dtype} *{dtype} *fp32 *i32 *i32 *i32 *i32 i32 i32 i32 i32"
    return Case(f"weight-{dtype}-{channels}", weight_kernel, types, constants, dict(num_warps=warps, num_stages=stages))


CASES = [
    Case("build", build_kernel, "*i32 *i64 *i32 i32 i32", dict(BLOCK=256), {}),
    Case("lookup", lookup_kernel, "*i64 *i32 *i32 *i64 i32 i32", dict(BLOCK=256), {}),
    Case("map", map_kernel, "*i64 *i32 *i32 i32 i32", dict(K=3, DILATION=1, ROWS=64, PAD=16), {}),
    Case("child_coords", child_coords_kernel, "*i32 *i64 *i32 i32", dict(ROWS=256), {}),
    Case("child_map", child_map_kernel, "*i32 *i32 *i64 *i32 i32", dict(ROWS=64), {}),
    Case("whole_map", whole_map_kernel, "*i32 *i64 *i32 *i32 i32 i32", WHOLE_MAP, ALL_AT_ONCE),
    Case("whole_child_map", whole_child_map_kernel, CHILD_MAP, dict(TILE=1024, ROWS=32), ALL_AT_ONCE),
    Case("visits", visits_kernel, "*i32 *i32 *i32 *i32 i32", dict(PART=27, LIST=32, WIDE=256), dict(num_warps=8)),
    Case("codes", codes_kernel, "*i32 *i32 *i16 i32", dict(VOLUME=27, PARTS=1, PLACES=code_bits(27), TILE=128), {}),
    Case("table", table_kernel, TABLE, dict(VOLUME=27, PART=27, LIST=32, BLOCK=128), {}),
    Case("order", order_kernel, 7 * "*i32 " + "i32 i32 i32 i32", ORDERED | TILES, ALL_AT_ONCE),
    Case("order-few", order_kernel, 7 * "*i32 " + "i32 i32 i32 i32", ORDERED_FEW | TILES, ALL_AT_ONCE),
    Case("order-parts", order_kernel, 7 * "*i32 " + "i32 i32 i32 i32", ORDERED_PARTS | TILES, ALL_AT_ONCE),
    Case("lists", lists_kernel, "*i32 *i32 *i32 i32", dict(LIST=32, BLOCK=128), WARP),
    Case("sum", sum_kernel, "*fp32 *fp16 *i64 *fp16 i32", SUMMED, {}),
    Case("group", group_kernel, GROUP, dict(PARTS=3, LIST=32, TILE=256, BLOCK=128), ALL_AT_ONCE),
    Case("taps", taps_kernel, "*fp32 *i64 *i64 *i32 *i64 *fp32 i32 i32 i32 i32 i32", dict(BLOCK=64), {}),
    Case("quads", quads_kernel, "*i32 *i64 *i64 *i32 *i32 i32 i32", dict(BLOCK=128), {}),
    Case("draw", draw_kernel, DRAW, dict(PEEL=True, TILE=8, SUBPIXEL=4096), dict(num_warps=1)),
    Case("resolve", resolve_kernel, RESOLVE, dict(EMPTY=2**63 - 1, BLOCK=128, SUBPIXEL=4096), {}),
    Case("row", row_kernel, ROW, ROW_FLAGS | dict(MOST=0.0), {}),
    Case("row-fp8", row_kernel, ROW_FP8, ROW_FLAGS | dict(SILU=False, MOST=448.0), {}),
    Case("child", child_kernel, "*fp16 *fp16 *i64 *fp16 i32", dict(C=64, WIDTH=128, BLOCK=64, ROWS=32), {}),
    Case("quantise", quantise_kernel, "*bf16 *fp8e4nv *fp32", dict(C=8192, BLOCK=8192, MOST=448.0, GELU=True), {}),
    Case("head", head_kernel, "*bf16 *fp32 *fp32 *bf16 i32 i32 fp32", dict(HEADS=24, D=128, GROUP=8, TURN=True), {}),
    Case("link", link_kernel, "*i32 *i32 *i32 *i32 i32", dict(BLOCK=128), {}),
    Case("own", own_kernel, "*i32 *i32 *i32 *u8 *i32 *u8 i32", dict(LANES=32), WARP),
    Case("planes", planes_kernel, "*fp32 *i32 *i64 *i64 *fp32 i32 fp32", dict(LANES=32), WARP),
    Case("cross", cross_kernel, "*i64 *i32 *i64 *i32 *i64 *fp64 *i32 *u8 i32 i32 i32 i32", CROSSED, WARP),
    Case("walk", walk_kernel, "*i64 *i64 *i64 *u8 *u8" + 11 * " i32", dict(LANES=32), WARP),
    Case("keys", keys_kernel, "*fp32 *fp32 *i32 *i8 *fp32 *i64 i32", KEYS, {}),
    Case("least", least_kernel, "*i32 *i64 i64 *i64 i32", dict(BLOCK=128), {}),
    Case("near", near_kernel, "*i32 *i64 *i64 i32", dict(BLOCK=128), {}),
    Case("winners", winners_kernel, "*i32 *i64 i64 *i64 *u8 i32", dict(BLOCK=128), {}),
    Case("examine", examine_kernel, EXAMINED, EXAMINE, WARP),
    Case("merge", merge_kernel, MERGED, dict(LANES=32), WARP),
    Case("follow", follow_kernel, "*i32 *i8 *i32 *u8 i32", dict(BLOCK=128), {}),
    conv_case("fp16", 16, 128, 16, 16, 4, 3),
    conv_case("bf16", 128, 128, 128, 64, 8, 3),
    conv_case("fp32", 64, 64, 64, 32, 4, 2),
    weight_case("fp16", 16, 16, 16, 64, 4, 3),
    weight_case("bf16", 128, 128, 128, 64, 8, 3),
    weight_case("fp32", 64, 64, 64, 32, 4, 2),
]


@pytest.mark.parametrize("capability", [80, 90, 120])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_compiles(case: Case, capability: int) -> None:
    if "fp8" in case.types and capability < 89:
        pytest.skip("no 8-bit floats there")
    names = [name for name in case.kernel.arg_names if name not in case.constants]
    signature = dict(zip(names, case.types.split(), strict=True)) | dict.fromkeys(case.constants, "constexpr")
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(case.types.split()) if kind.startswith("*")}
    source = ASTSource(case.kernel, signature, case.constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=case.options)
    assert len(compiled.asm["cubin"]) > 1000
    blocks = RESIDENT if case.options.get("launch_cooperative_grid") else 1  # that have to be there at once
    assert compiled.metadata.shared <= 100 * 1024 // blocks - 1024  # what the smallest of these GPUs gives a block


@pytest.mark.parametrize("op", OPS)
def test_agrees_in_the_interpreter(op: str) -> None:
    """Runs the op's own tests again with the kernels interpreted on the CPU."""
    command = [sys.executable, "-m", "pytest", f"tests/kernels/test_{op}.py", "-q", "-k", "triton"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.gpu
def test_agrees_on_the_gpu() -> None:
    """Every kernel against the references at real sizes; the same script also times them."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "kernels")}
    command = [
        sys.executable,
        "kernels/benchmarks/check_gpu.py",
        "--seconds",
        "400",
    ]  # compiling beside others takes long
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
