"""Measures of likeness between objects: surface distance, silhouettes, colours."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree


def f_scores(a: np.ndarray, b: np.ndarray, thresholds: tuple[float, ...]) -> tuple[float, ...]:
    """F-score of two point sets at each threshold (Tanks and Temples, Knapitsch et al. 2017).

    Harmonic mean of the share of `a` within the threshold of `b` and the share of `b` within it of `a`; float [N, 3]
    each, 0 where a set is empty.
    """
    if not len(a) or not len(b):
        return tuple(0.0 for _ in thresholds)
    to_b = cKDTree(b).query(a, k=1)[0]
    to_a = cKDTree(a).query(b, k=1)[0]
    scores = []
    for threshold in thresholds:
        precision, recall = float((to_b <= threshold).mean()), float((to_a <= threshold).mean())
        scores.append(2 * precision * recall / max(precision + recall, 1e-12))
    return tuple(scores)


def surface_points(vertices: np.ndarray, faces: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Points uniform over the triangles' area, float64 [count, 3]; empty where there is no area."""
    corners = np.asarray(vertices, np.float64)[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    total = area.sum()
    if not total > 0:
        return np.zeros((0, 3))
    chosen = np.searchsorted(np.cumsum(area) / total, rng.random(count)).clip(0, len(area) - 1)
    u, v = rng.random((2, count, 1))
    outside = u + v > 1
    u, v = np.where(outside, 1 - u, u), np.where(outside, 1 - v, v)
    a, b, c = corners[chosen].transpose(1, 0, 2)
    return np.asarray(a + u * (b - a) + v * (c - a))


def intersection_over_union(a: np.ndarray, b: np.ndarray) -> float:
    """Of two boolean masks of one shape; 1 where both are empty."""
    union = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / union) if union else 1.0


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of values in [0, 1]; at most 60, NaN where there is nothing to compare."""
    if not a.size:
        return float("nan")
    error = float(np.mean((np.asarray(a, np.float64) - b) ** 2))
    return float(-10 * np.log10(max(error, 1e-6)))


def voxel_keys(coords: np.ndarray) -> np.ndarray:
    """int [M, 3] coordinates as single sortable integers int64 [M]."""
    x, y, z = np.asarray(coords, np.int64).T
    return np.asarray((x << 40) | (y << 20) | z)


def matched_rows(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `a` and of `b` (both int [.., 3], unique rows) with equal coordinates, in corresponding order."""
    _, rows_a, rows_b = np.intersect1d(voxel_keys(a), voxel_keys(b), assume_unique=True, return_indices=True)
    return rows_a, rows_b
