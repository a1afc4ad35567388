"""Wavefront OBJ with its material and maps, Y up; positions are shared across UV seams.

Files stand side by side: NAME.obj, NAME.mtl and NAME_<map>.png. The maps that PBR readers know are one channel each.
"""

from __future__ import annotations

import re

import numpy as np

from trellis_app.export.gltf import y_up
from trellis_app.export.ply import weld
from trellis_app.export.png import encode_pngs
from trellis_app.export.source import Part
from trellis_app.export.text import text_rows
from trellis_app.progress import Check, go_on
from trellis_app.types import FinishedAsset, Textures

_DECIMALS = 6
_HEAD = "# trellis-app, Y up, one unit is the side of the model's box\n"


def obj_parts(asset: FinishedAsset, stem: str, check: Check = go_on) -> list[Part]:
    """The OBJ, its MTL and the maps; the same asset and stem give the same bytes."""
    safe = re.sub(r"[^\w.-]+", "_", stem, flags=re.ASCII)  # readers cut the names inside the files at spaces
    pictures = _map_pixels(asset.textures)
    files = encode_pngs(list(pictures.values()), check)
    names = {name: f"{safe}_{name}.png" for name in pictures}
    return [
        Part(f"{stem}.obj", _obj_chunks(asset, safe, check)),
        Part(f"{safe}.mtl", [_material_text(asset, names).encode("ascii")]),
        *(Part(names[name], [data]) for name, data in zip(pictures, files, strict=True)),
    ]


def _map_pixels(textures: Textures) -> dict[str, np.ndarray]:
    maps = {
        "base_color": textures.base_color[..., :3],
        "roughness": textures.metallic_roughness[..., 1],
        "metallic": textures.metallic_roughness[..., 2],
    }
    if textures.alpha_mode != "OPAQUE":
        maps["opacity"] = textures.base_color[..., 3]
    if textures.normal is not None:
        maps["normal"] = textures.normal
    return {name: np.ascontiguousarray(pixels) for name, pixels in maps.items()}


def _obj_chunks(asset: FinishedAsset, safe: str, check: Check) -> list[bytes]:
    positions = y_up(asset.vertices)
    keep, index = weld(positions)
    uvs = np.stack([asset.uvs[:, 0], 1.0 - asset.uvs[:, 1].astype(np.float64)], axis=1)  # v runs up here
    corners = np.stack([index[asset.faces], asset.faces, asset.faces], axis=2).reshape(-1, 9) + 1
    pieces = ("f ", "/", "/", " ", "/", "/", " ", "/", "/", "\n")
    chunks = [f"{_HEAD}mtllib {safe}.mtl\no asset\n".encode("ascii")]
    chunks += text_rows(positions[keep], ("v ", " ", " ", "\n"), decimals=_DECIMALS, check=check)
    chunks += text_rows(uvs, ("vt ", " ", "\n"), decimals=_DECIMALS, check=check)
    chunks += text_rows(y_up(asset.normals), ("vn ", " ", " ", "\n"), decimals=4, check=check)
    first_translucent = len(asset.faces) - (asset.translucent_faces if asset.textures.alpha_mode == "BLEND" else 0)
    for material, rows in (("surface", corners[:first_translucent]), ("translucent", corners[first_translucent:])):
        if len(rows):
            chunks += [f"usemtl {material}\n".encode(), *text_rows(rows, pieces, check=check)]
    return chunks


def _material_text(asset: FinishedAsset, names: dict[str, str]) -> str:
    """Phong values for old readers, maps of the PBR extension for others; the translucent copy has the opacity map."""
    lines = [_HEAD.rstrip()]
    for material in ("surface", "translucent"):
        lines += [f"newmtl {material}", "Ka 0 0 0", "Kd 1 1 1", "Ks 0.04 0.04 0.04", "Ns 50", "d 1", "illum 2"]
        lines += [f"map_Kd {names['base_color']}", f"map_Pr {names['roughness']}", f"map_Pm {names['metallic']}"]
        if "normal" in names:
            lines += [f"norm {names['normal']}"]
        if "opacity" in names and (material == "translucent" or asset.textures.alpha_mode == "MASK"):
            lines += [f"map_d {names['opacity']}"]
    return "\n".join(lines) + "\n"
