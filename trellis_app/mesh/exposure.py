"""What pictures from all around show of each part of a surface: a judge of its own beside the air and the rays.

Surface ──orthographic views──▶ rasterise ──▶ the face of every pixel ──▶ pixels of each part, by the side that is seen
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from trellis_kernels.rasterise.op import rasterise

from trellis_app.mesh.surface import Surface, face_areas, face_cross

VIEWS = 64  # directions, evenly spread over the sphere
_LARGEST = 512  # pixels along a picture's side


@dataclass(frozen=True)
class Exposure:
    """What pictures show of each of P parts."""

    front: np.ndarray  # int64 [P] pixels that show the side faces are wound for
    back: np.ndarray  # int64 [P] and the other side
    alone: np.ndarray  # float64 [P] pixels that a closed convex part of the same area would fill

    def share(self) -> np.ndarray:
        """How much is seen of each part, float64 [P]: 0 nothing, about 1 a convex part in the open."""
        return (self.front + self.back) / np.maximum(self.alone, 1e-30)


def view_directions() -> np.ndarray:
    """Unit vectors that look at the surface, float64 [VIEWS, 3]: a Fibonacci lattice on the sphere."""
    k = np.arange(VIEWS)
    z, turn = 1 - (2 * k + 1) / VIEWS, k * np.pi * (3 - np.sqrt(5))
    radius = np.sqrt(1 - z * z)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), z], axis=1)


def exposure(surface: Surface, part: np.ndarray, *, pixel: float) -> Exposure:
    """Pixels of each part (of each face: int [F]) in VIEWS orthographic pictures.

    pixel: side of a pixel in world units; larger if a picture would be wider than 512 pixels.
    """
    count = int(part.max()) + 1
    low, high = surface.vertices.min(axis=0), surface.vertices.max(axis=0)
    radius = max(float(np.linalg.norm(high - low)) / 2, 1e-12)
    side = int(np.clip(np.ceil(2 * radius / pixel), 8, _LARGEST))
    centred, cross = surface.vertices - (low + high) / 2, face_cross(surface)
    faces = torch.from_numpy(np.ascontiguousarray(surface.faces, np.int32))
    front, back = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for forward in view_directions():
        right = np.cross(forward, np.eye(3)[np.abs(forward).argmin()])
        right /= np.linalg.norm(right)
        frame = np.stack([right, np.cross(forward, right), forward], axis=1) / radius
        clip = np.concatenate([centred @ frame, np.ones((len(centred), 1))], axis=1).astype(np.float32)
        face = rasterise(torch.from_numpy(clip), faces, (side, side)).face.numpy()
        seen = face[face >= 0]
        towards = cross[seen] @ forward < 0
        front += np.bincount(part[seen[towards]], minlength=count)
        back += np.bincount(part[seen[~towards]], minlength=count)
    area = np.bincount(part, weights=face_areas(surface), minlength=count)
    return Exposure(front, back, area / 4 * VIEWS * (side / (2 * radius)) ** 2)
