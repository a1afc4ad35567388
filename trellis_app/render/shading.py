"""The inner loops of the renderer, compiled by numba, one thread, GIL released.

A picture is drawn from *points*: one for every pair of a pixel and a face seen in it (all samples of a pixel that
show the same face share a point, as in multisampling), each with attributes, a normal and light. P counts points,
S is the number of samples along a pixel's side. All float32; colours linear.
"""

from __future__ import annotations

import numpy as np
from numba import njit

CLIP, ACES, NEUTRAL = 0, 1, 2  # tone curves
COSINE_SHARPNESS = np.float32(2.133)
_LINEAR = (np.arange(4097) / 4096.0) ** 2
ENCODED = np.rint(
    255.0 * np.where(_LINEAR <= 0.0031308, 12.92 * _LINEAR, 1.055 * np.maximum(_LINEAR, 1e-9) ** (1.0 / 2.4) - 0.055)
).astype(np.uint8)  # sRGB byte by the square root of linear light


@njit(cache=True, nogil=True)
def collect_points(
    face: np.ndarray, barycentric: np.ndarray, samples: int, merge: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of face [S H, S W], barycentric [S H, S W, 3]: face int32 [P], mean barycentric [P, 3], point of a sample.

    The last is int32 [S H, S W], -1 where nothing is seen. Without `merge` every sample is its own point.
    """
    height, width = face.shape[0] // samples, face.shape[1] // samples
    room = 0
    for y in range(face.shape[0]):
        for x in range(face.shape[1]):
            room += face[y, x] >= 0
    point_face, point_barycentric = np.empty(room, np.int32), np.zeros((room, 3), np.float32)
    share, of_sample = np.zeros(room, np.float32), np.full(face.shape, -1, np.int32)
    count = 0
    for row in range(height):
        for column in range(width):
            first = count
            for y in range(row * samples, (row + 1) * samples):
                for x in range(column * samples, (column + 1) * samples):
                    f = face[y, x]
                    if f < 0:
                        continue
                    p = first
                    while p < count and (point_face[p] != f or not merge):
                        p += 1
                    if p == count:
                        point_face[p] = f
                        count += 1
                    of_sample[y, x] = p
                    share[p] += 1.0
                    for k in range(3):
                        point_barycentric[p, k] += barycentric[y, x, k]
    for p in range(count):
        for k in range(3):
            point_barycentric[p, k] /= share[p]
    return point_face[:count], point_barycentric[:count], of_sample


@njit(cache=True, nogil=True)
def interpolate(face: np.ndarray, barycentric: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Corner values [F, 3, C] at the points: float32 [P, C]."""
    out = np.empty((len(face), corners.shape[2]), np.float32)
    for p in range(len(face)):
        f = face[p]
        b0, b1, b2 = barycentric[p, 0], barycentric[p, 1], barycentric[p, 2]
        for c in range(corners.shape[2]):
            out[p, c] = b0 * corners[f, 0, c] + b1 * corners[f, 1, c] + b2 * corners[f, 2, c]
    return out


@njit(cache=True, nogil=True)
def sample_texture(uv: np.ndarray, texture: np.ndarray, decode: np.ndarray) -> np.ndarray:
    """Bilinear lookup, repeating: uv [P, 2] (row 0 at v = 0), texture uint8 [T, T, C], decode [C, 256] -> [P, C]."""
    height, width, channels = texture.shape
    out = np.empty((len(uv), channels), np.float32)
    for p in range(len(uv)):
        x, y = uv[p, 0] * np.float32(width) - np.float32(0.5), uv[p, 1] * np.float32(height) - np.float32(0.5)
        left, top = int(np.floor(x)), int(np.floor(y))
        fx, fy = np.float32(x - left), np.float32(y - top)
        x0, x1, y0, y1 = left % width, (left + 1) % width, top % height, (top + 1) % height
        for c in range(channels):
            upper = decode[c, texture[y0, x0, c]] * (1 - fx) + decode[c, texture[y0, x1, c]] * fx
            lower = decode[c, texture[y1, x0, c]] * (1 - fx) + decode[c, texture[y1, x1, c]] * fx
            out[p, c] = upper * (1 - fy) + lower * fy
    return out


@njit(cache=True, nogil=True)
def face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area-weighted normals (cross products) float32 [F, 3]."""
    normals = np.empty((len(faces), 3), np.float32)
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        normals[f, 0] = uy * vz - uz * vy
        normals[f, 1] = uz * vx - ux * vz
        normals[f, 2] = ux * vy - uy * vx
    return normals


@njit(cache=True, nogil=True)
def corner_normals(vertices: np.ndarray, faces: np.ndarray, place: np.ndarray, crease: float) -> np.ndarray:
    """Smooth normals float32 [F, 3, 3]: at a corner, the faces around it within the crease angle (its cosine) count.

    place: int [V], equal for vertices at one position. Neighbours of opposite winding count flipped.
    """
    normal = face_normals(vertices, faces)
    start = np.zeros(place.max() + 2 if len(place) else 1, np.int64)
    for f in range(len(faces)):
        for k in range(3):
            start[place[faces[f, k]] + 1] += 1
    start = np.cumsum(start)
    fill, around = start.copy(), np.empty(3 * len(faces), np.int32)
    for f in range(len(faces)):
        for k in range(3):
            vertex = place[faces[f, k]]
            around[fill[vertex]] = f
            fill[vertex] += 1
    length = np.sqrt((normal * normal).sum(axis=1)) + np.float32(1e-20)
    out = np.zeros((len(faces), 3, 3), np.float32)
    for f in range(len(faces)):
        for k in range(3):
            vertex = place[faces[f, k]]
            for other in around[start[vertex] : start[vertex + 1]]:
                dot = (
                    normal[f, 0] * normal[other, 0] + normal[f, 1] * normal[other, 1] + normal[f, 2] * normal[other, 2]
                )
                if abs(dot) >= crease * length[f] * length[other]:
                    sign = 1.0 if dot >= 0 else -1.0
                    for axis in range(3):
                        out[f, k, axis] += sign * normal[other, axis]
    return out


@njit(cache=True, nogil=True)
def point_geometry(
    face: np.ndarray,
    barycentric: np.ndarray,
    vertices: np.ndarray,
    faces: np.ndarray,
    smooth: np.ndarray,
    eye: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position, unit normal towards the viewer, unit direction to the eye: each float32 [P, 3].

    smooth: corner normals [F, 3, 3], or [0, 3, 3] for flat faces.
    """
    position, normal = np.empty((len(face), 3), np.float32), np.empty((len(face), 3), np.float32)
    view = np.empty((len(face), 3), np.float32)
    flat = face_normals(vertices, faces)
    for p in range(len(face)):
        f = face[p]
        b0, b1, b2 = barycentric[p, 0], barycentric[p, 1], barycentric[p, 2]
        length = side = size = np.float32(0.0)
        for k in range(3):
            x = b0 * vertices[faces[f, 0], k] + b1 * vertices[faces[f, 1], k] + b2 * vertices[faces[f, 2], k]
            position[p, k] = x
            view[p, k] = eye[k] - x
            length += view[p, k] * view[p, k]
            side += view[p, k] * flat[f, k]
            n = flat[f, k]
            if len(smooth):
                n = b0 * smooth[f, 0, k] + b1 * smooth[f, 1, k] + b2 * smooth[f, 2, k]
            normal[p, k] = n
            size += n * n
        scale = (np.float32(1.0) if side >= 0 else np.float32(-1.0)) / (np.sqrt(size) + np.float32(1e-20))
        reach = np.float32(1.0) / np.sqrt(length)
        for k in range(3):
            normal[p, k] *= scale
            view[p, k] *= reach
    return position, normal, view


@njit(cache=True, nogil=True)
def shade_points(
    normal: np.ndarray, view: np.ndarray, surface: np.ndarray, light: tuple[np.ndarray, np.ndarray, np.ndarray],
    key: np.ndarray, open_sky: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Reflected light float32 [P, 3] of surface [P, 6] (linear colour, metallic, roughness, alpha).

    light: sky [3], ground [3], lamps [K, 7]; key [P]: share of the first lamp that arrives; open_sky [P]: of the rest.
    Diffuse and GGX-like lobes as spherical Gaussians; the specular integral over the lobe by Karis 2014
    ("Physically based shading on mobile"), its lost energy put back by Turquin 2019, its direction bent towards the
    normal by roughness (Lagarde and de Rousiers 2014).
    """
    sky, ground, lamps = light
    out = np.empty((len(normal), 3), np.float32)
    one, half = np.float32(1.0), np.float32(0.5)
    for p in range(len(normal)):
        nx, ny, nz = normal[p, 0], normal[p, 1], normal[p, 2]
        vx, vy, vz = view[p, 0], view[p, 1], view[p, 2]
        nv = nx * vx + ny * vy + nz * vz
        rx, ry, rz = 2 * nv * nx - vx, 2 * nv * ny - vy, 2 * nv * nz - vz
        nv = min(max(nv, np.float32(0.02)), one)
        metallic, roughness = surface[p, 3], min(max(surface[p, 4], np.float32(0.06)), one)
        width = roughness * roughness
        lobe = max(half / (width * width * nv), COSINE_SHARPNESS)
        toward = (one - roughness) * (np.sqrt(one - roughness) + roughness)
        rx, ry, rz = nx + toward * (rx - nx), ny + toward * (ry - ny), nz + toward * (rz - nz)
        shorten = one / np.sqrt(rx * rx + ry * ry + rz * rz + np.float32(1e-12))
        rx, ry, rz = rx * shorten, ry * shorten, rz * shorten
        soft = half + half * nz * np.float32(2.0 / 3.0)
        mirror = half + half * rz * (one - roughness * np.float32(1.0 / 3.0))
        mirror += (one - roughness) * (mirror * mirror * (3 - 2 * mirror) - mirror)
        diffuse0 = diffuse1 = diffuse2 = gloss0 = gloss1 = gloss2 = np.float32(0.0)
        for k in range(len(lamps)):
            x, y, z, sharp = lamps[k, 0], lamps[k, 1], lamps[k, 2], lamps[k, 3]
            arrives = key[p] if k == 0 else open_sky[p]
            blurred = COSINE_SHARPNESS / (sharp + COSINE_SHARPNESS)
            a = arrives * blurred * np.exp(sharp * blurred * (nx * x + ny * y + nz * z - one))
            blurred = lobe / (sharp + lobe)
            b = arrives * blurred * np.exp(sharp * blurred * (rx * x + ry * y + rz * z - one))
            diffuse0 += a * lamps[k, 4]
            diffuse1 += a * lamps[k, 5]
            diffuse2 += a * lamps[k, 6]
            gloss0 += b * lamps[k, 4]
            gloss1 += b * lamps[k, 5]
            gloss2 += b * lamps[k, 6]
        r0, r1 = one - roughness, np.float32(0.0425) - np.float32(0.0275) * roughness
        grazing = min(r0 * r0, np.exp2(np.float32(-9.28) * nv)) * r0 + r1
        scale = np.float32(-1.04) * grazing + np.float32(1.04) - np.float32(0.572) * roughness
        offset = np.float32(1.04) * grazing + np.float32(0.022) * roughness - np.float32(0.04)
        for c in range(3):
            base = surface[p, c]
            around = open_sky[p] * (ground[c] + (sky[c] - ground[c]) * soft)
            reflected = open_sky[p] * (ground[c] + (sky[c] - ground[c]) * mirror)
            diffuse = diffuse0 if c == 0 else (diffuse1 if c == 1 else diffuse2)
            gloss = gloss0 if c == 0 else (gloss1 if c == 1 else gloss2)
            f0 = np.float32(0.04) * (one - metallic) + base * metallic
            specular = max(f0 * scale + offset, np.float32(0.0)) * (one + f0 * (one / (scale + offset) - one))
            out[p, c] = base * (one - metallic) * (around + diffuse) + specular * (reflected + gloss)
    return out


@njit(cache=True, nogil=True)
def accumulate(
    picture: np.ndarray, through: np.ndarray, of_sample: np.ndarray, values: np.ndarray, alpha: np.ndarray
) -> bool:
    """Add a layer of points behind those already drawn; True while light passes through some sample.

    picture: [H, W, C + 1], premultiplied values and, last, alpha; through: [S H, S W] what still passes; values [P, C].
    """
    samples = of_sample.shape[0] // picture.shape[0]
    share, channels = np.float32(1.0 / (samples * samples)), values.shape[1]
    more = False
    for y in range(of_sample.shape[0]):
        row = y // samples
        for x in range(of_sample.shape[1]):
            p = of_sample[y, x]
            if p < 0:
                continue
            weight = through[y, x] * alpha[p]
            through[y, x] -= weight
            more = more or (alpha[p] < 1.0 and through[y, x] > 0.004)
            weight *= share
            column = x // samples
            for c in range(channels):
                picture[row, column, c] += weight * values[p, c]
            picture[row, column, channels] += weight
    return more


@njit(cache=True, nogil=True)
def encode_picture(picture: np.ndarray, exposure: float, tone: int) -> np.ndarray:
    """Linear premultiplied [H, W, 4] -> sRGB straight uint8 [H, W, 4] through a tone curve.

    ACES is Narkowicz's fit of 2015; NEUTRAL follows the published Khronos PBR Neutral curve of 2024.
    """
    height, width = picture.shape[:2]
    out = np.zeros((height, width, 4), np.uint8)
    colour = np.empty(3, np.float32)
    for y in range(height):
        for x in range(width):
            a = picture[y, x, 3]
            if a <= 0.0:
                continue
            for c in range(3):
                colour[c] = max(picture[y, x, c] / a * np.float32(exposure), np.float32(0.0))
            if tone == ACES:
                for c in range(3):
                    v = colour[c]
                    colour[c] = (v * (2.51 * v + 0.03)) / (v * (2.43 * v + 0.59) + 0.14)
            elif tone == NEUTRAL:
                low = min(colour[0], colour[1], colour[2])
                offset = low - 6.25 * low * low if low < 0.08 else 0.04
                peak = max(colour[0], colour[1], colour[2]) - offset
                start = 0.8 - 0.04
                for c in range(3):
                    colour[c] -= offset
                if peak >= start:
                    room = 1.0 - start
                    squeezed = 1.0 - room * room / (peak + room - start)
                    mix = 1.0 / (0.15 * (peak - squeezed) + 1.0)
                    for c in range(3):
                        colour[c] = squeezed + (colour[c] * squeezed / peak - squeezed) * mix
            for c in range(3):
                v = min(max(colour[c], np.float32(0.0)), np.float32(1.0))
                out[y, x, c] = ENCODED[int(np.sqrt(v) * np.float32(len(ENCODED) - 1) + np.float32(0.5))]
            out[y, x, 3] = np.uint8(min(a, np.float32(1.0)) * 255.0 + 0.5)
    return out
