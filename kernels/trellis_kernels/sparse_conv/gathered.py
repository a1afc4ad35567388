"""Sparse convolution in plain torch, on any device: rows gathered block by block, one matrix product for each."""

from __future__ import annotations

import torch

BLOCK_BYTES = {"cpu": 4 << 20, "cuda": 256 << 20}  # of gathered rows: a cache's worth, or enough to fill a GPU


def blocks(neighbours: torch.Tensor, feats: torch.Tensor) -> list[slice]:
    """Row ranges whose gathered rows take about BLOCK_BYTES."""
    row_bytes = neighbours.shape[1] * feats.shape[1] * feats.element_size()
    step = max(64, BLOCK_BYTES.get(feats.device.type, 4 << 20) // max(1, row_bytes))
    return [slice(begin, begin + step) for begin in range(0, neighbours.shape[0], step)]


def pad_rows(feats: torch.Tensor) -> torch.Tensor:
    """[N, C] -> [N + 1, C] with a row of zeros for missing neighbours (index -1 = the last row)."""
    return torch.cat([feats, feats.new_zeros((1, feats.shape[1]))])


def gather(padded: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
    """[N + 1, C], int32 [n, V] -> [n, V*C]."""
    rows = torch.where(neighbours < 0, padded.shape[0] - 1, neighbours).flatten()
    return padded.index_select(0, rows).view(neighbours.shape[0], -1)


def forward(
    feats: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, neighbours: torch.Tensor
) -> torch.Tensor:
    """feats [N, Ci], weight [V, Ci, Co], bias [Co], neighbours int32 [N, V] -> [N, Co]."""
    padded = pad_rows(feats)
    matrix = weight.flatten(0, 1)
    out = feats.new_empty((neighbours.shape[0], weight.shape[2]))
    for part in blocks(neighbours, feats):
        gathered = gather(padded, neighbours[part])
        if bias is None:
            torch.mm(gathered, matrix, out=out[part])
        else:
            torch.addmm(bias, gathered, matrix, out=out[part])
    return out


def weight_gradient(feats: torch.Tensor, grad: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
    """feats [N, Ci], grad [N, Co], neighbours int32 [N, V] -> fp32 (or fp64) [V, Ci, Co]."""
    padded = pad_rows(feats)
    exact = torch.promote_types(feats.dtype, torch.float32)
    volume, channels = neighbours.shape[1], feats.shape[1]
    total = torch.zeros((volume * channels, grad.shape[1]), dtype=exact, device=feats.device)
    for part in blocks(neighbours, feats):
        total += (gather(padded, neighbours[part]).T @ grad[part]).to(exact)
    return total.view(volume, channels, grad.shape[1])
