"""Training losses as pure functions of predictions and targets; every one returns a float32 scalar."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

QUAD_OFFSETS = (
    ((0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0)),
    ((0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)),
    ((0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 0)),
)  # corners of the quad of the x, y, z edge relative to its voxel (geometry spec 1.7)


def kl_to_normal(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """Mean over all elements of KL(N(mean, exp logvar) || N(0, 1))."""
    mean, logvar = mean.float(), logvar.float()
    return 0.5 * (mean.square() + logvar.exp() - logvar - 1).mean()


def subdivision_loss(logits: Sequence[torch.Tensor], masks: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sum over levels of the mean binary cross-entropy of the child masks; logits and masks [N_i, 8] a level."""
    terms = [F.binary_cross_entropy_with_logits(a.float(), b.float()) for a, b in zip(logits, masks, strict=True)]
    return torch.stack(terms).sum()


def dice_loss(logits: torch.Tensor, occupied: torch.Tensor) -> torch.Tensor:
    """1 - (2 sum(p g) + 1) / (sum p + sum g + 1), mean over batch items; both [B, ...] (TRELLIS, structure VAE)."""
    p = torch.sigmoid(logits.float()).flatten(1)
    g = occupied.float().flatten(1)
    overlap = (2 * (p * g).sum(1) + 1) / (p.sum(1) + g.sum(1) + 1)
    return 1 - overlap.mean()


def structure_loss(logits: torch.Tensor, occupied: torch.Tensor) -> torch.Tensor:
    """Dice plus binary cross-entropy of the occupancy grid [B, 1, R, R, R]."""
    entropy = F.binary_cross_entropy_with_logits(logits.float(), occupied.float())
    return dice_loss(logits, occupied) + entropy


def attribute_loss(predicted: torch.Tensor, target: torch.Tensor, *, weights: torch.Tensor) -> torch.Tensor:
    """Weighted L1 plus squared error over attribute rows [M, 6] in [-1, 1], and the same of the colour differences.

    Without the second term (R - G, G - B, B - R) the network spends long on brightness alone: red, green and blue of
    most materials rise and fall together. A third term for the green-magenta axis alone made training worse.
    weights [6] sum to 1.
    """
    error = predicted.float() - target.float()
    chroma = error[:, 0:3] - error[:, 0:3].roll(1, dims=1)
    values = ((error.abs() + error.square()).mean(0) * weights).sum()
    return values + 0.5 * (chroma.abs() + chroma.square()).mean()


def quad_rows(neighbours: torch.Tensor, crossed: torch.Tensor) -> torch.Tensor:
    """Rows of the four voxels of every complete quad.

    Args:
        neighbours: int [M, 27] rows of the 3x3x3 neighbourhood, index (kx*3 + ky)*3 + kz, -1 where empty.
        crossed: bool [M, 3].

    Returns:
        int64 [Q, 4], quads grouped by axis, corners in the order of the geometry spec.
    """
    quads = []
    for axis, offsets in enumerate(QUAD_OFFSETS):
        index = [((x + 1) * 3 + (y + 1)) * 3 + (z + 1) for x, y, z in offsets]
        rows = neighbours[crossed[:, axis]][:, index]
        quads.append(rows[(rows >= 0).all(1)])
    return torch.cat(quads).long()


def _bend(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """1 - cosine between the triangles (a, b, c) and (a, c, d), all [Q, 3]."""
    first = torch.linalg.cross(b - a, c - a)
    second = torch.linalg.cross(c - a, d - a)
    return 1 - F.cosine_similarity(first, second, dim=1)


def split_loss(split_logits: torch.Tensor, positions: torch.Tensor, quads: torch.Tensor) -> torch.Tensor:
    """Teach the split weights to choose the diagonal along which the true quad bends less.

    A quad is cut along corners 0-2 where w0 w2 > w1 w3 with w = softplus(logit), so the margin log(w0 w2 / (w1 w3)) is
    a classifier of the diagonal. Quads count by how much the choice matters.

    Args:
        split_logits: [M, 1]; positions: true dual vertices in voxel units [M, 3]; quads: int64 [Q, 4].
    """
    if not len(quads):
        return split_logits.float().sum() * 0
    corners = positions[quads].float()
    p0, p1, p2, p3 = corners.unbind(1)
    along_02, along_13 = _bend(p0, p1, p2, p3), _bend(p1, p2, p3, p0)
    log_weight = F.softplus(split_logits.float()).clamp_min(1e-6).log()[:, 0]
    log_weight = log_weight.index_select(0, quads.flatten()).view(-1, 4)
    margin = log_weight[:, 0] + log_weight[:, 2] - log_weight[:, 1] - log_weight[:, 3]
    importance = (along_02 - along_13).abs().clamp_max(1.0)
    entropy = F.binary_cross_entropy_with_logits(margin, (along_02 < along_13).float(), reduction="none")
    return (entropy * importance).mean()


def matte_loss(logits: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Cross-entropy + L1 + L1 of the gradients of alpha; logits and alpha [B, 1, S, S], alpha in [0, 1]."""
    entropy = F.binary_cross_entropy_with_logits(logits.float(), alpha)
    p = torch.sigmoid(logits.float())
    edges = sum((p.diff(dim=d) - alpha.diff(dim=d)).abs().mean() for d in (2, 3))
    return entropy + (p - alpha).abs().mean() + edges
