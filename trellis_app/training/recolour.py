"""Random materials for the material autoencoder: a batch holds few objects, and an object few colours.

Every distinct colour of an object, within one block of space, is moved towards a random colour; some blocks also get
random metallic, roughness and alpha. Geometry and the borders between colours stay as they are.
"""

from __future__ import annotations

import torch

LEVELS = 16  # steps a channel in which colours count as the same
BLOCKS = (16, 32, 64, 256)  # sides in voxels; one is drawn a batch


def recolour(attributes: torch.Tensor, coords: torch.Tensor, *, share: float = 0.6) -> torch.Tensor:
    """New attribute rows.

    Args:
        attributes: float32 [M, 6] in [-1, 1].
        coords: int32 [M, 4].
        share: of the blocks that change; the others stay as they are.

    Returns:
        float32 [M, 6] in [-1, 1].
    """
    draw = torch.randint(1, 1 << 30, (8,), device="cpu").tolist()
    block = BLOCKS[draw[0] % len(BLOCKS)]
    colour = ((attributes[:, :3] + 1) * (LEVELS / 2)).long().clamp(0, LEVELS - 1)
    place = torch.cat([coords[:, :1].long(), coords[:, 1:].long() // block], dim=1)
    cell = _mixed(place, draw[1])
    paint = _mixed(torch.cat([cell[:, None], colour], dim=1), draw[2])
    uniform = torch.stack([_uniform(paint, draw[3] + i) for i in range(6)], dim=1)
    strength = _uniform(paint, draw[4])[:, None]
    target = 2 * uniform - 1
    rgb = attributes[:, :3] + strength * (target[:, :3] - attributes[:, :3])
    rest = torch.where(_uniform(paint, draw[5])[:, None] < 0.4, target[:, 3:], attributes[:, 3:])
    alpha = torch.where(_uniform(paint, draw[6])[:, None] < 0.8, attributes[:, 5:], rest[:, 2:])
    changed = torch.cat([rgb, rest[:, :2], alpha], dim=1)
    return torch.where(_uniform(cell, draw[7])[:, None] < share, changed, attributes)


def _mixed(values: torch.Tensor, seed: int) -> torch.Tensor:
    """int64 [M, K] -> [M] hash (multiply and shift, mod 2^62)."""
    code = torch.full_like(values[:, 0], seed)
    for column in values.unbind(1):
        code = ((code ^ column) * 0x2545F4914F6CDD1D) & 0x3FFFFFFFFFFFFFFF
        code = code ^ (code >> 29)
    return code


def _uniform(code: torch.Tensor, seed: int) -> torch.Tensor:
    """[M] hashes -> float32 [M] in [0, 1)."""
    return ((_mixed(code[:, None], seed) >> 20) & 0xFFFFFF).float() / float(1 << 24)
