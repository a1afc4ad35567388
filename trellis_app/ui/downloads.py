"""The list of downloads: the GLB lies ready, every other file is made from the same kept asset when asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from trellis_app.errors import TrellisError
from trellis_app.export.archive import zip_chunks
from trellis_app.export.files import write_atomically
from trellis_app.export.formats import FORMATS, write_all
from trellis_app.export.source import Part
from trellis_app.settings import FileOptions
from trellis_app.ui.session import Run
from trellis_app.ui.stages import plain

MAIN = "glb"
EVERYTHING = "zip"
SMALLER = {
    "jpeg": ("GLB with JPEG", "Smaller; fine colour edges lose a little.", FileOptions("jpeg")),
    "webp": ("GLB with WebP", "Smaller, for the web; Unreal and Unity cannot read it.", FileOptions("webp")),
    "draco": ("GLB with Draco", "Packed triangles, for viewers that can unpack them.", FileOptions(draco=True)),
}


@dataclass(frozen=True)
class Offer:
    """One row: a file that exists or can be made."""

    key: str  # names the row
    label: str
    help: str
    path: Path
    format: str  # row of the table of formats
    options: FileOptions


def download_list(run: Run | None, print_size: float, problems: dict[str, str] | None = None) -> dict[str, object]:
    """Value of the list, a link in the row of each file that exists.

    print_size: longest side of printable files in mm. problems: sentences by row.
    """
    if run is None or run.finished is None:
        return {"state": "none", "main": {}, "rows": []}
    rows = [_row(offer, (problems or {}).get(offer.key, "")) for offer in offers(run, print_size)]
    return {"state": "ready", "main": rows[0], "rows": rows[1:]}


def offers(run: Run, print_size: float) -> list[Offer]:
    """Every download of a finished run: the GLB first, all of them as one zip last."""
    assert run.finished is not None
    folder, stem, options = run.folder, run.finished.stem, FileOptions(size_mm=print_size)
    made = []
    for name, row in FORMATS.items():
        own = f"{stem}-{print_size:g}mm" if "size_mm" in row.options else stem
        made.append(Offer(name, row.label, row.help, folder / f"{own}.{row.extension}", name, options))
    for key, (label, words, smaller) in SMALLER.items():
        made.append(Offer(key, label, words, folder / f"{stem}-{key}.glb", MAIN, smaller))
    words = "Every format and the settings, in one file."
    return [*made, Offer(EVERYTHING, "Everything", words, folder / f"{stem}-{print_size:g}mm.zip", "", options)]


def make(run: Run, key: str, print_size: float) -> Iterator[dict[str, object]]:
    """Write what the row needs and yield the list after each file; an error ends it and stands in its row."""
    listed = offers(run, print_size)
    wanted = next(offer for offer in listed if offer.key == key)
    parts = [offer for offer in listed if offer.key == offer.format] if key == EVERYTHING else [wanted]
    try:
        for offer in parts:
            if not offer.path.is_file():
                _write(run, offer)
                yield download_list(run, print_size)
        if key == EVERYTHING:
            _zip([*(offer.path for offer in parts), parts[0].path.with_suffix(".json")], wanted.path)
    except TrellisError as error:
        yield download_list(run, print_size, {key: str(error)})
        return
    yield download_list(run, print_size)


def file_link(path: Path) -> str:
    """Where the page finds a file of the output folder."""
    return f"gradio_api/file={quote(str(path.resolve()))}"


def file_size(path: Path) -> str:
    """'4.1 MB', '35 kB'."""
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{max(size // 1000, 1)} kB"


def _row(offer: Offer, problem: str) -> dict[str, str]:
    made = offer.path.is_file()
    return {
        "key": offer.key,
        "label": offer.label,
        "help": plain(problem or offer.help),
        "state": "failed" if problem else "made" if made else "offered",
        "link": file_link(offer.path) if made else "",
        "name": offer.path.name,
        "size": file_size(offer.path) if made else "",
    }


def _write(run: Run, offer: Offer) -> None:
    assert run.finished is not None
    source = replace(run.finished.source, options=offer.options)
    stem = offer.path.name.removesuffix(f".{FORMATS[offer.format].extension}")
    write_all(source, run.folder, stem, (offer.format,), packed=True)


def _zip(paths: list[Path], target: Path) -> None:
    write_atomically(target, zip_chunks([Part(path.name, [path.read_bytes()]) for path in paths], store=True))
