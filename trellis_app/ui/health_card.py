"""The health of a finished mesh in plain words: one line, and the numbers behind it on demand."""

from __future__ import annotations

from trellis_app.mesh.health import HealthReport, TextureSpace, report
from trellis_app.types import FinishedAsset

_FAULTS = {
    "boundary_loops": "Holes and open rims",
    "non_manifold_edges": "Edges of three or more triangles",
    "non_manifold_vertices": "Points where surfaces only touch",
    "inconsistent_edges": "Neighbours facing opposite ways",
    "self_intersections": "Self-intersections",
    "inner_shells": "Hidden inner shells",
}
_SHARES = {
    "flipped_share": "Area facing inward",
    "uv_overlap": "Texture shared by two places",
    "uv_use": "Texture in use",
}


def health_card(found: HealthReport | None) -> dict[str, object]:
    """Value of the card; what was not examined has no row."""
    if found is None:
        return {"state": "none", "title": "", "note": "", "rows": []}
    state, _ = found.verdict()
    note = "Looking closer ..." if found.self_intersections is None else found.sentences()[0]
    return {"state": state, "title": _title(found), "note": note, "rows": _rows(found)}


def examined(asset: FinishedAsset) -> HealthReport:
    """The whole report of a finished asset: about a second for 100,000 triangles."""
    texture = TextureSpace(asset.uvs, asset.textures.base_color.shape[0])
    return report(asset.vertices, asset.faces, weld=True, deep=True, texture=texture)


def _title(found: HealthReport) -> str:
    surface = "Watertight" if found.watertight else "Tangled surface" if found.non_manifold_edges else "Open surface"
    return f"{surface}, {found.parts:,} piece{'' if found.parts == 1 else 's'}"


def _rows(found: HealthReport) -> list[dict[str, str]]:
    rows = [_row("Pieces", f"{found.parts:,}")]
    for name, words in _FAULTS.items():
        count = getattr(found, name)
        if count is not None:
            rows.append(_row(words, f"{count:,}", off=count > 0))
    for name, words in _SHARES.items():
        share = getattr(found, name)
        if share is not None:
            rows.append(_row(words, f"{100 * share:.1f} %", off=name != "uv_use" and share >= 0.001))
    if found.texels_per_face is not None:
        rows.append(_row("Texels a triangle", f"{found.texels_per_face:.0f}"))
    return rows


def _row(name: str, value: str, *, off: bool = False) -> dict[str, str]:
    return {"name": name, "value": value, "state": "off" if off else "fine"}
