"""Neighbour maps against a dict and the golden vectors; the codes that group rows."""

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trellis_kernels.neighbour_map.op import (
    block_lists,
    blocks_by_offset,
    child_coords,
    child_map,
    neighbour_map,
    order_rows,
)
from trellis_kernels.neighbour_map.reference import code_bits, gray_to_binary, neighbour_mask

from tests.kernels.test_voxel_index import IMPLEMENTATIONS, random_voxels


def by_dict(coords: torch.Tensor, kernel_size: int, dilation: int) -> list[list[int]]:
    table = {tuple(row): i for i, row in enumerate(coords.tolist())}
    steps = [(k - kernel_size // 2) * dilation for k in range(kernel_size)]
    offsets = list(itertools.product(steps, steps, steps))
    return [[table.get((b, x + i, y + j, z + k), -1) for i, j, k in offsets] for b, x, y, z in coords.tolist()]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("kernel_size", "dilation"), [(1, 1), (3, 1), (3, 2), (5, 1)])
@pytest.mark.parametrize("count", [0, 1, 300, 5001])
def test_matches_a_dict(implementation: str, kernel_size: int, dilation: int, count: int) -> None:
    if count == 5001 and kernel_size == 5:
        pytest.skip("the dict would take a minute")
    coords = random_voxels(count, 4 + count // 250, 2, seed=count)
    found = neighbour_map(coords, kernel_size=kernel_size, dilation=dilation, implementation=implementation)
    assert found.dtype == torch.int32
    assert found.shape == (len(coords), kernel_size**3)
    assert found.tolist() == by_dict(coords, kernel_size, dilation)


@pytest.mark.parametrize("implementation", ["reference", *(name for name in IMPLEMENTATIONS if name == "triton")])
@pytest.mark.parametrize("count", [0, 1, 400])
def test_children_take_their_parents_map(implementation: str, count: int) -> None:
    parents = random_voxels(count, 6, 2, seed=count + 1)
    slots = torch.nonzero(torch.rand(8 * len(parents), generator=torch.Generator().manual_seed(2)) < 0.5)[:, 0]
    slots = slots[torch.randperm(len(slots))]
    octant = slots % 8
    offset = torch.stack([octant * 0, octant & 1, octant >> 1 & 1, octant >> 2 & 1], dim=1)
    coords = parents[slots // 8] * torch.tensor([1, 2, 2, 2], dtype=torch.int32) + offset.int()
    assert torch.equal(child_coords(parents, slots, implementation=implementation), coords)
    parent_map = neighbour_map(parents, implementation="reference")
    found = child_map(parent_map, slots, implementation=implementation)
    assert torch.equal(found, neighbour_map(coords, implementation="reference"))
    some = child_map(parent_map, slots, part=slice(3, 50), implementation=implementation)
    assert torch.equal(some, found[3:50])


@pytest.mark.parametrize("implementation", ["reference", *(name for name in IMPLEMENTATIONS if name == "triton")])
@pytest.mark.parametrize(("count", "kernel_size"), [(0, 3), (1, 3), (300, 3), (70, 1), (1500, 3)])
def test_orders_of_rows(implementation: str, count: int, kernel_size: int) -> None:
    found = neighbour_map(random_voxels(count, 4 + count // 250, 1, seed=3), kernel_size=kernel_size)
    for parts in (1, kernel_size, kernel_size**2):
        made = order_rows(found, parts, 64, implementation=implementation)
        assert {tensor.dtype for tensor in vars(made).values()} == {torch.int32}
        assert made.table.shape[1] % 256 == 0
        bits = kernel_size**3 // parts
        for part in range(parts):
            own = found[:, part * bits : (part + 1) * bits]
            mask = torch.tensor([sum(1 << v for v, row in enumerate(rows) if row >= 0) for rows in own.tolist()]).int()
            order = made.order[part].long()
            assert torch.equal(order, torch.sort(by_code(mask, code_bits(bits)), stable=True).indices)
            assert torch.equal(made.masks[part], mask[order] << bits * part)
            assert torch.equal(made.table[part * bits : (part + 1) * bits, : len(found)], own[order].T)
        assert (made.table[:, len(found) :] == -1).all()
        offsets, counts = block_lists(made.masks, 64, implementation="reference")
        assert torch.equal(made.offsets, offsets)
        assert torch.equal(made.counts, counts)


@pytest.mark.skipif("triton" not in IMPLEMENTATIONS, reason="needs Triton's interpreter")
def test_triton_with_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of several tiles of rows, and separate launches."""
    from trellis_kernels.neighbour_map import triton, triton_order

    coords = random_voxels(2001, 12, 2, seed=5)
    found = neighbour_map(coords, implementation="reference")
    monkeypatch.setattr(triton_order, "UNITS", 3)
    for small in (len(coords), len(coords) - 1):
        monkeypatch.setattr(triton, "SMALL", small)
        monkeypatch.setattr(triton_order, "SMALL", small)
        assert torch.equal(neighbour_map(coords, implementation="triton"), found)
        for parts in (1, 3):
            made = vars(order_rows(found, parts, 128, implementation="triton"))
            wanted = vars(order_rows(found, parts, 128, implementation="reference"))
            assert all(torch.equal(made[name], wanted[name]) for name in wanted)


def by_code(masks: torch.Tensor, places: tuple[int, ...]) -> torch.Tensor:
    """The Gray code of some bits of masks, in plain arithmetic: each bit is the parity of those from the top to it."""
    bits = (masks[:, None] >> torch.tensor(places)) & 1
    parity = bits.flip(1).cumsum(1).flip(1) % 2
    return (parity << torch.arange(len(places))).sum(1)


@pytest.mark.parametrize("implementation", ["reference", *(name for name in IMPLEMENTATIONS if name == "triton")])
@pytest.mark.parametrize(("count", "block"), [(0, 64), (1, 64), (300, 16), (1000, 256), (1000, 2)])
def test_lists_of_blocks(implementation: str, count: int, block: int) -> None:
    generator = torch.Generator().manual_seed(count)
    masks = torch.randint(0, 2**31 - 1, (count,), generator=generator).int()
    masks = torch.stack([masks & masks.roll(1) & masks.roll(2) & masks.roll(3), masks & masks.roll(5) & masks.roll(7)])
    masks[0, block:] = 0 if count == 300 else masks[0, block:]
    offsets, counts = block_lists(masks, block, implementation=implementation)
    assert offsets.dtype == counts.dtype == torch.int32
    blocks = -(-count // block)
    assert offsets.shape == (2 * blocks, 32)
    for k, (row, used) in enumerate(zip(offsets.tolist(), counts.tolist(), strict=True)):
        begin = k % blocks * block
        union = [v for v in range(31) if any(m >> v & 1 for m in masks[k // blocks, begin : begin + block].tolist())]
        assert used == len(union)
        assert row == union + [0] * (32 - used)
    visits, totals = blocks_by_offset(offsets, counts, 2, 30, implementation=implementation)
    for v in range(30):
        lists = offsets.tolist()[v // 15 * blocks : (v // 15 + 1) * blocks]
        used = counts.tolist()[v // 15 * blocks : (v // 15 + 1) * blocks]
        found = [k for k in range(blocks) if v in lists[k][: used[k]]]
        assert visits[v].tolist() == found + [0] * (blocks - len(found))
        assert totals[v] == len(found)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_box_ends_are_no_neighbours(implementation: str) -> None:
    """Keys of (x, 0) and (x - 1, last) are close; they must not be taken for neighbours."""
    last = 32767
    coords = torch.tensor(
        [[0, 0, 0, 0], [0, 0, 0, last], [0, 0, 1, 0], [1, 0, 0, 0], [0, last, last, last]], dtype=torch.int32
    )
    assert neighbour_map(coords, implementation=implementation).tolist() == by_dict(coords, 3, 1)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dilation", [1, 2])
def test_golden(shared: Path, implementation: str, dilation: int) -> None:
    golden = load_file(shared / "golden/geometry/submanifold_conv3d.safetensors")
    found = neighbour_map(golden["coords"], dilation=dilation, implementation=implementation)
    assert torch.equal(found, golden[f"d{dilation}.neighbor_map"])


@pytest.mark.parametrize("dilation", [1, 2])
def test_golden_codes(shared: Path, dilation: int) -> None:
    golden = load_file(shared / "golden/geometry/submanifold_conv3d.safetensors")
    case = {name.split(".", 1)[1]: value for name, value in golden.items() if name.startswith(f"d{dilation}.")}
    mask = neighbour_mask(case["neighbor_map"])
    assert torch.equal(mask, case["gray_code"])
    binary = gray_to_binary(mask)
    assert torch.equal(binary, case["binary_code"])
    order = torch.sort(binary, stable=True).indices
    assert torch.equal(order.to(torch.int32), case["sorted_idx_stable"])
    for block in (32, 64):
        offsets, counts = block_lists(mask[order][None], block)
        assert torch.equal(offsets[torch.arange(32) < counts[:, None]], case[f"valid_kernel_{block}"])
        assert torch.equal(counts, case[f"valid_kernel_seg_{block}"].diff())


def test_says_what_it_expects() -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        neighbour_map(torch.zeros(3, 4, dtype=torch.int32), kernel_size=2)
