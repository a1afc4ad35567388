"""The Khronos glTF validator (npm package gltf-validator), where node has it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_SCRIPT = """
const validator = require("gltf-validator");
const read = require("fs").readFileSync;
const check = (path) => validator.validateBytes(new Uint8Array(read(path))).then((report) => report.issues.messages);
Promise.all(process.argv.slice(1).map(check)).then((all) => console.log(JSON.stringify(all)));
"""


def gltf_issues(path: Path) -> list[str]:
    """Errors and warnings of a GLB as 'CODE at pointer'; skips the test where the validator is not installed."""
    return gltf_issues_of([path])[path]


def gltf_issues_of(paths: Sequence[Path]) -> dict[Path, list[str]]:
    """`gltf_issues` of several files in one run of node."""
    if shutil.which("node") is None or not (ROOT / "node_modules" / "gltf-validator").is_dir():
        pytest.skip("needs the Khronos validator: npm install --no-save gltf-validator")
    done = subprocess.run(
        ["node", "-e", _SCRIPT, *map(str, paths)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {
        path: [f"{issue['code']} at {issue.get('pointer', '')}" for issue in issues if issue["severity"] <= 1]
        for path, issues in zip(paths, json.loads(done.stdout), strict=True)
    }
