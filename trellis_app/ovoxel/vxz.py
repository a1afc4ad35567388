"""The .vxz format, version 0: chunks of voxels as octree bytes and compressed attribute streams.

    "VXZ" 0 | big-endian uint32: start of the binary part | JSON | binary part

Voxels come back ordered by chunk, then along the Z-order curve within the chunk.
"""

from __future__ import annotations

import importlib.util
import json
import lzma
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from trellis_kernels.voxel_octree import op as octree

from trellis_app.errors import MachineError, MeshError

MAGIC = b"VXZ\x00"
LEVELS = {"none": 0, "deflate": 9, "lzma": 9, "zstd": 22}
LZMA_WINDOW_BITS = (18, 20, 21, 22, 22, 23, 23, 24, 25, 26)  # of the presets 0..9
FILTERS = ("none", "parent", "neighbor")
INTERLEAVES = ("none", "as_is", "all")


@dataclass(frozen=True)
class VxzOptions:
    """How a .vxz file is written; the defaults are those of the original writer."""

    chunk_size: int = 256  # voxels along a side, a power of two
    filter: str = "none"  # none | parent | neighbor
    compression: str = "lzma"  # none | deflate | lzma | zstd
    compression_level: int | None = None  # None: the strongest
    attr_interleave: str = "as_is"  # none: one stream a channel | as_is: one an attribute | all: one

    def __post_init__(self) -> None:
        if not (2 <= self.chunk_size <= 1024 and self.chunk_size & (self.chunk_size - 1) == 0):
            raise ValueError(f"chunk_size is {self.chunk_size}; it must be a power of two within 2..1024")
        for value, known in ((self.filter, FILTERS), (self.compression, LEVELS), (self.attr_interleave, INTERLEAVES)):
            if value not in known:
                raise ValueError(f"{value!r} is none of {', '.join(known)}")

    @property
    def level(self) -> int:
        return self.compression_level or LEVELS[self.compression]


def encode(coords: np.ndarray, attributes: Mapping[str, np.ndarray], options: VxzOptions) -> bytes:
    """The file's bytes. coords: int [N, 3] unique, may be negative; attributes: uint8 [N, C] each.

    Raises MeshError for attributes that are not uint8 rows of the voxels, or repeated voxels.
    """
    for name, values in attributes.items():
        if values.dtype != np.uint8 or values.ndim != 2 or len(values) != len(coords):
            message = f"Attribute {name} is {values.dtype} {list(values.shape)}."
            raise MeshError(message, f"A .vxz file holds uint8 [{len(coords)}, C]; .npz and .ply hold other types.")
    parts: list[bytes] = []
    chunks: list[dict[str, Any]] = []
    size = 0
    for index, rows, codes in chunked(coords, options.chunk_size):
        entry: dict[str, Any] = {"idx": index}
        start, offset = size, 0
        for name, stream in streams(codes, {k: v[rows] for k, v in attributes.items()}, options):
            packed = compress(stream, options.compression, options.level)
            entry[name] = [offset, len(packed)]
            offset += len(packed)
            parts.append(packed)
        entry["ptr"] = [start, offset]
        size += offset
        chunks.append(entry)
    raw = 12 * len(coords) + sum(values.size for values in attributes.values())
    header = {
        "num_voxel": len(coords),
        "chunk_size": options.chunk_size,
        "filter": options.filter,
        "compression": options.compression,
        "compression_level": options.level,
        "raw_size": raw,
        "compressed_size": size,
        "compress_ratio": raw / max(size, 1),
        "attr_interleave": options.attr_interleave,
        "attr": [[name, values.shape[1]] for name, values in attributes.items()],
        "chunks": chunks,
    }
    text = json.dumps(header).encode()
    return MAGIC + struct.pack(">I", 8 + len(text)) + text + b"".join(parts)


def chunked(coords: np.ndarray, size: int) -> list[tuple[list[int], np.ndarray, np.ndarray]]:
    """Chunks in lexicographic order: (index, rows of its voxels along the curve, their codes)."""
    if len(coords) == 0:
        return []
    chunk = np.floor_divide(coords, size)
    codes = octree.morton(coords - chunk * size)
    order = np.lexsort((codes, chunk[:, 2], chunk[:, 1], chunk[:, 0]))
    starts = np.flatnonzero(np.r_[True, (np.diff(chunk[order], axis=0) != 0).any(1)])
    found = [(chunk[rows[0]].tolist(), rows, codes[rows]) for rows in np.split(order, starts[1:])]
    if any((np.diff(c) == 0).any() for _, _, c in found):
        raise MeshError("Some voxels occur more than once.", "Keep one of each before writing.")
    return found


def streams(
    codes: np.ndarray, attributes: Mapping[str, np.ndarray], options: VxzOptions
) -> list[tuple[str, np.ndarray]]:
    """Named byte streams of one chunk before compression, rows in the order of its codes."""
    depth = options.chunk_size.bit_length() - 1
    out = [("svo", octree.encode_octree(codes, depth))]
    filtered = {name: apply_filter(options.filter, codes, depth, values) for name, values in attributes.items()}
    if options.attr_interleave == "as_is":
        return out + list(filtered.items())
    if options.attr_interleave == "all":
        return [*out, ("attr", np.concatenate(list(filtered.values()), axis=1))] if filtered else out
    return out + [(f"{name}_{k}", values[:, k]) for name, values in filtered.items() for k in range(values.shape[1])]


def apply_filter(kind: str, codes: np.ndarray, depth: int, values: np.ndarray) -> np.ndarray:
    if kind == "parent":
        return octree.apply_parent_filter(codes, depth, values)
    return octree.apply_neighbor_filter(codes, octree.unmorton(codes), values) if kind == "neighbor" else values


def undo_filter(kind: str, codes: np.ndarray, depth: int, rows: np.ndarray) -> np.ndarray:
    if kind == "parent":
        return octree.undo_parent_filter(codes, depth, rows)
    return octree.undo_neighbor_filter(codes, octree.unmorton(codes), rows) if kind == "neighbor" else rows


def decode(data: bytes) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Coordinates int32 [N, 3] and attributes uint8 [N, C] of a file's bytes; all interleavings.

    Raises MeshError where the bytes are no .vxz file of version 0, or damaged.
    """
    if data[:4] != MAGIC or len(data) < 8:
        raise MeshError("This is no .vxz file of version 0.", "Check the file or export it again.")
    try:
        return decode_chunks(data)
    except (ValueError, KeyError, IndexError, TypeError, lzma.LZMAError, zlib.error) as error:
        raise MeshError(f"The .vxz file is damaged ({error}).", "Export it again.") from error


def decode_chunks(data: bytes) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    body = struct.unpack(">I", data[4:8])[0]
    header = json.loads(data[8:body].decode())
    size, kind, total = header["chunk_size"], header["filter"], header["num_voxel"]
    depth = int(size).bit_length() - 1
    names = [(str(name), int(channels)) for name, channels in header["attr"]]
    coords = np.empty((total, 3), np.int32)
    attributes = {name: np.empty((total, channels), np.uint8) for name, channels in names}
    first = 0
    for chunk in header["chunks"]:
        start = body + chunk["ptr"][0]

        def stream(name: str, chunk: dict[str, Any] = chunk, start: int = start) -> np.ndarray:
            offset, length = chunk[name]
            packed = data[start + offset : start + offset + length]
            return decompress(packed, header["compression"], header["compression_level"])

        codes = octree.decode_octree(stream("svo"), depth)
        rows = slice(first, first + len(codes))
        first += len(codes)
        coords[rows] = octree.unmorton(codes) + np.array(chunk["idx"], np.int32) * size
        table = attribute_table(names, len(codes), stream, header["attr_interleave"])
        values = undo_filter(kind, codes, depth, table) if table.shape[1] else table
        column = 0
        for name, channels in names:
            attributes[name][rows] = values[:, column : column + channels]
            column += channels
    if first != total:
        raise ValueError(f"{first} voxels where {total} were announced")
    return coords, attributes


def attribute_table(names: list[tuple[str, int]], count: int, stream: Any, interleave: str) -> np.ndarray:
    """All stored channels of a chunk side by side, uint8 [count, channels]."""
    if not names:
        return np.empty((count, 0), np.uint8)
    if interleave == "all":
        return stream("attr").reshape(count, -1)
    if interleave == "as_is":
        return np.concatenate([stream(name).reshape(count, channels) for name, channels in names], axis=1)
    return np.stack([stream(f"{name}_{k}") for name, channels in names for k in range(channels)], axis=1)


def compress(values: np.ndarray, method: str, level: int) -> bytes:
    data = np.ascontiguousarray(values).tobytes()
    if method == "deflate":
        packer = zlib.compressobj(level, zlib.DEFLATED, -15)
        return packer.compress(data) + packer.flush()
    if method == "lzma":
        window = min(max(len(data), 4096), 1 << LZMA_WINDOW_BITS[level])  # a larger one only costs time
        chain = [{"id": lzma.FILTER_LZMA2, "preset": level, "dict_size": window}]
        return lzma.compress(data, lzma.FORMAT_RAW, filters=chain)
    if method == "zstd":
        return bytes(zstandard().ZstdCompressor(level=level, write_checksum=False).compress(data))
    return data


def decompress(data: bytes, method: str, level: int) -> np.ndarray:
    if method == "deflate":
        data = zlib.decompress(data, -15)
    elif method == "lzma":
        data = lzma.decompress(data, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": level}])
    elif method == "zstd":
        data = zstandard().decompress(data)
    elif method != "none":
        raise ValueError(f"unknown compression {method!r}")
    return np.frombuffer(data, np.uint8)


def zstandard() -> Any:
    """The optional package for zstd."""
    if importlib.util.find_spec("zstandard") is None:
        raise MachineError("This .vxz file uses zstd, which this installation lacks.", "Run: pip install zstandard")
    import zstandard as package

    return package
