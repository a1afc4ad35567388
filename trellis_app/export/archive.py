"""Zip files whose bytes depend on their contents alone: fixed times and permissions, entries in the given order."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from trellis_app.errors import MachineError
from trellis_app.export.deflate import deflated
from trellis_app.export.source import Part
from trellis_app.progress import Check, go_on

LIMIT = 0xFFFF_FFFF  # bytes of a zip without the 64-bit extension, which not every reader knows
LEVEL = 5
_EARLIEST = (0, 33)  # DOS time and date of 1980-01-01 00:00
_UTF8 = 0x800
_PACKED_ALREADY = (".png", ".jpg", ".webp")
_PADDING = 0x1986  # id of the extra field that aligns contents


def zip_chunks(
    parts: Sequence[Part], *, store: bool = False, align: int | None = None, check: Check = go_on
) -> list[bytes]:
    """A zip of the parts; pictures are stored, other files deflated unless `store`.

    align: contents begin at multiples of so many bytes (USDZ asks for 64). Raises MachineError beyond 4 GB.
    """
    out: list[bytes] = []
    directory: list[bytes] = []
    place = 0
    for part in parts:
        name = part.name.encode()
        check_sum, size = 0, part.size
        for chunk in part.chunks:
            check_sum = zlib.crc32(chunk, check_sum)
        stored = store or part.name.endswith(_PACKED_ALREADY)
        body = list(part.chunks) if stored else deflated(part.chunks, LEVEL, check)
        packed = sum(len(piece) for piece in body)
        extra = b"" if align is None else _padding(place + 30 + len(name), align)
        method, version = (0, 10) if stored else (8, 20)
        if max(size, place + packed) + 2**16 > LIMIT:
            raise MachineError("The archive would be larger than 4 GB.", "Choose fewer triangles.")
        common = struct.pack("<4H3I2H", _UTF8, method, *_EARLIEST, check_sum, packed, size, len(name), len(extra))
        local = struct.pack("<IH", 0x0403_4B50, version) + common + name + extra
        # 0x031E: made on Unix; the file's mode stands in the upper half of the external attributes
        entry = struct.pack("<IHH", 0x0201_4B50, 0x031E, version) + common
        directory.append(entry + struct.pack("<3H2I", 0, 0, 0, 0o100644 << 16, place) + name + extra)
        out += [local, *body]
        place += len(local) + packed
        check()
    listing = b"".join(directory)
    end = struct.pack("<I4H2IH", 0x0605_4B50, 0, 0, len(parts), len(parts), len(listing), place, 0)
    return [*out, listing, end]


def _padding(position: int, align: int) -> bytes:
    """An extra field after which `position` is a multiple of `align`."""
    missing = -position % align
    if not missing:
        return b""
    size = missing if missing >= 4 else missing + align
    return struct.pack("<HH", _PADDING, size - 4) + b"\0" * (size - 4)
