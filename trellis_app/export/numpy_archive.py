"""NumPy's .npz as bytes that depend on the arrays alone, deflated on all cores."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np

from trellis_app.export.archive import zip_chunks
from trellis_app.export.source import Part
from trellis_app.progress import Check, go_on


def npz_chunks(arrays: Mapping[str, np.ndarray], check: Check = go_on) -> list[bytes]:
    """The file in pieces, arrays in the given order; numpy.load opens it."""
    parts = []
    for name, array in arrays.items():
        stream = io.BytesIO()
        np.lib.format.write_array(stream, np.asarray(array, order="C"), allow_pickle=False)
        parts.append(Part(f"{name}.npy", [stream.getvalue()]))
    return zip_chunks(parts, check=check)
