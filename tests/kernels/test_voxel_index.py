"""The voxel index against a dict, over sizes, queries out of range and doubles."""

import os

import pytest
import torch
from trellis_kernels.voxel_index.op import build_voxel_index

# Triton runs in these tests only inside its interpreter: see test_triton.py.
IMPLEMENTATIONS = ["reference", "cpu"] if os.environ.get("TRITON_INTERPRET") != "1" else ["triton"]


def random_voxels(count: int, side: int, batches: int, seed: int) -> torch.Tensor:
    """Unique shuffled int32 [N, 4]."""
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.randint(0, top, (count,), generator=generator) for top in (batches, side, side, side)]
    unique = torch.unique(torch.stack(columns, dim=1), dim=0)
    return unique[torch.randperm(len(unique), generator=generator)].to(torch.int32)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("count", "side"), [(0, 4), (1, 4), (37, 5), (1003, 12), (5000, 32767)])
def test_finds_what_a_dict_finds(implementation: str, count: int, side: int) -> None:
    coords = random_voxels(count, side, 3, seed=count)
    table = {tuple(row): i for i, row in enumerate(coords.tolist())}
    strangers = torch.cat([random_voxels(200, side, 4, seed=7), torch.randint(-3, 40000, (50, 4), dtype=torch.int32)])
    query = torch.cat([coords.flip(0), strangers])
    found = build_voxel_index(coords, implementation=implementation).lookup(query)
    assert found.dtype == torch.int64
    assert found.tolist() == [table.get(tuple(row), -1) for row in query.tolist()]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_first_of_doubles_counts_and_bad_rows_are_left_out(implementation: str) -> None:
    coords = torch.tensor([[0, 1, 2, 3], [0, -1, 0, 0], [0, 1, 2, 3], [0, 0, 0, 40000]], dtype=torch.int32)
    assert build_voxel_index(coords, implementation=implementation).lookup(coords).tolist() == [0, -1, 0, -1]


def test_says_what_it_expects() -> None:
    with pytest.raises(ValueError, match=r"int32 \[N, 4\]"):
        build_voxel_index(torch.zeros(3, 3, dtype=torch.int32))
    with pytest.raises(ValueError, match="implementation must be"):
        build_voxel_index(torch.zeros(3, 4, dtype=torch.int32), implementation="magic")
