"""USD's binary "crate" format, version 0.8: prims, attributes and relationships of one layer, written by hand.

bootstrap | values that do not fit in 48 bits | TOKENS STRINGS FIELDS FIELDSETS PATHS SPECS | table of contents

Values are deduplicated names, inline numbers or arrays; structure is integers in a delta code. Everything that the
format wants in LZ4 is stored as LZ4 literals: the sections are small, and arrays are kept as they are.
Layout as read by OpenUSD (pxr/usd/usd/crateFile); tests read it back with usd-core.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

VERSION = (0, 8, 0)
ATTRIBUTE, PRIM, ROOT, RELATIONSHIP = 1, 6, 7, 8  # kinds of specs
_BOOTSTRAP = 88  # bytes
_ARRAY, _INLINE = 1 << 63, 1 << 62
_EXPLICIT, _PREPENDED = 0b11, 0b100000  # of list operations


@dataclass(frozen=True)
class Value:
    """A value with the format's number for its type."""

    kind: int
    data: object


def token(text: str) -> Value:
    return Value(11, text)


def string(text: str) -> Value:
    return Value(10, text)


def asset_path(path: str) -> Value:
    return Value(12, path)


def boolean(value: bool) -> Value:
    return Value(1, int(value))


def real(value: float) -> Value:
    """A float."""
    return Value(8, struct.unpack("<I", struct.pack("<f", value))[0])


def double(value: float) -> Value:
    """A double that a float holds exactly."""
    return Value(9, struct.unpack("<I", struct.pack("<f", value))[0])


def small_vector(*values: int) -> Value:
    """A float4 of whole numbers from -128 to 127."""
    return Value(28, struct.unpack("<I", struct.pack("<4b", *values))[0])


def array(values: np.ndarray) -> Value:
    """int[] of whole numbers [N]; float2[] or float3[] of [N, 2 or 3]."""
    kind = 3 if values.ndim == 1 else {2: 20, 3: 24}[values.shape[1]]
    return Value(kind, np.ascontiguousarray(values, "<i4" if kind == 3 else "<f4"))


def prepended(*tokens: str) -> Value:
    return Value(32, tokens)


def targets(*paths: str) -> Value:
    """Paths of the layer that a relationship or connection points to."""
    return Value(34, paths)


def names(*tokens: str) -> Value:
    return Value(41, tokens)


def texts(entries: Mapping[str, str]) -> Value:
    """A dictionary of strings."""
    return Value(31, dict(entries))


_SPECIFIER, _VARIABILITY = 42, 44


@dataclass
class Spec:
    """A prim, attribute or relationship with its metadata and what is below it."""

    name: str
    kind: int
    fields: dict[str, Value] = field(default_factory=dict)
    children: list[Spec] = field(default_factory=list)


def prim(name: str, type_name: str, children: Sequence[Spec], **metadata: Value) -> Spec:
    """A defined prim; children are its properties and prims."""
    return Spec(
        name, PRIM, {"specifier": Value(_SPECIFIER, 0), "typeName": token(type_name), **metadata}, list(children)
    )


def attribute(
    name: str, type_name: str, default: Value | None = None, *, uniform: bool = False, **metadata: Value
) -> Spec:
    """An attribute, with a value if there is one."""
    fields = {"typeName": token(type_name), **metadata}
    if default is not None:
        fields["default"] = default
    if uniform:
        fields["variability"] = Value(_VARIABILITY, 1)
    return Spec(name, ATTRIBUTE, fields)


def connected(name: str, type_name: str, source: str) -> Spec:
    """An attribute that takes its value from the attribute at a path."""
    return attribute(name, type_name, connectionPaths=targets(source))


def relationship(name: str, target: str) -> Spec:
    return Spec(name, RELATIONSHIP, {"variability": Value(_VARIABILITY, 1), "targetPaths": targets(target)})


def layer_chunks(metadata: Mapping[str, Value], prims: Sequence[Spec]) -> list[bytes]:
    """The file of a layer in pieces; the same layer gives the same bytes."""
    return _Crate(Spec("", ROOT, dict(metadata), list(prims))).chunks()


class _Crate:
    """The tables while they grow; an index is the place of first use."""

    def __init__(self, root: Spec) -> None:
        self._tokens = {";-)": 0}  # signs of indices tell prims from properties, so that no name may have index 0
        self._strings: dict[int, int] = {}  # index by token
        self._fields: dict[tuple[int, int], int] = {}  # index by (token, packed value)
        self._sets: list[int] = []
        self._body: list[bytes] = []
        self._length = _BOOTSTRAP
        self._paths: dict[str, int] = {}
        self._tree: list[tuple[int, int, int]] = []  # path, name (negative: property), jump; parents first
        self._specs: list[tuple[int, int, int]] = []  # path, first field, kind
        self._list_paths(root, "/", last=True)
        self._add_specs(root, "/")

    def _list_paths(self, spec: Spec, path: str, *, last: bool) -> None:
        """Number the path and those below; jumps say where a sibling follows."""
        here = len(self._tree)
        self._paths[path] = here
        name = 0 if spec.kind == ROOT else self._token(spec.name)
        self._tree.append((here, -name if spec.kind in (ATTRIBUTE, RELATIONSHIP) else name, 0))
        for child in spec.children:
            self._list_paths(child, _below(path, child), last=child is spec.children[-1])
        jump = (-2 if last else 0) if not spec.children else -1 if last else len(self._tree) - here
        self._tree[here] = (*self._tree[here][:2], jump)

    def _add_specs(self, spec: Spec, path: str) -> None:
        fields = dict(spec.fields)
        prims = [child.name for child in spec.children if child.kind == PRIM]
        properties = [child.name for child in spec.children if child.kind != PRIM]
        if prims:
            fields["primChildren"] = names(*prims)
        if properties:
            fields["properties"] = names(*properties)
        first = len(self._sets)
        for name, value in fields.items():
            key = (self._token(name), self._packed(value))
            self._sets.append(self._fields.setdefault(key, len(self._fields)))
        self._sets.append(-1)
        self._specs.append((self._paths[path], first, spec.kind))
        for child in spec.children:
            self._add_specs(child, _below(path, child))

    def _token(self, text: str) -> int:
        return self._tokens.setdefault(text, len(self._tokens))

    def _string(self, text: str) -> int:
        return self._strings.setdefault(self._token(text), len(self._strings))

    def _packed(self, value: Value) -> int:
        """The 64 bits that stand for a value: type and contents, or type and place."""
        data, kind = value.data, value.kind << 48
        if isinstance(data, int):
            return kind | _INLINE | data
        if isinstance(data, str):
            return kind | _INLINE | (self._string(data) if value.kind == 10 else self._token(data))
        if isinstance(data, np.ndarray):
            return kind | _ARRAY | self._put(struct.pack("<Q", len(data)), data.tobytes())
        if isinstance(data, dict):
            entries = [
                struct.pack("<Iq", self._string(k), 8) + struct.pack("<Q", self._packed(string(v)))
                for k, v in data.items()
            ]
            return kind | self._put(struct.pack("<Q", len(entries)), *entries)
        assert isinstance(data, tuple)
        if value.kind == 34:
            return kind | self._put(bytes([_EXPLICIT]), _counted([self._paths[path] for path in data]))
        listed = _counted([self._token(text) for text in data])
        return kind | self._put(*([bytes([_PREPENDED])] if value.kind == 32 else []), listed)

    def _put(self, *pieces: bytes) -> int:
        """Append data at a multiple of eight bytes; returns its place."""
        place = self._length
        size = sum(len(piece) for piece in pieces)
        self._body += [*pieces, b"\0" * (-size % 8)]
        self._length += size + -size % 8
        return place

    def chunks(self) -> list[bytes]:
        """The file in pieces."""
        contents = []
        for name, data in self._sections().items():
            contents.append(struct.pack("<16sqq", name.encode(), self._put(data), len(data)))
        table = self._put(struct.pack("<Q", len(contents)), *contents)
        head = struct.pack("<8s8Bq64x", b"PXR-USDC", *VERSION, *[0] * 5, table)
        return [head, *self._body]

    def _sections(self) -> dict[str, bytes]:
        listed = b"".join(text.encode() + b"\0" for text in self._tokens)
        packed = _literals(listed)
        keys = np.array(list(self._fields), np.uint64).reshape(-1, 2)
        values = _literals(keys[:, 1].astype("<u8").tobytes())
        tree, specs = np.array(self._tree), np.array(self._specs)
        return {
            "TOKENS": struct.pack("<QQQ", len(self._tokens), len(listed), len(packed)) + packed,
            "STRINGS": _counted(list(self._strings)),
            "FIELDS": _size(keys) + _integers(keys[:, 0]) + struct.pack("<Q", len(values)) + values,
            "FIELDSETS": _size(self._sets) + _integers(np.array(self._sets)),
            "PATHS": 2 * _size(tree) + b"".join(_integers(column) for column in tree.T),
            "SPECS": _size(specs) + b"".join(_integers(column) for column in specs.T),
        }


def _below(path: str, child: Spec) -> str:
    return f"{path.rstrip('/')}/{child.name}" if child.kind == PRIM else f"{path}.{child.name}"


def _size(items: Sequence[object] | np.ndarray) -> bytes:
    return struct.pack("<Q", len(items))


def _counted(indices: Sequence[int]) -> bytes:
    return struct.pack(f"<Q{len(indices)}I", len(indices), *indices)


def _integers(values: np.ndarray) -> bytes:
    """The delta code, its size in front: the commonest delta, two bits for each (common, 1, 2, 4 bytes), the others."""
    numbers = values.astype(np.int64).astype(np.int32)
    deltas = np.diff(numbers, prepend=np.int32(0))
    choices, counts = np.unique(deltas, return_counts=True)
    common = choices[np.argmax(counts)]
    codes = np.where(np.abs(deltas) < 128, 1, np.where(np.abs(deltas) < 32768, 2, 3))
    codes[deltas == common] = 0
    padded = np.concatenate([codes, np.zeros(-len(codes) % 4, codes.dtype)]).reshape(-1, 4)
    bits = (padded << np.array([0, 2, 4, 6])).sum(axis=1).astype(np.uint8)
    sizes = {1: "<b", 2: "<h", 3: "<i"}
    others = zip(codes[codes > 0].tolist(), deltas[codes > 0].tolist(), strict=True)
    rest = b"".join(struct.pack(sizes[code], delta) for code, delta in others)
    packed = _literals(struct.pack("<i", common) + bits.tobytes() + rest)
    return struct.pack("<Q", len(packed)) + packed


def _literals(data: bytes) -> bytes:
    """One LZ4 block that only has literals, after the byte that says there is one block."""
    count = len(data)
    if count < 15:
        return bytes([0, count << 4]) + data
    more, left = divmod(count - 15, 255)
    return b"\x00\xf0" + b"\xff" * more + bytes([left]) + data
