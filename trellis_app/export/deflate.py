"""Deflate on several cores: stripes of fixed size are compressed side by side and joined into one stream.

Every stripe but the last ends on a byte boundary (a sync flush, as pigz does it), and stripes do not see each other, so
the bytes depend on the data, the level and zlib alone, not on how many cores there are.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from trellis_app.parallel import in_parallel
from trellis_app.progress import Check, go_on

STRIPE = 1 << 20  # bytes
DEFAULT = zlib.Z_DEFAULT_STRATEGY


def deflate_stripe(data: bytes | memoryview, level: int, *, last: bool, strategy: int = DEFAULT) -> bytes:
    """One stripe as raw deflate blocks; after the last one the stream ends."""
    packer = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
    return packer.compress(data) + packer.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)


def deflated(chunks: Iterable[bytes], level: int, check: Check = go_on) -> list[bytes]:
    """A raw deflate stream of the chunks' bytes, in pieces."""
    stripes = list(_stripes(chunks))
    final = len(stripes) - 1
    return in_parallel(lambda k: deflate_stripe(stripes[k], level, last=k == final), range(len(stripes)), check)


def _stripes(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes cut at multiples of STRIPE; one empty stripe where there are none."""
    waiting = bytearray()
    count = 0
    for chunk in chunks:
        waiting += chunk
        while len(waiting) > STRIPE:
            yield bytes(waiting[:STRIPE])
            del waiting[:STRIPE]
            count += 1
    if waiting or not count:
        yield bytes(waiting)
