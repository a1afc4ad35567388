"""USDZ for Apple's viewers and everything that reads USD: a binary layer and the maps in an uncompressed, aligned zip.

Y up, one unit is a metre. Translucent faces are a mesh of their own, as in GLB. The material is a UsdPreviewSurface.
"""

from __future__ import annotations

import json

import numpy as np

from trellis_app.export import usdc
from trellis_app.export.archive import zip_chunks
from trellis_app.export.glb import ALPHA_CUTOFF
from trellis_app.export.gltf import GENERATOR, y_up
from trellis_app.export.maps import Map, encode_maps
from trellis_app.export.source import ExportSource, Part
from trellis_app.progress import Check, go_on
from trellis_app.types import FinishedAsset

_ALIGNMENT = 64  # bytes, by the USDZ specification
_TEXTURE_CHANNELS = (("r", "float"), ("g", "float"), ("b", "float"), ("a", "float"), ("rgb", "float3"))


def usdz_chunks(source: ExportSource, check: Check = go_on) -> list[bytes]:
    """The package in pieces; the same source gives the same bytes. Maps are PNG, or JPEG if that is asked for."""
    asset = source.asset
    jpeg = source.options.texture_format == "jpeg"  # a package may hold no WebP
    maps = encode_maps(asset.textures, "jpeg" if jpeg else "png", check)
    groups = _groups(asset)
    meshes = [_mesh(asset, name, faces) for name, faces in groups.items()]
    check()
    materials = usdc.prim("materials", "Scope", [_material(asset, name, maps) for name in groups])
    layer = usdc.layer_chunks(
        {
            "customLayerData": usdc.texts(
                {"creator": GENERATOR, "settings": json.dumps(source.settings, sort_keys=True)}
            ),
            "defaultPrim": usdc.token("asset"),
            "metersPerUnit": usdc.double(1.0),
            "upAxis": usdc.token("Y"),
        },
        [usdc.prim("asset", "Xform", [*meshes, materials], kind=usdc.token("component"))],
    )
    pictures = [Part(f"textures/{m.name}.{m.ending}", [m.data]) for m in maps.values()]
    return zip_chunks([Part("asset.usdc", layer), *pictures], store=True, align=_ALIGNMENT, check=check)


def _groups(asset: FinishedAsset) -> dict[str, np.ndarray]:
    """Faces by the name of their material; the translucent ones apart where only some are."""
    if asset.textures.alpha_mode != "BLEND":
        return {"surface": asset.faces}
    first = len(asset.faces) - asset.translucent_faces
    parts = {"surface": asset.faces[:first], "translucent": asset.faces[first:]}
    return {name: faces for name, faces in parts.items() if len(faces)}


def _mesh(asset: FinishedAsset, name: str, faces: np.ndarray) -> usdc.Spec:
    """A mesh of some faces, bound to the material of its name."""
    used, index = np.unique(faces, return_inverse=True)
    points = y_up(asset.vertices[used])
    uvs = np.stack([asset.uvs[used, 0], 1.0 - asset.uvs[used, 1].astype(np.float64)], axis=1)  # v runs up here
    extent = np.stack([points.min(axis=0), points.max(axis=0)])
    vertex = usdc.token("vertex")
    properties = [
        usdc.attribute("doubleSided", "bool", usdc.boolean(asset.double_sided or name == "translucent"), uniform=True),
        usdc.attribute("extent", "float3[]", usdc.array(extent)),
        usdc.attribute("faceVertexCounts", "int[]", usdc.array(np.full(len(faces), 3))),
        usdc.attribute("faceVertexIndices", "int[]", usdc.array(index.reshape(-1))),
        usdc.relationship("material:binding", f"/asset/materials/{name}"),
        usdc.attribute("normals", "normal3f[]", usdc.array(y_up(asset.normals[used])), interpolation=vertex),
        usdc.attribute("points", "point3f[]", usdc.array(points)),
        usdc.attribute("primvars:st", "texCoord2f[]", usdc.array(uvs), interpolation=vertex),
        usdc.attribute("subdivisionScheme", "token", usdc.token("none"), uniform=True),
    ]
    return usdc.prim(name, "Mesh", properties, apiSchemas=usdc.prepended("MaterialBindingAPI"))


def _material(asset: FinishedAsset, name: str, maps: dict[str, Map]) -> usdc.Spec:
    """A preview surface whose inputs read the maps."""
    path = f"/asset/materials/{name}"
    masked = asset.textures.alpha_mode == "MASK"
    inputs = [
        _shader_id("UsdPreviewSurface"),
        usdc.connected("inputs:diffuseColor", "color3f", f"{path}/base_color.outputs:rgb"),
        usdc.connected("inputs:metallic", "float", f"{path}/metallic_roughness.outputs:b"),
        usdc.connected("inputs:roughness", "float", f"{path}/metallic_roughness.outputs:g"),
    ]
    if "normal" in maps:
        inputs.append(usdc.connected("inputs:normal", "normal3f", f"{path}/normal.outputs:rgb"))
    if masked or name == "translucent":
        inputs.append(usdc.connected("inputs:opacity", "float", f"{path}/base_color.outputs:a"))
    if masked:
        inputs.append(usdc.attribute("inputs:opacityThreshold", "float", usdc.real(ALPHA_CUTOFF)))
    reader = [
        _shader_id("UsdPrimvarReader_float2"),
        usdc.attribute("inputs:varname", "string", usdc.string("st")),
        usdc.attribute("outputs:result", "float2"),
    ]
    return usdc.prim(
        name,
        "Material",
        [
            usdc.connected("outputs:surface", "token", f"{path}/shader.outputs:surface"),
            usdc.prim("shader", "Shader", [*inputs, usdc.attribute("outputs:surface", "token")]),
            usdc.prim("uv", "Shader", reader),
            *(_texture(stored, path, asset.textures.wrap) for stored in maps.values()),
        ],
    )


def _shader_id(name: str) -> usdc.Spec:
    return usdc.attribute("info:id", "token", usdc.token(name), uniform=True)


def _texture(stored: Map, material: str, wrap: str) -> usdc.Spec:
    """The node that reads a map; a normal map's values run from -1 to 1."""
    space = "sRGB" if stored.name == "base_color" else "raw"
    properties = [
        _shader_id("UsdUVTexture"),
        usdc.attribute("inputs:file", "asset", usdc.asset_path(f"textures/{stored.name}.{stored.ending}")),
        usdc.attribute("inputs:sourceColorSpace", "token", usdc.token(space)),
        usdc.connected("inputs:st", "float2", f"{material}/uv.outputs:result"),
        usdc.attribute("inputs:wrapS", "token", usdc.token(wrap)),
        usdc.attribute("inputs:wrapT", "token", usdc.token(wrap)),
    ]
    if stored.name == "normal":
        properties.append(usdc.attribute("inputs:bias", "float4", usdc.small_vector(-1, -1, -1, 0)))
        properties.append(usdc.attribute("inputs:scale", "float4", usdc.small_vector(2, 2, 2, 1)))
    outputs = [usdc.attribute(f"outputs:{channel}", kind) for channel, kind in _TEXTURE_CHANNELS]
    return usdc.prim(stored.name, "Shader", [*properties, *outputs])
