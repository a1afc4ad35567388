"""Cameras that look at the origin: world Z up, right-handed; picture x right, y down (OpenCV).

world --extrinsics--> camera --projection--> clip --rasteriser--> pixels, row 0 on top
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

BOX_RADIUS = math.sqrt(3.0) / 2.0  # of the sphere around the box [-0.5, 0.5]^3


@dataclass(frozen=True)
class Camera:
    """A perspective camera on a sphere around the origin, upright. Matrices are float64, for column vectors."""

    yaw: float  # radians; 0 looks from +Y, pi from -Y (the side seen in the picture)
    pitch: float  # radians, up positive
    radius: float
    fov: float  # degrees, of the whole picture in x and y
    near: float = 1.0
    far: float = 100.0
    window: tuple[float, float, float] = (0.5, 0.5, 1.0)  # the part shown: middle x, y and side, in picture sides

    def __post_init__(self) -> None:
        if not 0.0 < self.fov < 180.0 or self.radius <= 0.0 or not 0.0 < self.near < self.far:
            raise ValueError(f"camera needs 0 < fov < 180, radius > 0, 0 < near < far, got {self}")

    @property
    def eye(self) -> np.ndarray:
        """Position [3]."""
        level = math.cos(self.pitch)
        direction = (math.sin(self.yaw) * level, math.cos(self.yaw) * level, math.sin(self.pitch))
        return self.radius * np.array(direction)

    @property
    def extrinsics(self) -> np.ndarray:
        """World to camera [4, 4]: x right, y down, z forward. Straight up and down the yaw decides what is right."""
        forward = -self.eye / self.radius
        right = np.array([-math.cos(self.yaw), math.sin(self.yaw), 0.0])  # normalised (-up) x forward
        rotation = np.stack([right, np.cross(forward, right), forward])
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = rotation, -rotation @ self.eye
        return matrix

    @property
    def focal(self) -> float:
        """Focal length in sides of the part shown."""
        return 0.5 / math.tan(math.radians(self.fov) / 2.0) / self.window[2]

    @property
    def intrinsics(self) -> np.ndarray:
        """Camera to picture [3, 3], the part shown being [0, 1]^2."""
        x, y = (0.5 - (middle - 0.5) / self.window[2] for middle in self.window[:2])
        return np.array([[self.focal, 0.0, x], [0.0, self.focal, y], [0.0, 0.0, 1.0]])

    @property
    def projection(self) -> np.ndarray:
        """Camera to clip [4, 4]: near plane z = -w, far plane z = w; clip y points down the picture."""
        depth = self.far - self.near
        matrix = np.zeros((4, 4))
        matrix[:2, :3] = 2.0 * self.intrinsics[:2]
        matrix[:2, 2] -= 1.0
        matrix[2, 2], matrix[2, 3] = (self.far + self.near) / depth, -2.0 * self.near * self.far / depth
        matrix[3, 2] = 1.0
        return matrix

    def clip(self, vertices: np.ndarray) -> np.ndarray:
        """Clip coordinates float32 [V, 4] of world positions [V, 3], for `rasterise`."""
        matrix = self.projection @ self.extrinsics
        return np.ascontiguousarray(vertices @ matrix[:, :3].T + matrix[:, 3], dtype=np.float32)

    def framed(self, vertices: np.ndarray, *, margin: float = 0.03) -> Camera:
        """The same view cut to a square around world positions [V, 3], with a margin in sides of the cut.

        Perspective does not change, as when a photograph is cropped; the camera must see all of them.
        """
        clip = replace(self, window=(0.5, 0.5, 1.0)).clip(vertices).astype(np.float64)
        pixels = clip[:, :2] / clip[:, 3:] * 0.5 + 0.5
        low, high = pixels.min(axis=0), pixels.max(axis=0)
        side = max(float((high - low).max()), 1e-6) / (1.0 - 2.0 * margin)
        x, y = ((low + high) / 2.0).tolist()
        return replace(self, window=(x, y, side))


def view_camera(pitch: float, fov: float, *, fill: float = 0.9, radius: float = BOX_RADIUS) -> Camera:
    """The camera of the picture frame: on the -Y side, upright, a sphere of `radius` filling `fill` of the picture.

    pitch in radians, fov in degrees. The sphere's silhouette is a circle of half angle asin(radius / distance), so
    distance = radius / sin(atan(fill tan(fov / 2))).
    """
    half_angle = math.atan(fill * math.tan(math.radians(fov) / 2.0))
    distance = radius / math.sin(half_angle)
    nearest = max(distance - 2.0 * BOX_RADIUS, 0.05 * distance)
    return Camera(math.pi, pitch, distance, fov, near=nearest, far=distance + 2.0 * BOX_RADIUS)


def snapshot_cameras(
    count: int = 8, *, offset: float = -16.0, pitch: float = 20.0, radius: float = 2.0
) -> list[Camera]:
    """Cameras evenly around the object, fov 36 degrees; offset and pitch in degrees."""
    yaws = [360.0 * k / count + offset for k in range(count)]
    return [Camera(math.radians(yaw), math.radians(pitch), radius, 36.0) for yaw in yaws]


def video_cameras(count: int = 120) -> list[Camera]:
    """Cameras of a turntable that also nods: fov 40 degrees, radius 2."""
    times = np.linspace(0.0, 2.0 * 3.1415, count)
    return [Camera(math.pi / 2.0 - t, 0.25 + 0.5 * math.sin(t), 2.0, 40.0) for t in times.tolist()]


def sphere_cameras(count: int = 30) -> list[Camera]:
    """Cameras spread over the sphere by the Hammersley sequence (the first looks straight up): fov 40, radius 2."""
    pitches = [math.acos(1.0 - 2.0 * k / count) - math.pi / 2.0 for k in range(count)]
    yaws = [2.0 * math.pi * _radical_inverse(k) for k in range(count)]
    return [Camera(yaw, pitch, 2.0, 40.0) for yaw, pitch in zip(yaws, pitches, strict=True)]


def _radical_inverse(index: int) -> float:
    """Van der Corput's sequence in base 2: the binary digits of index mirrored at the point."""
    bits = f"{index:b}"[::-1]
    return int(bits, 2) / (1 << len(bits))
