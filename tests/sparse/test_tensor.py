"""Sparse tensors: coarsening and subdividing against loops, caches shared as promised, packing."""

import itertools

import pytest
import torch

from trellis_app.sparse.layers import SparseConv3d
from trellis_app.sparse.packing import Packing
from trellis_app.sparse.tensor import SparseTensor, SpatialCache, channel_to_space, space_to_channel
from trellis_app.sparse.workspace import Workspace


def random_voxels(rows: int, side: int, items: int = 2, seed: int = 0) -> torch.Tensor:
    """Distinct int32 [rows, 4], sorted by batch item only."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(items * side**3, generator=generator)[:rows]
    item = cells // side**3
    coords = torch.stack([item, cells // side**2 % side, cells // side % side, cells % side], dim=1)
    return coords[item.argsort(stable=True)].int()


@pytest.mark.parametrize("rows", [0, 1, 37, 300])
def test_coarsening_against_a_loop(rows: int) -> None:
    coords = random_voxels(rows, side=7)
    feats = torch.randn(rows, 3)
    coarse = SpatialCache(coords).coarsen()
    parents = sorted({(b, x // 2, y // 2, z // 2) for b, x, y, z in coords.tolist()})
    assert coarse.coords.tolist() == [list(parent) for parent in parents]
    assert coarse.coords.dtype == torch.int32
    expected = torch.zeros(len(parents), 8 * 3)
    for row, (b, x, y, z) in enumerate(coords.tolist()):
        child = x % 2 + 2 * (y % 2) + 4 * (z % 2)
        expected[parents.index((b, x // 2, y // 2, z // 2)), child * 3 : child * 3 + 3] = feats[row]
    gathered = space_to_channel(feats, coarse)
    assert torch.equal(gathered, expected)
    assert torch.equal(channel_to_space(gathered, coarse.recorded), feats)
    mask = coarse.recorded.mask(len(parents))
    assert torch.equal(mask, expected.view(-1, 8, 3).abs().sum(2) > 0)


def test_gradient_of_picking_children() -> None:
    coarse = SpatialCache(random_voxels(37, side=7)).coarsen()
    wide = torch.randn(len(coarse.coords), 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: channel_to_space(x, coarse.recorded), (wide,))


@pytest.mark.parametrize("rows", [0, 1, 20])
def test_subdividing_against_a_loop(rows: int) -> None:
    coords = random_voxels(rows, side=5, seed=1)
    mask = torch.rand(rows, 8, generator=torch.Generator().manual_seed(2)) > 0.5
    cache = SpatialCache(coords)
    children = cache.subdivide(mask)
    expected = [
        [b, 2 * x + (s & 1), 2 * y + (s >> 1 & 1), 2 * z + (s >> 2 & 1)]
        for (b, x, y, z), row in zip(coords.tolist(), mask.tolist(), strict=True)
        for s in range(8)
        if row[s]
    ]
    assert children.cache.coords.tolist() == expected
    assert cache.subdivide(mask.clone()) is children
    assert cache.subdivide(~mask) is not children or rows == 0


def test_coarse_cache_is_shared_while_it_lives_and_freed_after() -> None:
    fine = SpatialCache(random_voxels(50, side=6))
    coarse = fine.coarsen()
    assert fine.coarsen() is coarse
    assert coarse.recorded.cache is fine
    del coarse
    assert fine._coarse() is None


def test_rows_and_items() -> None:
    coords = random_voxels(40, side=5, items=3)
    x = SparseTensor(torch.randn(40, 2), coords)
    assert sum(x.lengths) == 40
    assert x.batch_size == 3
    assert x.replace(torch.randn(40, 5)).cache is x.cache
    assert x.fresh().cache is not x.cache
    items = x.items()
    assert torch.equal(torch.cat([item.feats for item in items]), x.feats)
    assert all(int(item.coords[:, 0].max()) == 0 for item in items)
    known = SparseTensor.packed(x.feats, coords, (*x.lengths, 0))
    assert known.batch_size == 4


@pytest.mark.parametrize(
    ("feats", "coords"),
    [
        (torch.zeros(3, 2), torch.zeros(4, 4, dtype=torch.int32)),
        (torch.zeros(3, 2), torch.zeros(3, 3, dtype=torch.int32)),
        (torch.zeros(3, 2), torch.zeros(3, 4, dtype=torch.int64)),
        (torch.zeros(3), torch.zeros(3, 4, dtype=torch.int32)),
    ],
)
def test_misfits(feats: torch.Tensor, coords: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected"):
        SparseTensor(feats, coords)


@pytest.mark.parametrize("lengths", [(5,), (3, 3), (4, 0, 7, 1), (0,)])
def test_packing(lengths: tuple[int, ...]) -> None:
    packing = Packing(lengths, torch.device("cpu"))
    item = list(itertools.chain.from_iterable([i] * n for i, n in enumerate(lengths)))
    assert packing.item.tolist() == item
    assert packing.offsets.tolist() == [0, *itertools.accumulate(lengths)]
    values = torch.randn(len(lengths), 3, requires_grad=True)
    rows = packing.spread(values).expand(len(item), 3)
    assert torch.equal(rows, values[item] if len(item) else values[:0])
    weight = torch.randn(len(item), 3)
    (rows * weight).sum().backward()
    expected = torch.zeros(len(lengths), 3).index_add(0, torch.tensor(item, dtype=torch.long), weight)
    torch.testing.assert_close(values.grad, expected)


def test_mean_of_items() -> None:
    packing = Packing((2, 3), torch.device("cpu"))
    rows = torch.arange(10.0).view(5, 2)
    torch.testing.assert_close(packing.mean(rows), torch.stack([rows[:2].mean(0), rows[2:].mean(0)]))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("most", [1, 7, 40, 1000])
def test_neighbourhoods_in_stretches(device: str, most: int) -> None:
    """On a GPU from the parents' map, on a CPU from the whole one."""
    parents = SpatialCache(random_voxels(40, side=5, seed=1).to(device))
    mask = torch.rand(40, 8, generator=torch.Generator().manual_seed(2)).to(device) > 0.5
    fine = parents.subdivide(mask).cache
    expected = SpatialCache(fine.coords).neighbours
    parts = [(part, plan.neighbours) for part, plan in fine.neighbourhoods(most)]
    assert all(torch.equal(found, expected[part]) for part, found in parts)
    assert sum(len(found) for _, found in parts) == len(fine.coords)
    assert "convolution" not in fine._memo
    assert fine.convolution.neighbours is fine.neighbours
    parents.forget_neighbours()
    assert "neighbours" not in fine._memo
    assert "convolution" not in fine._memo


@pytest.mark.gpu
@pytest.mark.parametrize("size", [20_000, 1 << 20])
def test_convolutions_in_stretches_on_a_gpu(size: int) -> None:
    parents = SpatialCache(random_voxels(3000, side=20, seed=1).cuda())
    children = parents.subdivide(torch.rand(3000, 8, generator=torch.Generator().manual_seed(2)).cuda() > 0.5)
    down, up = SparseConv3d(32, 16).cuda().half(), SparseConv3d(32, 8 * 16).cuda().half()
    feats = torch.randn(3000, 32, device="cuda").half()
    with torch.inference_mode():
        space = Workspace(size)
        assert torch.equal(down(feats, parents, space), down(feats, parents))
        assert torch.equal(up.to_children(feats, parents, children, space), up.to_children(feats, parents, children))
