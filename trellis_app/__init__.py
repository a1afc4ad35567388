"""TRELLIS.2 in a Gradio app: a picture becomes a textured PBR asset in three stages."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("trellis_kernels") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kernels"))
