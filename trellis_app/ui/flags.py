"""The flags of app.py."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from trellis_app.settings import PRECISIONS, AppSettings, app_settings


def parse_settings(arguments: list[str] | None = None) -> AppSettings:
    """Flags override the environment (TRELLIS_HOST, TRELLIS_PORT, ...); see README."""
    parser = argparse.ArgumentParser(prog="python app.py", description="Picture to textured 3D asset, in the browser.")
    parser.add_argument("--host", help="address to listen on; 0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int)
    parser.add_argument("--bundle", help="auto, mini, a folder, or owner/name on the Hugging Face hub")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--memory-budget-gb", type=float, help="GPU memory that the models may use")
    parser.add_argument("--precision", choices=PRECISIONS, help="of the flows on a GPU")
    parser.add_argument(
        "--original-encoders", action="store_true", default=None, help="the gated DINOv3 and RMBG-2.0 of the 4B bundle"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N",
        help="N processes with a GPU each do the work (needs pip install 'ray[serve]'); without it this one does",
    )  # fmt: skip
    parser.add_argument("--output-folder", type=Path, help="where every run's files are kept")
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    return replace(app_settings(), **given)
