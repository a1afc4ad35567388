"""The health of a finished mesh in plain words: one line, and the numbers behind it on demand."""

from __future__ import annotations

from trellis_app.mesh.health import HealthReport

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


def health_card(report: HealthReport | None) -> dict[str, object]:
    """Value of the card; what was not examined has no row."""
    if report is None:
        return {"state": "none", "title": "", "note": "", "rows": []}
    state, _ = report.verdict()
    return {"state": state, "title": _title(report), "note": report.sentences()[0], "rows": _rows(report)}


def _title(report: HealthReport) -> str:
    surface = "Watertight" if report.watertight else "Tangled surface" if report.non_manifold_edges else "Open surface"
    return f"{surface}, {report.parts:,} piece{'' if report.parts == 1 else 's'}"


def _rows(report: HealthReport) -> list[dict[str, str]]:
    rows = [_row("Pieces", f"{report.parts:,}")]
    for name, words in _FAULTS.items():
        count = getattr(report, name)
        if count is not None:
            rows.append(_row(words, f"{count:,}", off=count > 0))
    for name, words in _SHARES.items():
        share = getattr(report, name)
        if share is not None:
            rows.append(_row(words, f"{100 * share:.1f} %", off=name != "uv_use" and share >= 0.001))
    if report.texels_per_face is not None:
        rows.append(_row("Texels a triangle", f"{report.texels_per_face:.0f}"))
    return rows


def _row(name: str, value: str, *, off: bool = False) -> dict[str, str]:
    return {"name": name, "value": value, "state": "off" if off else "fine"}
