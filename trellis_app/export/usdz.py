"""USDZ for Apple's viewers and everything that reads USD: a layer of text and the maps in an uncompressed, aligned zip.

Y up, one unit is a metre. Translucent faces are a mesh of their own, as in GLB. The material is a UsdPreviewSurface.
"""

from __future__ import annotations

import json

import numpy as np

from trellis_app.export.archive import zip_chunks
from trellis_app.export.gltf import y_up
from trellis_app.export.maps import Map, encode_maps
from trellis_app.export.source import ExportSource, Part
from trellis_app.export.text import text_rows
from trellis_app.progress import Check, go_on
from trellis_app.types import FinishedAsset

_ALIGNMENT = 64  # bytes, by the USDZ specification
_HEAD = """#usda 1.0
(
    customLayerData = {{
        string creator = "trellis-app"
        string settings = {settings}
    }}
    defaultPrim = "asset"
    metersPerUnit = 1
    upAxis = "Y"
)

def Xform "asset" (
    kind = "component"
)
{{
"""
_MESH = """    def Mesh "{name}" (
        prepend apiSchemas = ["MaterialBindingAPI"]
    )
    {{
        uniform bool doubleSided = {double_sided}
        float3[] extent = [{low}, {high}]
        rel material:binding = </asset/materials/{name}>
        uniform token subdivisionScheme = "none"
        int[] faceVertexCounts = [{counts}]
"""
_MATERIAL = """        def Material "{name}"
        {{
            token outputs:surface.connect = </asset/materials/{name}/shader.outputs:surface>

            def Shader "shader"
            {{
                uniform token info:id = "UsdPreviewSurface"
                color3f inputs:diffuseColor.connect = </asset/materials/{name}/base_color.outputs:rgb>
                float inputs:metallic.connect = </asset/materials/{name}/metallic_roughness.outputs:b>
                float inputs:roughness.connect = </asset/materials/{name}/metallic_roughness.outputs:g>
{more}                token outputs:surface
            }}

            def Shader "uv"
            {{
                uniform token info:id = "UsdPrimvarReader_float2"
                string inputs:varname = "st"
                float2 outputs:result
            }}
{textures}        }}
"""
_TEXTURE = """
            def Shader "{name}"
            {{
                uniform token info:id = "UsdUVTexture"
                asset inputs:file = @textures/{file}@
                token inputs:sourceColorSpace = "{space}"
                float2 inputs:st.connect = </asset/materials/{material}/uv.outputs:result>
                token inputs:wrapS = "{wrap}"
                token inputs:wrapT = "{wrap}"
{more}                float outputs:r
                float outputs:g
                float outputs:b
                float outputs:a
                float3 outputs:rgb
            }}
"""
_UNPACK_NORMAL = """                float4 inputs:bias = (-1, -1, -1, 0)
                float4 inputs:scale = (2, 2, 2, 1)
"""


def usdz_chunks(source: ExportSource, check: Check = go_on) -> list[bytes]:
    """The package in pieces; the same source gives the same bytes. Maps are PNG, or JPEG if that is asked for."""
    asset = source.asset
    jpeg = source.options.texture_format == "jpeg"  # a package may hold no WebP
    maps = encode_maps(asset.textures, "jpeg" if jpeg else "png", check)
    settings = json.dumps(json.dumps(source.record, sort_keys=True))
    layer = [_HEAD.format(settings=settings).encode()]
    groups = _groups(asset)
    for name, faces in groups.items():
        layer += _mesh_chunks(asset, name, faces, check)
    materials = [_material_text(asset, name, maps) for name in groups]
    layer.append("\n".join(['    def Scope "materials"\n    {', *materials, "    }\n}\n"]).encode())
    pictures = [Part(f"textures/{m.name}.{m.ending}", [m.data]) for m in maps.values()]
    return zip_chunks([Part("asset.usda", layer), *pictures], store=True, align=_ALIGNMENT, check=check)


def _groups(asset: FinishedAsset) -> dict[str, np.ndarray]:
    """Faces by the name of their material; the translucent ones apart where only some are."""
    if asset.textures.alpha_mode != "BLEND":
        return {"surface": asset.faces}
    first = len(asset.faces) - asset.translucent_faces
    parts = {"surface": asset.faces[:first], "translucent": asset.faces[first:]}
    return {name: faces for name, faces in parts.items() if len(faces)}


def _mesh_chunks(asset: FinishedAsset, name: str, faces: np.ndarray, check: Check) -> list[bytes]:
    used, index = np.unique(faces, return_inverse=True)
    points = y_up(asset.vertices[used])
    uvs = np.stack([asset.uvs[used, 0], 1.0 - asset.uvs[used, 1].astype(np.float64)], axis=1)  # v runs up here
    low, high = (f"({x:.6f}, {y:.6f}, {z:.6f})" for x, y, z in (points.min(axis=0), points.max(axis=0)))
    head = _MESH.format(
        name=name,
        double_sided=int(asset.double_sided or name == "translucent"),
        low=low,
        high=high,
        counts=", ".join(["3"] * len(faces)),
    )
    per_vertex = '] (\n            interpolation = "vertex"\n        )\n'
    triples = ("(", ", ", ", ", "),\n")
    return [
        head.encode(),
        b"        int[] faceVertexIndices = [",
        *text_rows(index.reshape(-1, 3), ("", ", ", ", ", ",\n"), check=check),
        b"]\n        point3f[] points = [",
        *text_rows(points, triples, decimals=6, check=check),
        b"]\n        normal3f[] normals = [",
        *text_rows(y_up(asset.normals[used]), triples, decimals=4, check=check),
        f"{per_vertex}        texCoord2f[] primvars:st = [".encode(),
        *text_rows(uvs, ("(", ", ", "),\n"), decimals=6, check=check),
        f"{per_vertex}    }}\n\n".encode(),
    ]


def _material_text(asset: FinishedAsset, name: str, maps: dict[str, Map]) -> str:
    path = f"</asset/materials/{name}"
    more = ""
    if "normal" in maps:
        more += f"                normal3f inputs:normal.connect = {path}/normal.outputs:rgb>\n"
    if asset.textures.alpha_mode == "MASK" or name == "translucent":
        more += f"                float inputs:opacity.connect = {path}/base_color.outputs:a>\n"
    if asset.textures.alpha_mode == "MASK":
        more += "                float inputs:opacityThreshold = 0.5\n"
    textures = "".join(
        _TEXTURE.format(
            name=stored.name,
            file=f"{stored.name}.{stored.ending}",
            space="sRGB" if stored.name == "base_color" else "raw",
            wrap=asset.textures.wrap,
            material=name,
            more=_UNPACK_NORMAL if stored.name == "normal" else "",
        )
        for stored in maps.values()
    )
    return _MATERIAL.format(name=name, more=more, textures=textures)
