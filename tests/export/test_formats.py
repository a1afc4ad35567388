"""Writing formats: all files or none, sentences for a disk that refuses, the same bytes each time."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.export.kept import ring_source
from trellis_app.errors import MachineError, SettingsError
from trellis_app.export import formats
from trellis_app.export.files import check_folder
from trellis_app.export.formats import FORMATS, check_formats, write_all
from trellis_app.export.source import ExportSource, Part
from trellis_app.progress import Check
from trellis_app.settings import FileOptions


@pytest.fixture(scope="module")
def source() -> ExportSource:
    return ring_source()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_row_says_what_it_is() -> None:
    assert list(FORMATS)[:2] == ["glb", "ply"]
    for name, row in FORMATS.items():
        assert row.name == name
        assert row.label
        assert row.help.endswith(".")
        assert len(row.help) <= 90
        assert all(hasattr(FileOptions(), option) for option in row.options)


def test_the_same_source_gives_the_same_bytes_in_every_format(source: ExportSource, tmp_path: Path) -> None:
    for folder, packed in (("a", False), ("b", False), ("c", True), ("d", True)):
        written = write_all(ring_source(), tmp_path / folder, "ring", tuple(FORMATS), packed=packed)
        assert [*written] == [*FORMATS]
        assert all(path.is_file() for paths in written.values() for path in paths)
        assert {path for paths in written.values() for path in paths} == set((tmp_path / folder).iterdir())
        if packed:
            assert {name: paths[0].name for name, paths in written.items()} == {
                name: f"ring.{row.extension}" for name, row in FORMATS.items()
            }
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "c") == contents(tmp_path / "d")


def test_the_sidecar_knows_sizes_and_seconds(source: ExportSource, tmp_path: Path) -> None:
    written = write_all(source, tmp_path, "ring", ("glb", "ply"), sidecar={"seed": 7, "seconds": {"shape": 1.5}})
    record = json.loads(written["json"][0].read_text())
    assert record["seed"] == 7
    assert record["files"] == {name: (tmp_path / name).stat().st_size for name in ("ring.glb", "ring.ply")}
    assert set(record["seconds"]) == {"shape", "writing: glb", "writing: ply"}
    assert record["file_options"] == {"texture_format": "png", "draco": False, "size_mm": 100.0}
    assert record["counts"] == source.asset.counts
    assert record["health"]["watertight"] is True
    assert record["health"]["file_bytes"] == record["files"]["ring.glb"]


@pytest.mark.parametrize("names", [(), ("glb", "doc"), ("GLB",)])
def test_unknown_formats_are_refused(source: ExportSource, tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError, match=r"no format|No format"):
        check_formats(names)
    with pytest.raises(SettingsError):
        write_all(source, tmp_path / "out", "ring", names)
    assert not (tmp_path / "out").exists()


class FullAfter:
    """Chunks after which the disk is full."""

    def __iter__(self):
        yield b"half"
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("older", [False, True])
def test_a_full_disk_leaves_nothing_new(
    source: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bool
) -> None:
    def full(source: ExportSource, stem: str, check: Check) -> list[Part]:
        return [Part(f"{stem}.ply", FullAfter())]  # type: ignore[arg-type]

    if older:
        (tmp_path / "ring.glb").write_bytes(b"from before")
    monkeypatch.setitem(FORMATS, "ply", replace(FORMATS["ply"], build=full))
    monkeypatch.setattr(Part, "size", 0)
    with pytest.raises(MachineError, match="is full"):
        write_all(source, tmp_path, "ring", ("glb", "ply"), sidecar={})
    assert contents(tmp_path) == ({"ring.glb": b"from before"} if older else {})


def test_a_disk_that_fills_with_the_record_leaves_nothing(
    source: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def full(path: Path, *arguments, **options):
        if ".json" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(MachineError, match="is full"):
        write_all(source, tmp_path, "ring", ("glb", "ply"), sidecar={"seed": 7})
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_cannot_be_given_takes_the_others_back(
    source: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if Path(target).suffix == ".ply":
            raise PermissionError(errno.EACCES, "Permission denied")
        return renamed(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(MachineError, match="cannot be written"):
        write_all(source, tmp_path, "ring", ("glb", "ply"))
    assert list(tmp_path.iterdir()) == []


def test_folders_in_the_way_are_a_sentence(source: ExportSource, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MachineError, match="cannot be written"):
        write_all(source, tmp_path / "file", "ring", ("glb",))
    (tmp_path / "ring.ply").mkdir()
    with pytest.raises(MachineError, match="cannot be written"):
        write_all(source, tmp_path, "ring", ("glb", "ply"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "ring.ply"]


def test_folders_are_checked_without_being_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_folder(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MachineError, match="is a file"):
        check_folder(tmp_path / "file" / "out")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(MachineError, match="Permission denied"):
        check_folder(tmp_path)


def test_a_stop_leaves_nothing(source: ExportSource, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise StopError

    with pytest.raises(StopError):
        write_all(source, tmp_path, "ring", tuple(FORMATS), check=stop)
    assert list(tmp_path.iterdir()) == []


def test_draco_is_checked_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise MachineError("Draco compression needs the package DracoPy.", "Run: pip install DracoPy")

    monkeypatch.setattr(formats, "dracopy", missing)
    check_formats(("ply",), FileOptions(draco=True))
    check_formats(("glb",), FileOptions())
    with pytest.raises(MachineError, match="DracoPy"):
        check_formats(("glb",), FileOptions(draco=True))
