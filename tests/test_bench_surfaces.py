"""The survey counts what is broken, by source and mode, whichever process looked."""

from pathlib import Path

import numpy as np
import pytest

from tests.voxel_shapes import ball, surface_of
from trellis_app.bench_surfaces import bench_surfaces
from trellis_app.errors import MeshError
from trellis_app.mesh.survey import Finding, summary


def test_the_summary_adds_up_by_mode() -> None:
    findings = [
        Finding("good", 10, {"single": 1.0, "watertight": 2.0}, {"single": {}, "watertight": {}}),
        Finding("bad", 10, {"single": 1.0, "watertight": 2.0}, {"single": {"open": 2, "x": 1}, "watertight": {}}),
        Finding("worse", 10, {"single": 0.5, "watertight": 2.0}, {"single": {"open": 1}, "watertight": {"y": 1}}),
        Finding("nothing", 0, {}, {}),
    ]
    found = summary(findings)
    assert found["single"] == {"cases": 3, "failing": 2, "seconds": 2.5, "violations": {"open": 3, "x": 1}}
    assert found["watertight"] == {"cases": 3, "failing": 1, "seconds": 6.0, "violations": {"y": 1}}
    assert [line.split(":")[0] for line in found["failing"]] == ["bad", "worse"]  # type: ignore[attr-defined]


def test_a_library_and_random_sets_are_surveyed(tmp_path: Path) -> None:
    shapes = [surface_of(ball(radius)) for radius in (0.2, 0.4)]
    starts = [
        np.cumsum([0, *(len(getattr(shape, name)) for shape in shapes)], dtype=np.int64)
        for name in ("vertices", "faces")
    ]
    np.savez(
        tmp_path / "library.npz",
        names=np.array(["small", "large"]), vertex_offsets=starts[0], face_offsets=starts[1],
        vertices=np.concatenate([np.rint((s.vertices + 0.5) * 65535).astype(np.uint16) for s in shapes]),
        faces=np.concatenate([s.faces for s in shapes]),
    )  # fmt: skip
    lines: list[str] = []
    sizes_wanted = {"sets": 3, "resolution": 24, "limit": None, "jobs": 1}
    report = bench_surfaces(tmp_path / "library.npz", None, note=lines.append, **sizes_wanted)  # type: ignore[arg-type]
    assert [line.split(":")[0] for line in lines[:2]] == ["small", "large"]
    assert report["library"]["single"]["cases"] == 2  # type: ignore[index]
    assert report["library"]["failing"] == report["random"]["failing"] == []  # type: ignore[index]
    with pytest.raises(MeshError):
        bench_surfaces(tmp_path / "none.npz", None, note=lines.append, **sizes_wanted)  # type: ignore[arg-type]
