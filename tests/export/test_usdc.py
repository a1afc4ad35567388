"""Our crate writer against OpenUSD's reader: many specs, long names, every type of value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pxr import Gf, Sdf

from trellis_app.export import usdc


def opened(tmp_path: Path, metadata: dict[str, usdc.Value], prims: list[usdc.Spec]) -> Sdf.Layer:
    data = b"".join(usdc.layer_chunks(metadata, prims))
    assert data == b"".join(usdc.layer_chunks(metadata, prims))
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.usdc"
    path.write_bytes(data)
    layer = Sdf.Layer.OpenAsAnonymous(str(path))
    assert layer is not None
    return layer


def test_every_type_of_value_comes_back(tmp_path: Path) -> None:
    floats = np.linspace(-1, 1, 30).reshape(-1, 3)
    properties = [
        usdc.attribute("aBool", "bool", usdc.boolean(True), uniform=True),
        usdc.attribute("aFloat", "float", usdc.real(0.1)),
        usdc.attribute("aFloat4", "float4", usdc.small_vector(-1, 2, -128, 127)),
        usdc.attribute("aString", "string", usdc.string('é "quoted"')),
        usdc.attribute("aToken", "token", usdc.token("none")),
        usdc.attribute("anAsset", "asset", usdc.asset_path("textures/a.png")),
        usdc.attribute("ints", "int[]", usdc.array(np.array([3, -1, 2**31 - 1]))),
        usdc.attribute("none", "int[]", usdc.array(np.zeros(0, np.int32))),
        usdc.attribute("pairs", "texCoord2f[]", usdc.array(floats[:, :2]), interpolation=usdc.token("vertex")),
        usdc.attribute("triples", "point3f[]", usdc.array(floats)),
        usdc.connected("wire", "float", "/a.aFloat"),
        usdc.relationship("rel", "/a/b"),
    ]
    a = usdc.prim("a", "Mesh", [*properties, usdc.prim("b", "", [])], apiSchemas=usdc.prepended("OneAPI", "TwoAPI"))
    metadata = {"metersPerUnit": usdc.double(0.5), "customLayerData": usdc.texts({"x": "1", "y": ""})}
    layer = opened(tmp_path, metadata, [a])
    assert layer.pseudoRoot.GetInfo("metersPerUnit") == 0.5
    assert layer.customLayerData == {"x": "1", "y": ""}
    read = {spec.name: spec for spec in layer.GetPrimAtPath("/a").properties}
    assert list(read) == [spec.name for spec in properties]
    assert read["aBool"].default is True
    assert read["aBool"].variability == Sdf.VariabilityUniform
    assert read["aFloat"].default == pytest.approx(0.1)
    assert read["aFloat4"].default == Gf.Vec4f(-1, 2, -128, 127)
    assert (read["aString"].default, read["aToken"].default) == ('é "quoted"', "none")
    assert read["anAsset"].default.path == "textures/a.png"
    assert list(read["ints"].default) == [3, -1, 2**31 - 1]
    assert len(read["none"].default) == 0
    np.testing.assert_allclose(read["pairs"].default, floats[:, :2], rtol=1e-6)
    np.testing.assert_allclose(read["triples"].default, floats, rtol=1e-6)
    assert read["pairs"].GetInfo("interpolation") == "vertex"
    assert [str(path) for path in read["wire"].connectionPathList.explicitItems] == ["/a.aFloat"]
    assert [str(path) for path in read["rel"].targetPathList.explicitItems] == ["/a/b"]
    assert layer.GetPrimAtPath("/a").GetInfo("apiSchemas").prependedItems == ["OneAPI", "TwoAPI"]
    assert layer.GetPrimAtPath("/a/b").specifier == Sdf.SpecifierDef


@pytest.mark.parametrize("count", [0, 1, 40, 700])
def test_large_and_deep_layers(tmp_path: Path, count: int) -> None:
    """Deltas of one, two and four bytes, names on both sides of every length step of the LZ4 literals."""
    prims = []
    for k in range(count):
        inner = [usdc.attribute(f"v{j}", "string", usdc.string("x" * (k * j % 611))) for j in range(k % 5)]
        prims.append(
            usdc.prim(f"p{k}", "Scope", [*inner, usdc.prim("deep", "Scope", [usdc.prim("er", "Scope", inner)])])
        )
    layer = opened(tmp_path, {"upAxis": usdc.token("Y")}, prims)
    assert len(layer.rootPrims) == count
    for k in range(count):
        for path in (f"/p{k}", f"/p{k}/deep/er"):
            spec = layer.GetPrimAtPath(path)
            assert [len(prop.default) for prop in spec.properties] == [k * j % 611 for j in range(k % 5)]
