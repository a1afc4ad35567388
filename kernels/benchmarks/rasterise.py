"""Times the rasteriser at real sizes, after checking it against the reference.

    PYTHONPATH=kernels python kernels/benchmarks/rasterise.py [--device cuda] [--repeats 5]

Exit status 1 if a check fails. The last line is JSON.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys

import torch
from benchmarks.workload import milliseconds, report
from trellis_kernels.rasterise.op import rasterise, rasterise_batch

CASES = ((5, 1024), (40, 1024), (400, 1024), (400, 2048))  # cells along a side of the sphere, picture side


def sphere(side: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Clip coordinates [V, 4] and faces [2 side^2, 3] of a sphere that fills most of the picture."""
    turn, height = torch.meshgrid(
        torch.linspace(0, 2 * math.pi, side + 1), torch.linspace(0.01, math.pi - 0.01, side + 1), indexing="xy"
    )
    x, y, z = height.sin() * turn.cos(), height.cos(), 3.0 + height.sin() * turn.sin()
    clip = torch.stack([2.5 * x, 2.5 * y, 1.02 * z - 1.0, z], dim=-1).reshape(-1, 4)
    first = (torch.arange(side)[:, None] * (side + 1) + torch.arange(side)).reshape(-1, 1)
    halves = torch.tensor([[0, 1, side + 1], [1, side + 2, side + 1]])
    return clip.to(device), torch.cat([first + halves[0], first + halves[1]]).int().to(device)


def check(device: torch.device) -> bool:
    """Same fragments as the reference, from in front and with triangles cut by the near plane; same bytes twice."""
    clip, faces = sphere(9, device)
    cut = clip - torch.tensor([0.0, 0.0, 2.5, 2.5], device=device)
    for corners in (clip, cut):
        wanted = rasterise(corners.cpu(), faces.cpu(), (61, 83), implementation="reference")
        found, again = (rasterise(corners, faces, (61, 83)) for _ in range(2))
        if not torch.equal(found.face.cpu(), wanted.face) or not torch.equal(found.barycentric, again.barycentric):
            return False
        if not torch.allclose(found.barycentric.cpu(), wanted.barycentric, atol=1e-6):
            return False
    return True


def main() -> int:
    """Checks, then times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    device = torch.device(options.device)
    if not check(device):
        print("the fragments differ from the reference", file=sys.stderr)
        return 1
    rows: list[dict[str, object]] = []
    for cells, side in CASES:
        clip, faces = sphere(cells, device)
        run = functools.partial(rasterise, clip, faces, (side, side))
        one = milliseconds(run, device, repeats=options.repeats)
        rows.append({"faces": len(faces), "side": side, "pictures": 1, "ms": one})
    clip, faces = sphere(40, device)
    batch = clip.expand(16, -1, -1)
    many = milliseconds(lambda: rasterise_batch(batch, faces, (512, 512)), device, repeats=options.repeats)
    rows.append({"faces": len(faces), "side": 512, "pictures": 16, "ms": many})
    report(rows, device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
