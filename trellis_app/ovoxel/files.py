"""O-Voxel files: .vxz (compact), .npz and .ply, exchanged with the original tools, and the asset as such a file."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trellis_app.errors import MeshError
from trellis_app.ovoxel import vxz
from trellis_app.ovoxel.vxz import VxzOptions
from trellis_app.types import ATTRIBUTE_SLICES, DualGrid, OVoxel

PLY_TYPES = {
    "u1": ("uchar", "uint8"),
    "u2": ("ushort", "uint16"),
    "u4": ("uint", "uint32"),
    "i1": ("char", "int8"),
    "i2": ("short", "int16"),
    "i4": ("int", "int32"),
    "f4": ("float", "float32"),
    "f8": ("double", "float64"),
}
PLY_CODES = {name: code for code, names in PLY_TYPES.items() for name in names}
KNOWN = "Use .vxz, .npz or .ply."


@dataclass(frozen=True)
class Voxels:
    """Voxels and whatever is stored with them, row by row."""

    coords: np.ndarray  # int32 [N, 3]
    attributes: Mapping[str, np.ndarray] = field(default_factory=dict)  # name -> [N, C]


def write(path: Path | str, voxels: Voxels, *, options: VxzOptions | None = None) -> None:
    """Write voxels in the format of the path's ending; options apply to .vxz. The file appears whole or not at all.

    Raises MeshError for an unknown ending or data the format cannot hold.
    """
    path = Path(path)
    if path.suffix == ".vxz":
        data = vxz.encode(voxels.coords, voxels.attributes, options or VxzOptions())
    elif path.suffix == ".npz":
        data = npz_bytes(voxels)
    elif path.suffix == ".ply":
        data = ply_bytes(voxels)
    else:
        raise MeshError(f"Voxels cannot be written as {path.suffix or 'a file without ending'}.", KNOWN)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)


def read(path: Path | str) -> Voxels:
    """Voxels of a .vxz, .npz or .ply file; .vxz files come ordered by chunk and Z-order curve.

    Raises MeshError for an unknown ending or a file that cannot be read.
    """
    path = Path(path)
    if path.suffix == ".vxz":
        return Voxels(*vxz.decode(path.read_bytes()))
    if path.suffix == ".npz":
        return npz_voxels(path)
    if path.suffix == ".ply":
        return ply_voxels(path.read_bytes())
    raise MeshError(f"Voxels cannot be read from {path.suffix or 'a file without ending'}.", KNOWN)


def npz_bytes(voxels: Voxels) -> bytes:
    coords = voxels.coords
    if len(coords) and not 0 <= coords.min() <= coords.max() < 65536:
        raise MeshError(f"Coordinates {coords.min()}..{coords.max()} do not fit .npz.", "Use .vxz or .ply.")
    buffer = BytesIO()
    arrays: dict[str, Any] = {"coord": coords.astype(np.uint16), **voxels.attributes}
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def npz_voxels(path: Path) -> Voxels:
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise MeshError(f"{path.name} cannot be read ({error}).", "Export it again.") from error
    if "coord" not in arrays:
        raise MeshError(f"{path.name} holds no voxels: the array coord is missing.", "Check the file.")
    return Voxels(arrays.pop("coord").astype(np.int32), arrays)


def ply_bytes(voxels: Voxels) -> bytes:
    """Binary little-endian; x, y, z are the integer coordinates, properties are named <attribute>_<channel>."""
    fields: list[tuple[str, str]] = [(axis, "f4") for axis in "xyz"]
    columns = [voxels.coords[:, axis] for axis in range(3)]
    for name, values in voxels.attributes.items():
        code = values.dtype.str[1:]
        if code not in PLY_TYPES:
            raise MeshError(f"Attribute {name} is {values.dtype}, which .ply cannot hold.", "Convert it, or use .npz.")
        fields += [(f"{name}_{k}", code) for k in range(values.shape[1])]
        columns += list(values.T)
    rows = np.empty(len(voxels.coords), [(name, f"<{code}") for name, code in fields])
    for (name, _), column in zip(fields, columns, strict=True):
        rows[name] = column
    properties = "".join(f"property {PLY_TYPES[code][0]} {name}\n" for name, code in fields)
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(rows)}\n{properties}end_header\n"
    return header.encode() + rows.tobytes()


def ply_voxels(data: bytes) -> Voxels:
    end = data.find(b"end_header\n")
    header = data[: max(end, 0)].decode("ascii", "replace")
    count = re.search(r"element vertex (\d+)", header)
    if not header.startswith("ply") or "format binary_little_endian" not in header or count is None:
        raise MeshError("This is no binary little-endian .ply file of voxels.", "Check the file or use .vxz.")
    fields = re.findall(r"property (\w+) (\S+)", header)
    unknown = [kind for kind, _ in fields if kind not in PLY_CODES]
    if unknown or [name for _, name in fields[:3]] != ["x", "y", "z"]:
        raise MeshError("The .ply file holds no voxels: x, y, z and plain properties are expected.", "Check the file.")
    layout = np.dtype([(name, f"<{PLY_CODES[kind]}") for kind, name in fields])
    body = data[end + len(b"end_header\n") :]
    if len(body) < int(count[1]) * layout.itemsize:
        raise MeshError("The .ply file ends too early.", "Export it again.")
    rows = np.frombuffer(body, layout, int(count[1]))
    coords = np.stack([np.rint(rows[axis]) for axis in "xyz"], axis=1).astype(np.int32)
    columns: dict[str, list[np.ndarray]] = {}
    for _, name in fields[3:]:
        columns.setdefault(name.rpartition("_")[0], []).append(rows[name])
    return Voxels(coords, {name: np.stack(channels, axis=1) for name, channels in columns.items()})


def asset_voxels(asset: OVoxel) -> Voxels:
    """An asset in the packed form of the data tools: all uint8, dual vertices and flags under their names there.

    Dual vertices are kept to 1/255 of a voxel and within it; split weights are not kept.
    """
    grid = asset.grid
    flags = grid.crossed.cpu().numpy() @ np.array([1, 2, 4], np.uint8)
    packed = {
        "dual_vertices": (grid.dual.clamp(0, 1) * 255).to(torch.uint8).cpu().numpy(),
        "intersected": flags[:, None].astype(np.uint8),
    }
    values = (asset.attributes.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return Voxels(
        grid.coords.cpu().numpy(), packed | {name: values[:, part] for name, part in ATTRIBUTE_SLICES.items()}
    )


def voxels_asset(voxels: Voxels, resolution: int) -> OVoxel:
    """The asset of packed voxels on a grid of `resolution`; missing materials are mid-grey, rough and opaque.

    Raises MeshError where the dual vertices or flags are missing or coordinates leave the grid.
    """
    stored, coords = voxels.attributes, voxels.coords
    dual = stored.get("dual_vertices", stored.get("vertices"))
    if dual is None or "intersected" not in stored:
        raise MeshError("The file holds voxels but no surface (dual_vertices, intersected).", "Export it again.")
    if len(coords) and not 0 <= coords.min() <= coords.max() < resolution:
        raise MeshError(
            f"Coordinates {coords.min()}..{coords.max()} leave a grid of {resolution}.", "Check the resolution."
        )
    flags = torch.from_numpy(stored["intersected"].astype(np.int64)).reshape(-1, 1)
    crossed = (flags >> torch.arange(3) & 1).bool()
    attributes = torch.tensor([0.5, 0.5, 0.5, 0.0, 1.0, 1.0]).repeat(len(coords), 1)
    for name, part in ATTRIBUTE_SLICES.items():
        if name in stored:
            attributes[:, part] = torch.from_numpy(stored[name].astype(np.float32)) / 255
    position = torch.from_numpy(dual.astype(np.float32)) / 255
    return OVoxel(DualGrid(torch.from_numpy(coords), position, crossed, None, resolution), attributes)
