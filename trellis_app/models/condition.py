"""What a flow transformer keeps of the picture for a whole run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trellis_app.sparse.packing import Packing

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True, eq=False)
class BlockMemory:
    """What one block attends to."""

    keys: torch.Tensor  # [B * L, H, D], normed
    values: torch.Tensor  # [B * L, H, D]
    packing: Packing
    constant: torch.Tensor | None  # [B, C]: what attention adds to each row of an item, where that is the same


@dataclass(frozen=True, eq=False)
class ConditionMemory:
    """Keys and values of the picture for every block: computed once an asset, used at every sampler step."""

    keys: Tensors  # per block [B * L, H, D], normed
    values: Tensors  # per block [B * L, H, D]
    packing: Packing  # B items of L tokens
    constants: Tensors | None = None  # per block [B, C]: what attention to one token adds to any row

    @property
    def blocks(self) -> tuple[BlockMemory, ...]:
        """The part of each block."""
        constants = self.constants or (None,) * len(self.keys)
        parts = zip(self.keys, self.values, constants, strict=True)
        return tuple(BlockMemory(keys, values, self.packing, constant) for keys, values, constant in parts)

    def copied(self) -> ConditionMemory:
        """The same in memory of its own."""
        keys, values = tuple(k.clone() for k in self.keys), tuple(v.clone() for v in self.values)
        constants = None if self.constants is None else tuple(c.clone() for c in self.constants)
        return ConditionMemory(keys, values, self.packing, constants)

    def take(self, other: ConditionMemory) -> None:
        """Overwrite the values by those of another memory of the same shape."""
        mine, theirs = (m.keys + m.values + (m.constants or ()) for m in (self, other))
        for own, new in zip(mine, theirs, strict=True):
            own.copy_(new)
