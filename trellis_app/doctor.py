"""What this machine can run, what it cannot, and what to do: the `doctor` command. Downloads nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from trellis_app import checks
from trellis_app.checks import NOTE, OK, PROBLEM, Finding
from trellis_app.devices import choose_device
from trellis_app.errors import TrellisError
from trellis_app.hub import FULL_BUNDLE
from trellis_app.image.reading import read_picture
from trellis_app.pipeline import ImageTo3D
from trellis_app.settings import PROJECT_ROOT, AppSettings, GenerationRequest
from trellis_app.types import OVoxel
from trellis_app.weights import Bundle, Source, resolve_source, source_of

PROBE = PROJECT_ROOT / "assets" / "mini" / "probe.json"  # picture, seed and the voxels that must come out
PROBE_TOLERANCE = 0.05


@dataclass(frozen=True)
class Report:
    """All findings; `usable` is False when the chosen bundle cannot run here."""

    findings: tuple[Finding, ...]

    @property
    def usable(self) -> bool:
        return all(finding.status != PROBLEM for finding in self.findings)


def examine(settings: AppSettings, *, probe: bool = True) -> Report:
    """Look at the machine, the packages, the bundles and (optionally) run the fixed-seed probe.

    A chosen bundle that is not here yet is not loaded: that would download it.
    """
    findings = [*checks.machine(settings), *checks.packages()]
    try:
        findings += _bundles(settings, probe)
    except TrellisError as error:
        findings.append(Finding(f"bundle {settings.bundle}", PROBLEM, error.what, error.to_do))
    return Report(tuple(findings))


def _bundles(settings: AppSettings, probe: bool) -> Iterator[Finding]:
    """The released bundle in any case, and the chosen one; raises what loading it raises."""
    original, full = settings.original_encoders, Source(None, FULL_BUNDLE)
    chosen = resolve_source(settings.bundle, choose_device(settings.device))
    source, needed = source_of(chosen), chosen == FULL_BUNDLE
    missing = checks.lacking(source, original=original)
    yield from checks.bundle_files(FULL_BUNDLE, checks.lacking(full, original=original), needed=needed)
    yield from checks.full_bundle_memory(settings, needed=needed)
    if missing and not needed:
        yield from checks.bundle_files(chosen, missing, needed=True)
    yield from checks.hub(missing or checks.lacking(full, original=original), needed=bool(missing))
    if not missing:
        pipeline = ImageTo3D.load(settings)
        yield _bundle(pipeline.bundle)
        if probe:
            yield _probe(pipeline)


def _bundle(bundle: Bundle) -> Finding:
    return Finding(f"bundle {bundle.name}", OK, f"{bundle.description}; presets {', '.join(bundle.presets)}")


def _probe(pipeline: ImageTo3D) -> Finding:
    """A fixed-seed run of the three stages, compared with the count stored beside the shipped bundle."""
    expected = json.loads(PROBE.read_text())
    started = time.monotonic()
    prepared = pipeline.prepare(read_picture(PROBE.parent / expected["picture"]))
    request = pipeline.resolved(GenerationRequest(seed=int(expected["seed"])))
    voxels = 0
    for event in pipeline.generate(prepared, request, finish=False):
        if isinstance(event.result, OVoxel):
            voxels = len(event.result.grid.coords)
    seconds = time.monotonic() - started
    if pipeline.bundle.name != expected["bundle"]:
        return Finding("probe", OK, f"{voxels} voxels in {seconds:.1f} s (no expected figure for this bundle)")
    target = int(expected["voxels"])
    good = abs(voxels - target) <= PROBE_TOLERANCE * target
    verdict = "as expected" if good else f"expected {target}: the models do not compute what they should here"
    detail = f"{voxels} voxels in {seconds:.1f} s, {verdict}"
    return Finding("probe", OK if good else PROBLEM, detail, "Run pip install -r requirements.txt, and report this.")


def render_text(report: Report) -> str:
    """The report as aligned lines, each with what to do, and a closing sentence."""
    marks = {OK: "ok     ", NOTE: "note   ", PROBLEM: "PROBLEM"}
    width = max(len(finding.subject) for finding in report.findings)
    lines = [f"{marks[f.status]}  {f.subject:<{width}}  {told(f)}" for f in report.findings]
    lines.append(
        "This machine can run the app." if report.usable else "This machine cannot run the app yet; see PROBLEM."
    )
    return "\n".join(lines)


def told(finding: Finding) -> str:
    """What was found, and what to do unless all is well."""
    return finding.detail if finding.status == OK else f"{finding.detail.rstrip('.')}. {finding.to_do}"


def render_json(report: Report) -> str:
    """The report as one JSON object."""
    return json.dumps({"usable": report.usable, "findings": [asdict(finding) for finding in report.findings]})
