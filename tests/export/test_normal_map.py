"""The normal map of a finished GLB, read as a viewer reads it, gives back the normals of the full surface."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from tests.export.test_finish import finished
from tests.voxel_shapes import ball, ring, voxel_asset
from trellis_app.export.glb import write_glb
from trellis_app.settings import FinishOptions


def read(path: Path) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """(attributes by semantic, faces, normal map) of a GLB with one primitive."""
    data = path.read_bytes()
    length = struct.unpack("<I", data[12:16])[0]
    tree, binary = json.loads(data[20 : 20 + length]), data[28 + length :]

    def view(index: int) -> bytes:
        entry = tree["bufferViews"][index]
        return binary[entry["byteOffset"] : entry["byteOffset"] + entry["byteLength"]]

    def array(index: int) -> np.ndarray:
        entry = tree["accessors"][index]
        kind = {5126: np.float32, 5125: np.uint32, 5123: np.uint16}[entry["componentType"]]
        return np.frombuffer(view(entry["bufferView"]), kind).reshape(entry["count"], -1)

    (part,) = tree["meshes"][0]["primitives"]
    texture = tree["textures"][tree["materials"][part["material"]]["normalTexture"]["index"]]
    picture = Image.open(io.BytesIO(view(tree["images"][texture["source"]]["bufferView"])))
    attributes = {name: array(index) for name, index in part["attributes"].items()}
    return attributes, array(part["indices"]).reshape(-1, 3), np.asarray(picture)


def shaded_normals(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(points, interpolated normals, normals after the map), [F, 3] each, at the middle of each face, Y up."""
    attributes, faces, picture = read(path)
    middle = {name: values[faces].mean(axis=1, dtype=np.float64) for name, values in attributes.items()}
    sign = attributes["TANGENT"][faces[:, 0], 3:]
    normal, tangent = middle["NORMAL"], middle["TANGENT"][:, :3]
    bitangent = np.cross(normal, tangent) * sign  # glTF 2.0, section 3.7.2.1
    column, row = (middle["TEXCOORD_0"] * picture.shape[0]).astype(int).T
    stored = picture[row, column] / 255.0 * 2.0 - 1.0
    detail = stored[:, :1] * tangent + stored[:, 1:2] * bitangent + stored[:, 2:] * normal
    return middle["POSITION"], unit(normal), unit(detail)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_coarse_ball_is_shaded_like_a_round_one(tmp_path: Path) -> None:
    asset = finished(voxel_asset(ball(), 64), FinishOptions(faces=200, texture_size=256))
    points, _, detail = shaded_normals(write_glb(asset, tmp_path / "ball.glb"))
    cosine = (detail * unit(points)).sum(axis=1)
    assert np.percentile(cosine, 5) > np.cos(np.radians(6))
    assert cosine.mean() > np.cos(np.radians(3))


def test_a_coarse_ring_is_shaded_like_a_round_one(tmp_path: Path) -> None:
    asset = finished(voxel_asset(ring(), 96), FinishOptions(faces=300, texture_size=512))
    points, plain, detail = shaded_normals(write_glb(asset, tmp_path / "ring.glb"))
    flat = points * [1, 0, 1]
    true = unit(points - 0.3 * unit(flat))
    assert (detail * true).sum(axis=1).mean() > np.cos(np.radians(5))
    assert (detail * true).sum(axis=1).mean() > (plain * true).sum(axis=1).mean()
