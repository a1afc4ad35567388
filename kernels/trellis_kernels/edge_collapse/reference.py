"""One round of edge collapses in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trellis_kernels.edge_collapse.op import NEVER, TRIES, CollapseMesh, Verdict

STEP_BITS = 21  # bits of a float32 dropped for its cost step: 4 steps for each doubling
NEEDLE = 0.03  # squared roundness (12 (2 area)^2 / (sum of squared sides)^2, at most 1) of a needle
TURN = 0.07  # squared cosine of the most a triangle may turn in one collapse
AWAY = 0.03  # squared cosine of the most it may turn in all
LENIENT = 3  # from so many refusals on, needles are allowed
LONGEST = 64  # entries of a corner list that are looked at; collapses at the ends of longer ones are refused
Columns = Sequence[torch.Tensor] | torch.Tensor  # one [K] for each component
ROW = ((0, 1, 2), (1, 3, 4), (2, 4, 5))  # the symmetric matrix in the first six numbers of a quadric


def edge_keys(mesh: CollapseMesh) -> tuple[torch.Tensor, torch.Tensor]:
    cost = merged(mesh, mesh.edges)[2] * torch.pow(8.0, mesh.refused.float())
    gone = (mesh.edges[:, 0] == mesh.edges[:, 1]) | (mesh.refused >= TRIES)
    cost = torch.where(gone, torch.inf, cost)
    step = cost.view(torch.int32).long() >> STEP_BITS
    return cost, torch.where(gone, NEVER, step << 32 | mixed(len(cost), cost.device))


def mixed(count: int, device: torch.device) -> torch.Tensor:
    """A bijective hash of the numbers 0 .. count - 1 to 32 bits, int64 (the "lowbias32" mixer of C. Wellons)."""
    x = torch.arange(count, device=device)
    x = ((x ^ x >> 16) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ x >> 15) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ x >> 16


def merged(mesh: CollapseMesh, edges: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(points [K, 3], quadrics [K, 10] about them, errors [K]) of the merged ends of edges [K, 2].

    The least-error point by Cholesky's method; the best of the middle and the ends where it lies far from the edge.
    """
    a, b = edges[:, 0].long(), edges[:, 1].long()
    d = (mesh.points[b] - mesh.points[a]).T
    qa, qb = mesh.quadrics[a].T, mesh.quadrics[b].T
    pull = times(qb, d)
    q = [qa[k] + qb[k] for k in range(6)]
    q += [qa[6 + k] + qb[6 + k] - pull[k] for k in range(3)]
    q.append(qa[9] + qb[9] - 2 * dot(qb[6:9], d) + dot(pull, d))
    x = solved(q)
    middle = [0.5 * d[k] for k in range(3)]
    away = dot([x[k] - middle[k] for k in range(3)], [x[k] - middle[k] for k in range(3)])
    best = torch.where(away <= 4 * dot(d, d), error(q, x), torch.inf)
    chosen = [torch.where(best < torch.inf, x[k], 0) for k in range(3)]
    solvable = best < torch.inf
    for t in (0.5, 0.0, 1.0):
        trial = [t * d[k] for k in range(3)]
        value = error(q, trial)
        better = ~solvable & (value < best)
        best = torch.where(better, value, best)
        chosen = [torch.where(better, trial[k], chosen[k]) for k in range(3)]
    best = best.clamp_min(0)
    turned = times(q, chosen)
    quadric = torch.stack([*q[:6], *[q[6 + k] + turned[k] for k in range(3)], best], dim=1)
    return mesh.points[a] + torch.stack(chosen, dim=1), quadric, best


def dot(x: Columns, y: Columns) -> torch.Tensor:
    return x[0] * y[0] + x[1] * y[1] + x[2] * y[2]


def times(q: Columns, x: Columns) -> list[torch.Tensor]:
    return [q[r[0]] * x[0] + q[r[1]] * x[1] + q[r[2]] * x[2] for r in ROW]


def error(q: Columns, x: Columns) -> torch.Tensor:
    return dot(x, times(q, x)) + 2 * dot(q[6:9], x) + q[9]


def solved(q: Columns) -> list[torch.Tensor]:
    """x with A x = -b; infinite where A is not positive definite."""
    l10, l20 = q[1] / q[0], q[2] / q[0]
    d1 = q[3] - l10 * q[1]
    s = q[4] - l10 * q[2]
    l21 = s / d1
    d2 = q[5] - l20 * q[2] - l21 * s
    y0 = -q[6]
    y1 = -q[7] - l10 * y0
    y2 = -q[8] - l20 * y0 - l21 * y1
    x2 = y2 / d2
    x1 = y1 / d1 - l21 * x2
    x0 = y0 / q[0] - l10 * x1 - l20 * x2
    good = (q[0] > 0) & (d1 > 0) & (d2 > 0)
    return [torch.where(good, x, torch.inf) for x in (x0, x1, x2)]


def independent_edges(mesh: CollapseMesh, keys: torch.Tensor, limit: int) -> torch.Tensor:
    able = torch.nonzero(keys <= limit)[:, 0]
    ends = mesh.edges[able].long()
    least = keys.new_full((len(mesh.points),), NEVER)
    for side in (0, 1):
        least.scatter_reduce_(0, ends[:, side], keys[able], "amin")
    near = least.clone()
    every = mesh.edges.long()
    near.scatter_reduce_(0, every[:, 0], least[every[:, 1]], "amin")
    near.scatter_reduce_(0, every[:, 1], least[every[:, 0]], "amin")
    return able[(near[ends] == keys[able][:, None]).all(1)]


def corners_of(mesh: CollapseMesh, vertices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(living corners of vertices [K] int64 [K, L], -1 where there is none; whether the list was longer, bool [K])."""
    corner = mesh.head[vertices].long()
    columns: list[torch.Tensor] = []
    while len(columns) < LONGEST and bool((corner >= 0).any()):
        lives = (corner >= 0) & mesh.alive[corner.clamp_min(0) // 3]
        columns.append(torch.where(lives, corner, -1))
        corner = torch.where(corner >= 0, mesh.following[corner.clamp_min(0)].long(), -1)
    found = torch.stack(columns, dim=1) if columns else corner.new_zeros(len(vertices), 0)
    return found, corner >= 0


def ring(mesh: CollapseMesh, corners: torch.Tensor) -> torch.Tensor:
    """The other two vertices of the corners' faces, int64 [K, L, 2], -1 where there is no corner."""
    face, place = corners.clamp_min(0) // 3, corners.clamp_min(0) % 3
    others = torch.stack([mesh.faces[face, (place + k) % 3] for k in (1, 2)], dim=-1).long()
    return torch.where(corners[..., None] >= 0, others, -1)


def examine(mesh: CollapseMesh, picked: torch.Tensor) -> Verdict:
    edges = mesh.edges[picked].long()
    points, quadrics, _ = merged(mesh, edges)
    a, b = edges.unbind(1)
    (at_a, more_a), (at_b, more_b) = corners_of(mesh, a), corners_of(mesh, b)
    ring_a, ring_b = ring(mesh, at_a), ring(mesh, at_b)
    shared = (ring_b == a[:, None, None]).any(2).sum(1)
    allowed = link_allows(mesh, edges, ring_a, ring_b, shared) & ~more_a & ~more_b
    lenient = mesh.refused[picked] >= LENIENT
    for end, other, corners in ((a, b, at_a), (b, a, at_b)):
        allowed &= keeps_sides(mesh, end, other, corners, points, lenient)
    return Verdict(torch.where(allowed, shared, 0).int(), points, quadrics)


def link_allows(
    mesh: CollapseMesh, edges: torch.Tensor, ring_a: torch.Tensor, ring_b: torch.Tensor, shared: torch.Tensor
) -> torch.Tensor:
    """Whether the ends' common neighbours are just the opposite corners of the edge's faces, bool [K]."""
    around_a = ring_a.flatten(1)
    around_b = ring_b.flatten(1).sort(dim=1).values
    fresh = around_b >= 0
    fresh[:, 1:] &= around_b[:, 1:] != around_b[:, :-1]
    common = ((around_b[:, :, None] == around_a[:, None, :]).any(2) & fresh).sum(1)
    corners = (ring_a[:, :, 0] >= 0).sum(1) + (ring_b[:, :, 0] >= 0).sum(1)
    ends_on_border = mesh.border[edges].all(1)
    left = corners - 2 * shared
    return (
        (common == shared) & (shared == torch.where(ends_on_border, 1, 2)) & (left >= torch.where(ends_on_border, 1, 3))
    )


def keeps_sides(
    mesh: CollapseMesh,
    end: torch.Tensor,
    other: torch.Tensor,
    corners: torch.Tensor,
    points: torch.Tensor,
    lenient: torch.Tensor,
) -> torch.Tensor:
    """Whether no triangle at the corners [K, L] of `end` turns over or becomes a needle when it moves to `points`."""
    around, ahead = ring(mesh, corners), mesh.ahead[corners.clamp_min(0) // 3]
    moves = (around[:, :, 0] >= 0) & (around != other[:, None, None]).all(2)
    q, r = (mesh.points[around[:, :, k].clamp_min(0)] for k in (0, 1))
    e = r - q
    u, v = mesh.points[end][:, None, :] - q, points[:, None, :] - q
    o, n = torch.linalg.cross(e, u), torch.linalg.cross(e, v)
    old, new, turn = (o * o).sum(2), (n * n).sum(2), (o * n).sum(2)
    away = (n * ahead).sum(2)
    over = (turn <= 0) | (turn * turn < TURN * old * new) | (away <= 0) | (away * away < AWAY * new)
    w, s = v - e, u - e
    base = (e * e).sum(2)
    after = base + (v * v).sum(2) + (w * w).sum(2)
    before = base + (u * u).sum(2) + (s * s).sum(2)
    needle = (12 * new < NEEDLE * after * after) & (new * before * before < old * after * after)
    return ~(moves & (over | (needle & ~lenient[:, None]))).any(1)


def merge(mesh: CollapseMesh, picked: torch.Tensor, verdict: Verdict) -> None:
    a, b = mesh.edges[picked].long().unbind(1)
    corners, _ = corners_of(mesh, b)
    dies = (ring(mesh, corners) == a[:, None, None]).any(2)
    mesh.alive[corners[dies] // 3] = False
    moved = (corners >= 0) & ~dies
    mesh.faces.view(-1)[corners[moved]] = a[:, None].expand(corners.shape)[moved].int()
    mesh.following[mesh.tail[a].long()] = mesh.head[b]
    mesh.tail[a] = mesh.tail[b]
    mesh.points[a], mesh.quadrics[a] = verdict.points, verdict.quadrics
    mesh.border[a] |= mesh.border[b]
    target = torch.arange(len(mesh.points), device=a.device, dtype=torch.int32)
    touched = torch.zeros(len(mesh.points), dtype=torch.bool, device=a.device)
    target[b], touched[a], touched[b] = a.int(), True, True
    ends = mesh.edges.long()
    mesh.refused[touched[ends].any(1)] = 0
    mesh.edges.copy_(target[ends])
