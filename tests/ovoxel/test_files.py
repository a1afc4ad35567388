"""O-Voxel files: golden files of the original, every option there and back, damaged files."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from trellis_app.errors import MeshError
from trellis_app.ovoxel import files, vxz
from trellis_app.ovoxel.files import Voxels, VxzOptions
from trellis_app.types import DualGrid, OVoxel


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    return load_file(shared / "golden/geometry/io.safetensors")


def voxels_of(golden: dict[str, np.ndarray], case: str) -> Voxels:
    prefix = f"{case}.attr."
    attributes = {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}
    return Voxels(golden[f"{case}.coords"].astype(np.int32), attributes)


def some_voxels(count: int, low: int = -300, high: int = 300) -> Voxels:
    rng = np.random.default_rng(count)
    coords = np.unique(rng.integers(low, high, (count, 3)), axis=0).astype(np.int32)
    coords = rng.permutation(coords)
    sizes = {"a": 1, "a_b": 3}
    return Voxels(coords, {k: rng.integers(0, 256, (len(coords), c)).astype(np.uint8) for k, c in sizes.items()})


def sorted_rows(voxels: Voxels) -> dict[str, np.ndarray]:
    order = np.lexsort(voxels.coords.T)
    return {"coords": voxels.coords[order]} | {name: values[order] for name, values in voxels.attributes.items()}


def assert_same(a: Voxels, b: Voxels) -> None:
    left, right = sorted_rows(a), sorted_rows(b)
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        assert np.array_equal(left[name], right[name]), name


def test_reads_the_originals_files_in_their_order(shared: Path, golden: dict[str, np.ndarray]) -> None:
    pytest.importorskip("zstandard")
    paths = sorted((shared / "golden/geometry/io").glob("*.vxz"))
    assert len(paths) == 8
    for path in paths:
        read = files.read(path)
        source = voxels_of(golden, "in")
        assert_same(read, Voxels(source.coords, {name: source.attributes[name] for name in read.attributes}))
        if f"{path.stem}.coords" in golden:
            expected = voxels_of(golden, path.stem)
            assert np.array_equal(read.coords, expected.coords)
            assert read.attributes.keys() == expected.attributes.keys()
            assert all(np.array_equal(read.attributes[name], rows) for name, rows in expected.attributes.items())


def test_writes_the_originals_streams(tmp_path: Path, shared: Path, golden: dict[str, np.ndarray]) -> None:
    """Without compression the whole binary part must be the original's."""
    source = voxels_of(golden, "in")
    for name, options in (
        ("c64_none_raw_asis", VxzOptions(64, "none", "none")),
        ("c64_parent_raw_all", VxzOptions(64, "parent", "none", None, "all")),
    ):
        original = shared / f"golden/geometry/io/{name}.vxz"
        chosen = {key: source.attributes[key] for key in files.read(original).attributes}
        files.write(tmp_path / "out.vxz", Voxels(source.coords, chosen), options=options)
        assert (tmp_path / "out.vxz").read_bytes() == original.read_bytes()


def unpacked(data: bytes) -> dict[tuple[str, str], bytes]:
    """Streams of a .vxz file before compression by chunk and name, and its header without sizes."""
    body = int.from_bytes(data[4:8], "big")
    header = json.loads(data[8:body])
    found = {}
    for chunk in header.pop("chunks"):
        start = body + chunk.pop("ptr")[0]
        for name, (offset, size) in ((name, place) for name, place in chunk.items() if name != "idx"):
            packed = data[start + offset : start + offset + size]
            stream = vxz.decompress(packed, header["compression"], header["compression_level"])
            found[str(chunk["idx"]), name] = stream.tobytes()
    sizes = ("compressed_size", "compress_ratio")
    return found | {("header", name): json.dumps(value).encode() for name, value in header.items() if name not in sizes}


def test_every_option_gives_the_originals_streams(tmp_path: Path, shared: Path, golden: dict[str, np.ndarray]) -> None:
    """Compressors may differ, what they compress may not: the octree and the filtered rows, in the same order."""
    pytest.importorskip("zstandard")
    source, told = voxels_of(golden, "in"), ("chunk_size", "filter", "compression", "compression_level")
    for path in sorted((shared / "golden/geometry/io").glob("*.vxz")):
        original = unpacked(path.read_bytes())
        header = {name: json.loads(value) for (kind, name), value in original.items() if kind == "header"}
        chosen = {name: source.attributes[name] for name, _ in header["attr"]}
        options = VxzOptions(**{name: header[name] for name in told}, attr_interleave=header["attr_interleave"])
        files.write(tmp_path / "out.vxz", Voxels(source.coords, chosen), options=options)
        written = unpacked((tmp_path / "out.vxz").read_bytes())
        assert list(written) == list(original), path.name
        assert written == original, path.name


@pytest.mark.parametrize("case", ["set.npz", "set_raw.npz", "set.ply"])
def test_reads_the_originals_sets(shared: Path, golden: dict[str, np.ndarray], case: str) -> None:
    read, source = files.read(shared / "golden/geometry/io" / case), voxels_of(golden, "in")
    assert_same(read, Voxels(source.coords, {name: source.attributes[name] for name in read.attributes}))
    assert len(read.attributes) >= 4


@pytest.mark.parametrize(
    ("kind", "compression", "interleave"),
    list(product(("none", "parent", "neighbor"), ("none", "deflate", "lzma", "zstd"), ("none", "as_is", "all"))),
)
def test_every_vxz_option_comes_back(tmp_path: Path, kind: str, compression: str, interleave: str) -> None:
    if compression == "zstd":
        pytest.importorskip("zstandard")
    voxels = some_voxels(700)
    files.write(tmp_path / "x.vxz", voxels, options=VxzOptions(128, kind, compression, 3, interleave))
    assert_same(files.read(tmp_path / "x.vxz"), voxels)


@pytest.mark.parametrize("ending", [".vxz", ".npz", ".ply"])
@pytest.mark.parametrize("count", [0, 1, 500])
def test_formats_come_back_with_the_same_bytes(tmp_path: Path, ending: str, count: int) -> None:
    voxels = some_voxels(count, 0, 700)
    path = tmp_path / f"x{ending}"
    files.write(path, voxels)
    first = path.read_bytes()
    assert_same(files.read(path), voxels)
    files.write(path, voxels)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


def test_other_types_in_ply_and_npz(tmp_path: Path) -> None:
    voxels = some_voxels(50, 0, 60)
    typed = {f"{t}": np.arange(len(voxels.coords) * 2).reshape(-1, 2).astype(t) for t in ("i2", "u4", "f4", "f8")}
    for ending in (".ply", ".npz"):
        files.write(tmp_path / f"x{ending}", Voxels(voxels.coords, typed))
        assert_same(files.read(tmp_path / f"x{ending}"), Voxels(voxels.coords, typed))


def test_an_asset_comes_back() -> None:
    generator = torch.Generator().manual_seed(1)
    coords = torch.randint(0, 32, (200, 3), generator=generator).unique(dim=0).int()
    dual = torch.randint(0, 256, coords.shape, generator=generator) / 255
    crossed = torch.rand(coords.shape, generator=generator) > 0.5
    attributes = torch.randint(0, 256, (len(coords), 6), generator=generator) / 255
    back = files.voxels_asset(files.asset_voxels(OVoxel(DualGrid(coords, dual, crossed, None, 32), attributes)), 32)
    assert torch.equal(back.grid.coords, coords)
    assert torch.equal(back.grid.crossed, crossed)
    torch.testing.assert_close(back.grid.dual, dual, rtol=0, atol=1 / 254)
    torch.testing.assert_close(back.attributes, attributes, rtol=0, atol=1e-6)


def test_damaged_and_unfit_files_are_named(tmp_path: Path) -> None:
    voxels = some_voxels(300)
    files.write(tmp_path / "x.vxz", voxels)
    whole = (tmp_path / "x.vxz").read_bytes()
    damaged = {"a.vxz": whole[:-40], "b.vxz": whole[:60], "c.vxz": b"PK", "d.npz": b"PK", "e.ply": b"ply\n"}
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MeshError):
            files.read(tmp_path / name)
    for path, content in (
        ("x.obj", voxels),
        ("x.npz", voxels),
        ("x.vxz", Voxels(voxels.coords, {"f": np.zeros((len(voxels.coords), 1), np.float32)})),
        ("x.vxz", Voxels(np.zeros((2, 3), np.int32))),
    ):
        with pytest.raises(MeshError):
            files.write(tmp_path / path, content)
    with pytest.raises(MeshError, match="no surface"):
        files.voxels_asset(voxels, 600)
