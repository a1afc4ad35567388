"""Attention written out: scores, softmax, weighted sum, one batch item after another, in float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, queries: Sequence[int], keys: Sequence[int]
) -> torch.Tensor:
    """q [Nq, H, D], k and v [Nk, H, D], rows of each item in `queries` and `keys` -> [Nq, H, D] in the dtype of q."""
    parts = zip(q.float().split(list(queries)), k.float().split(list(keys)), v.float().split(list(keys)), strict=True)
    return torch.cat([_item(*part) for part in parts]).to(q.dtype)


def _item(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    weights = (torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, v)
