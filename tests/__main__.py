"""The one check command, by hand and in CI: python -m tests [pytest arguments]."""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS = {
    "formatting": ("ruff", "format", "--check", "."),
    "lint": ("ruff", "check", "."),
    "types": ("mypy",),
    "tests": ("pytest", "-q", "--durations=10"),
}


def run_step(name: str, command: tuple[str, ...]) -> bool:
    """Run `python -m command` in the project root, say how it went, return whether it passed."""
    print(f"\n== {name}: {' '.join(command)}", flush=True)
    began = time.monotonic()
    code = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False).returncode
    print(f"== {name}: {'passed' if code == 0 else f'FAILED (exit code {code})'} in {time.monotonic() - began:.0f} s")
    return code == 0


def main() -> int:
    """Run every step even when an earlier one failed; arguments go to pytest and leave the other steps out."""
    extra = tuple(sys.argv[1:])
    steps = {"tests": (*STEPS["tests"], *extra)} if extra else STEPS
    failed = [name for name, command in steps.items() if not run_step(name, command)]
    print(f"\n{'All checks passed.' if not failed else 'Failed: ' + ', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
