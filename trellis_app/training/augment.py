"""Random changes of a training object, and its way into the frame of the view.

Order of use: `augment` (colours, materials, proportions, a second object; still Y up), then `to_view_frame`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from trellis_app.training.library import LibraryObject, check_visible, face_areas, join

BOX_SIDE = 0.99999  # longest side in the view frame (spec/geometry.md 2.4)
METALS = np.array(
    [
        [255, 226, 155],
        [250, 208, 192],
        [246, 247, 250],
        [215, 220, 226],
        [190, 187, 182],
        [150, 152, 158],
        [252, 240, 216],
    ],
    np.float32,
)  # sRGB base colours of gold, copper, silver, aluminium, nickel, iron, brass-like alloys
MAX_PALETTE = 64  # colours that get their own change; above it neighbours share one


def augment(obj: LibraryObject, rng: np.random.Generator, other: LibraryObject | None = None) -> LibraryObject:
    """Return a changed copy: mirrored, stretched, tilted, recoloured, of other materials, together with `other`.

    About a sixth of the results keep their colours and materials; `other`, where given, is always used. Raises
    MeshError where the object shows nothing (`check_visible`).
    """
    obj = _vary(obj, rng)
    if other is not None:
        obj = _together(obj, _vary(other, rng), rng)
    if rng.random() < 0.04:
        obj = replace(obj, vertices=_turn(obj.vertices, axis=0, angle=rng.choice([-0.5, 0.5]) * np.pi))
    elif rng.random() < 0.1:
        obj = replace(obj, vertices=_turn(obj.vertices, axis=int(rng.choice([0, 2])), angle=rng.normal() * 0.2))
    return check_visible(obj)


def to_view_frame(obj: LibraryObject, yaw: float) -> LibraryObject:
    """Turn by `yaw` (radians, about up), then Y up -> Z up with the side that faced +Z facing -Y, in the unit box.

    The bounding box is centred on the origin and its longest side is 0.99999.
    """
    vertices = _turn(obj.vertices.astype(np.float64), axis=1, angle=yaw)
    used = vertices[obj.faces.reshape(-1)]
    low, high = used.min(axis=0), used.max(axis=0)
    vertices = (vertices - (low + high) / 2) * (BOX_SIDE / max((high - low).max(), 1e-12))
    x, y, z = vertices.T
    return replace(obj, vertices=np.stack([x, -z, y], axis=1).astype(np.float32))


def _vary(obj: LibraryObject, rng: np.random.Generator) -> LibraryObject:
    obj = _stretch(check_visible(obj), rng)
    if rng.random() < 0.17:
        return obj
    rgba, metal_rough = _recolour(obj, rng)
    return _swap_materials(replace(obj, corner_rgba=rgba, metal_rough=metal_rough), rng)


def _turn(vertices: np.ndarray, *, axis: int, angle: float) -> np.ndarray:
    """Rotate [V, 3] right-handed about a coordinate axis; elementwise, so no BLAS threads start in workers."""
    turned = vertices.copy()
    first, second = (axis + 1) % 3, (axis + 2) % 3
    cos, sin = np.cos(angle), np.sin(angle)
    turned[:, first] = cos * vertices[:, first] - sin * vertices[:, second]
    turned[:, second] = sin * vertices[:, first] + cos * vertices[:, second]
    return turned


def _stretch(obj: LibraryObject, rng: np.random.Generator) -> LibraryObject:
    """Mirror left-right in half of the cases; scale the axes unevenly in 60 %, now and then taper or twist about up."""
    vertices = obj.vertices.copy()
    faces, corner_rgba = obj.faces, obj.corner_rgba
    if rng.random() < 0.5:
        vertices[:, 0] *= -1
        faces, corner_rgba = faces[:, ::-1], corner_rgba[:, ::-1]
    if rng.random() < 0.6:
        vertices *= np.exp(rng.normal(size=3) * 0.22).clip(0.6, 1.7).astype(np.float32)
    if rng.random() < 0.12:
        low, high = vertices[:, 1].min(), vertices[:, 1].max()
        height = ((vertices[:, 1] - low) / max(high - low, 1e-9) - 0.5)[:, None]
        vertices[:, [0, 2]] *= 1 + rng.uniform(-0.6, 0.6) * height
    return replace(
        obj,
        vertices=vertices,
        faces=np.ascontiguousarray(faces),
        corner_rgba=np.ascontiguousarray(corner_rgba),
    )


def _palette(rgba: np.ndarray) -> np.ndarray:
    """Group of every corner, int [F, 3]: one group a distinct colour, or a coarse colour cell where there are many."""
    colours = rgba[..., :3].astype(np.int32)
    for step in (1, 32, 64):
        cells = colours // step
        keys = (cells[..., 0] * 256 + cells[..., 1]) * 256 + cells[..., 2]
        distinct, groups = np.unique(keys, return_inverse=True)
        if len(distinct) <= MAX_PALETTE:
            break
    return groups.reshape(keys.shape)


def _recolour(obj: LibraryObject, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Shift hue, saturation and value of the whole object, or of each colour of its palette; jitter roughness."""
    groups = _palette(obj.corner_rgba)
    count = int(groups.max()) + 1
    each = rng.random() < 0.35  # every palette colour its own change
    size = (count, 1) if each else (1, 1)
    hue = rng.uniform(-0.5, 0.5, size) if rng.random() < 0.7 else rng.normal(size=size) * 0.05
    saturation = np.exp(rng.normal(size=size) * 0.35)
    gamma = np.exp(rng.normal(size=size) * 0.35)
    shift = np.broadcast_to(np.concatenate([hue, saturation, gamma], axis=1), (count, 3))[groups]
    hsv = _to_hsv(obj.corner_rgba[..., :3].astype(np.float32) / 255)
    hsv[..., 0] += shift[..., 0]
    hsv[..., 1] = np.clip(hsv[..., 1] * shift[..., 1], 0, 1)
    hsv[..., 2] = hsv[..., 2] ** shift[..., 2]
    if rng.random() < 0.15:  # grey objects exist, and hue shifts leave grey parts grey
        tint = rng.uniform(0, 1, size)
        grey = hsv[..., 1] < 0.08
        hsv[..., 0] = np.where(grey, np.broadcast_to(tint, (count, 1))[groups][..., 0], hsv[..., 0])
        hsv[..., 1] = np.where(grey, rng.uniform(0.1, 0.7), hsv[..., 1])
    rgba = obj.corner_rgba.copy()
    rgba[..., :3] = np.rint(_to_rgb(hsv) * 255)
    metal_rough = obj.metal_rough.copy()
    metal_rough[:, 1] = np.clip(metal_rough[:, 1] + rng.normal() * 40.0, 10, 255)
    return rgba, metal_rough


def _swap_materials(obj: LibraryObject, rng: np.random.Generator) -> LibraryObject:
    """Give parts another material: plain dielectric, metal, or glass (never more than 60 % of the area)."""
    groups = _palette(obj.corner_rgba)[:, 0]
    chosen = rng.random(int(groups.max()) + 1) < (1.0 if rng.random() < 0.3 else 0.4)
    faces = chosen[groups]
    rgba, metal_rough = obj.corner_rgba.copy(), obj.metal_rough.copy()
    kind = rng.choice(["keep", "dielectric", "metal", "glass"], p=[0.4, 0.32, 0.18, 0.1])
    if kind == "dielectric":
        metal_rough[faces] = [0, int(rng.uniform(25, 250))]
    elif kind == "metal":
        metal_rough[faces] = [255, int(rng.uniform(15, 160))]
        if rng.random() < 0.6:
            colour = METALS[rng.integers(len(METALS))] * rng.uniform(0.75, 1.0)
            rgba[faces, :, :3] = np.rint(0.25 * rgba[faces, :, :3] + 0.75 * colour)
    elif kind == "glass":
        faces = _at_most(groups, face_areas(obj), 0.6, rng)
        rgba[faces, :, 3] = int(rng.uniform(50, 170))
        metal_rough[faces] = [0, int(rng.uniform(5, 60))]
    return replace(obj, corner_rgba=rgba, metal_rough=metal_rough)


def _at_most(groups: np.ndarray, areas: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Faces (bool [F]) of one to three random groups that together have at most `share` of the area; maybe none."""
    size = np.bincount(groups, weights=areas)
    left, chosen = share * size.sum(), np.zeros(len(size), bool)
    for group in rng.permutation(len(size)):
        if size[group] <= left and chosen.sum() < 3:
            chosen[group] = True
            left -= size[group]
    return np.asarray(chosen[groups])


def _together(first: LibraryObject, second: LibraryObject, rng: np.random.Generator) -> LibraryObject:
    """Two objects on one floor side by side, or the second, smaller, on top of the first."""
    a, b = _on_floor(first, 1.0, rng), _on_floor(second, rng.uniform(0.4, 1.1), rng)
    if rng.random() < 0.3:
        shift = np.array([0.0, a[:, 1].max() - 0.005, 0.0])
        b = b * np.float32(min(1.0, 0.8 / max(np.ptp(b, axis=0).max(), 1e-9)))
    else:
        way = rng.uniform(0, 2 * np.pi)
        apart = (np.ptp(a, axis=0)[[0, 2]] + np.ptp(b, axis=0)[[0, 2]]) / 2
        reach = np.dot(apart, np.abs([np.cos(way), np.sin(way)])) * rng.uniform(0.75, 1.15)
        shift = np.array([np.cos(way) * reach, 0.0, np.sin(way) * reach])
    parts = [replace(first, vertices=a), replace(second, vertices=(b + shift).astype(np.float32))]
    return join(f"{first.name}+{second.name}", parts)


def _on_floor(obj: LibraryObject, size: float, rng: np.random.Generator) -> np.ndarray:
    """Vertices turned by a random yaw, longest side `size`, centred in x and z, lowest point at y = 0."""
    vertices = _turn(obj.vertices, axis=1, angle=rng.uniform(0, 2 * np.pi))
    used = vertices[obj.faces.reshape(-1)]
    low, high = used.min(axis=0), used.max(axis=0)
    base = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    return np.asarray(((vertices - base) * (size / max((high - low).max(), 1e-9))).astype(np.float32))


def _to_hsv(rgb: np.ndarray) -> np.ndarray:
    """float [.., 3] in [0, 1] -> hue (turns), saturation, value."""
    high, low = rgb.max(axis=-1), rgb.min(axis=-1)
    span = high - low
    safe = np.where(span > 0, span, 1)
    red, green, blue = np.moveaxis(rgb, -1, 0)
    hue = np.where(
        high == red, (green - blue) / safe, np.where(high == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    )
    return np.stack([hue / 6 % 1.0, span / np.where(high > 0, high, 1), high], axis=-1)


def _to_rgb(hsv: np.ndarray) -> np.ndarray:
    """Inverse of `_to_hsv`; hue may be any real number of turns."""
    hue, saturation, value = np.moveaxis(hsv, -1, 0)
    ramp = np.abs((hue[..., None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    return np.asarray(value[..., None] * (1 + saturation[..., None] * (np.clip(ramp, 0, 1) - 1)))
