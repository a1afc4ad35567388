"""The Khronos glTF validator (npm package gltf-validator), where node has it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_SCRIPT = """
const validator = require("gltf-validator");
const bytes = new Uint8Array(require("fs").readFileSync(process.argv[1]));
validator.validateBytes(bytes).then((report) => console.log(JSON.stringify(report.issues)));
"""


def gltf_issues(path: Path) -> list[str]:
    """Errors and warnings of a GLB as 'CODE at pointer'; skips the test where the validator is not installed."""
    if shutil.which("node") is None or not (ROOT / "node_modules" / "gltf-validator").is_dir():
        pytest.skip("needs the Khronos validator: npm install --no-save gltf-validator")
    done = subprocess.run(["node", "-e", _SCRIPT, str(path)], cwd=ROOT, capture_output=True, text=True, check=True)
    issues = json.loads(done.stdout)["messages"]
    return [f"{issue['code']} at {issue.get('pointer', '')}" for issue in issues if issue["severity"] <= 1]
