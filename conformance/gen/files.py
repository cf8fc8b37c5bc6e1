"""Cases of chapter 12: good files, and for each rule a file that is one edit away from a good one."""

import copy
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.gen.numbers import Area, ids
from conformance.oracle import files
from conformance.oracle.files import Pieces, Section, Tensor

_F16 = Tensor("F16", (2, 3), struct.pack("<3e", 1.5, 0.0, -2.0), ((0, 0), (0, 2), (1, 1)))
_WIDE = Tensor("F32", (3, 40), struct.pack("<2f", -0.0, 7.5), ((0, 39), (2, 1)))
_FLAGS = Tensor("BOOL", (3,), b"\1\0\1")
_EXAMPLE_ROOT = "ddde49e7fb3ca0a8b7f24c7443b21d901a8e5c42300f306137be1e882c1ad0db"


def _raw(raw: bytes) -> Any:
    return np.frombuffer(raw, dtype=np.uint8).copy()


def _content(tensors: dict[str, Tensor]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, t in tensors.items():
        full = t.nnz == int(np.prod(t.shape, dtype=object))
        out[name] = {
            "dtype": t.dtype,
            "shape": ids(t.shape),
            "row_pointers": None if full else ids(files.pointers(t)),
            "columns": None if full or t.support is None else ids(c for _, c in t.support),
            "bits": _raw(t.bits),
        }
    return out


def whole() -> Area:
    """Files that are read and written."""
    area = Area("file", "bytes by chapter 12")
    empty = Tensor("F32", (0, 4), b"", ())
    bare = Tensor("F64", (3, 2), b"", ())
    nan = Tensor("F32", (2, 2), b"\x01\x00\xc0\x7f\x00\x00\x00\x80\x00\x00\x80\xff", ((0, 0), (0, 1), (1, 1)))
    every = Tensor("I16", (1, 2), struct.pack("<2h", 5, -5), ((0, 0), (0, 1)))
    equal = Tensor("I8", (1, 64), bytes(range(1, 2)), ((0, 9),))
    broad = Tensor("U8", (1, 65537), b"\7", ((0, 65536),))
    some: dict[str, tuple[dict[str, Tensor], dict[str, Any], str]] = {
        "example": ({"w": _F16}, {"attributes": {"step": 7}}, "the example of 12.10"),
        "csr": ({"w": _WIDE}, {}, "columns and pointers exchanged, −0 lost"),
        "dense": ({"b": _FLAGS, "s": Tensor("I64", (), struct.pack("<q", -3))}, {}, "scalars, bools"),
        "nothing": ({}, {"kind": "training-state"}, "a checkpoint without tensors"),
        "empty": ({"a": empty, "b": bare}, {}, "no rows, no stored position"),
        "payload": ({"w": nan}, {}, "NaN payloads, −0 and infinity changed on the way"),
        "full": ({"w": every}, {}, "a full support kept as sparse"),
        "auto-tie": ({"w": equal}, {}, "of equals the first: bitmask 8 + 1, csr 2 + 8 + 1"),
        "broad": ({"w": broad}, {}, "columns beyond 16 bits"),
        "order": ({"b": _F16, "a": _WIDE, "é": _FLAGS, "B": _FLAGS}, {"tied": {"c": "a"}}, "names not sorted by bytes"),
        "attributes": (
            {"w": _F16},
            {"attributes": {'é\n\u0001"\\': [None, True, -(2**53 - 1), {"a": []}], "": "\U0001f600/\x7f"}},
            "text spelled with other escapes",
        ),
    }
    for name, (tensors, more, purpose) in some.items():
        made = files.pieces(tensors, **more)
        raw = made.pack()
        if name == "example":
            assert files.digest(files.text(made.manifest).encode()) == _EXAMPLE_ROOT, "not the example of the chapter"
        attributes = files.text(more.get("attributes", {}))
        content = {"kind": more.get("kind", "model"), "tensors": _content(tensors), "attributes": attributes}
        content["tied"] = more.get("tied", {})
        clauses = "FMT-001 FMT-002 FMT-003 FMT-004 FMT-010 FMT-011 FMT-020 FMT-060 FMT-061 FMT-065"
        area.add(f"read-{name}", "file.read", clauses, purpose, {"raw": _raw(raw)}, content)
        clauses = "FMT-028 FMT-034 FMT-080 FMT-081 FMT-083 FMT-090 FMT-091 FMT-092 FMT-111 FMT-023 FMT-005"
        area.add(f"write-{name}", "file.write", clauses, purpose, content | {"encoding": "auto"}, {"raw": _raw(raw)})
    for encoding in ("bitmask", "csr"):
        for name, t in (("w", _F16), ("full", every), ("bare", bare)):
            made = files.pieces({"w": t, "b": _FLAGS}, {"w": encoding})
            content = {"kind": "model", "tensors": _content({"w": t, "b": _FLAGS}), "attributes": "{}", "tied": {}}
            text = "one content read differently from another encoding"
            given = {"raw": _raw(made.pack())}
            area.add(f"read-{encoding}-{name}", "file.read", "FMT-005 FMT-061 FMT-065 FMT-091", text, given, content)
    _tolerated(area)
    content = {"kind": "model", "tensors": _content({"w": _F16}), "attributes": "{}", "tied": {}}
    for name, change, clause in (
        ("dense", {"encoding": "dense"}, "FMT-082"),
        ("option", {"encoding": "zip"}, "FMT-084"),
        ("kind", {"kind": "Model"}, "FMT-012"),
        ("tied", {"tied": {"a": "b"}}, "FMT-010"),
        ("fraction", {"attributes": '{"a":0.5}'}, "FMT-011 FMT-026"),
        ("name", {"tensors": _content({"a#b": _F16})}, "FMT-009"),
    ):
        given = content | {"encoding": "auto"} | change
        area.add(
            f"write-refuse-{name}", "file.write", clause.split()[0], "it is written all the same", given, refused=clause
        )
    _bad(area)
    return area


def _tolerated(area: Area) -> None:
    content = {"kind": "model", "tensors": _content({"w": _F16}), "attributes": "{}", "tied": {}}
    for name, change, clause in (
        ("later-minor", {"spec": "1.7"}, "FMT-042"),
        ("optional-feature", {"optional": ["a-thing", "b-thing"]}, "FMT-044"),
    ):
        made = files.pieces({"w": _F16})
        made.manifest |= change
        text = "a file refused for what a reader may ignore"
        area.add(f"read-{name}", "file.read", clause, text, {"raw": _raw(made.pack())}, content)


Edit = Callable[[Pieces], Any]


def _tensor(**change: Any) -> Edit:
    return lambda p: p.manifest["tensors"]["w"].update(change)


def _top(**change: Any) -> Edit:
    return lambda p: p.manifest.update(change)


def _data(role: str, data: bytes) -> Edit:
    def edit(p: Pieces) -> None:
        section = next(s for s in p.sections if s.name == f"w#{role}")
        section.data = data
        p.manifest["tensors"]["w"]["sections"][role] = files.stored(section)

    return edit


def _section(index: int, **change: Any) -> Edit:
    def edit(p: Pieces) -> None:
        for name, value in change.items():
            setattr(p.sections[index], name, value)

    return edit


def _bad(area: Area) -> None:
    """One edit each; the twins are read-csr, read-bitmask-w and read-dense."""
    mask, csr = files.pieces({"w": _F16}, {"w": "bitmask"}), files.pieces({"w": _WIDE}, {"w": "csr"})
    flags = files.pieces({"w": _FLAGS})
    u16, u32 = "<2H", "<4I"
    edits: list[tuple[str, str, Pieces, Edit]] = [
        ("key-missing", "FMT-040", mask, lambda p: p.manifest.pop("tied")),
        ("key-extra", "FMT-040", mask, _top(note="")),
        ("tensor-key-extra", "FMT-040", mask, _tensor(note="")),
        ("nnz-true", "FMT-041", mask, _tensor(nnz=True)),
        ("nnz-negative", "FMT-041 FMT-046", mask, _tensor(nnz=-1)),
        ("part-text", "FMT-041", mask, _top(part="0")),
        ("spec-major", "FMT-042", mask, _top(spec="2.0")),
        ("spec-zeros", "FMT-042", mask, _top(spec="1.00")),
        ("requires", "FMT-043", mask, _top(requires=["zstd"])),
        ("features-unsorted", "FMT-044", mask, _top(optional=["b", "a"])),
        ("feature-name", "FMT-044", mask, _top(optional=["Zstd"])),
        ("encoding", "FMT-045", mask, _tensor(encoding="coo")),
        ("nnz-above-size", "FMT-046", mask, _tensor(nnz=7)),
        ("dense-nnz", "FMT-046", flags, _tensor(nnz=2)),
        ("digest-upper-case", "FMT-047", mask, _tensor(content_sha256="A" * 64)),
        ("digest-short", "FMT-047", mask, _tensor(content_sha256="a" * 63)),
        ("part-1", "FMT-048", mask, _top(part=1)),
        ("dtype", "FMT-006", mask, _tensor(dtype="F15")),
        ("nine-dimensions", "FMT-007", flags, _tensor(shape=[3, *[1] * 8])),
        ("shape-product", "FMT-007", flags, _tensor(shape=[0, 2**27, 2**27])),
        ("wide-column", "FMT-008", csr, _tensor(shape=[3, 2**31])),
        ("tied-to-nothing", "FMT-010", mask, _top(tied={"a": "b"})),
        ("tied-and-stored", "FMT-010", mask, _top(tied={"w": "w"})),
        ("kind", "FMT-012", mask, _top(kind="Model")),
        ("companions", "FMT-013 FMT-102", mask, _top(files={"config.json": {"bytes": 1, "sha256": "a" * 64}})),
        ("section-missing", "FMT-031", mask, lambda p: p.sections.pop()),
        ("section-extra", "FMT-032", mask, lambda p: p.sections.append(Section("x#values", "U8", [64], bytes(64)))),
        ("section-dtype", "FMT-033", mask, _section(1, dtype="BF16")),
        ("section-shape", "FMT-033", mask, _section(1, shape=[1, 3])),
        ("section-order", "FMT-034", mask, lambda p: p.sections.reverse()),
        ("pad", "FMT-036", mask, lambda p: setattr(p, "pad", b"\1")),
        ("mask-tail", "FMT-062 FMT-063", mask, _data("mask", b"\x05\x0a")),
        ("mask-tail-only", "FMT-062", mask, _data("mask", b"\x05\x08")),
        ("mask-count", "FMT-063", mask, _data("mask", b"\x05\x00")),
        ("first-pointer", "FMT-066", csr, _data("row_ptr", struct.pack(u32, 1, 1, 1, 2))),
        ("last-pointer", "FMT-066", csr, _data("row_ptr", struct.pack(u32, 0, 1, 1, 1))),
        ("pointers-fall", "FMT-067 FMT-069", csr, _data("row_ptr", struct.pack(u32, 0, 2, 1, 2))),
        ("pointers-wrap", "FMT-067", csr, _data("row_ptr", struct.pack(u32, 0, 2**32 - 1, 1, 2))),
        ("column-high", "FMT-068", csr, _data("col_idx", struct.pack(u16, 40, 1))),
        ("columns-unsorted", "FMT-069", csr, _data("row_ptr", struct.pack(u32, 0, 2, 2, 2))),
        ("bool", "FMT-070", flags, _data("values", b"\1\2\1")),
        (
            "section-digest",
            "FMT-090",
            mask,
            lambda p: p.manifest["tensors"]["w"]["sections"]["mask"].update(sha256="0" * 64),
        ),
        ("content-digest", "FMT-091", mask, _tensor(content_sha256="0" * 64)),
    ]
    for name, clause, good, edit in edits:
        spoiled = copy.deepcopy(good)
        edit(spoiled)
        _refuse(area, name, clause, spoiled.pack())
    same = copy.deepcopy(csr)
    _data("col_idx", struct.pack(u16, 9, 9))(same)
    _data("row_ptr", struct.pack(u32, 0, 2, 2, 2))(same)
    _refuse(area, "columns-repeated", "FMT-069", same.pack())
    no_columns = Tensor("F32", (3, 0), b"", ())
    _refuse(area, "mask-no-columns", "FMT-064", files.pieces({"w": no_columns}, {"w": "bitmask"}).pack())
    for name, bad in (("name-empty", ""), ("name-control", "a\n"), ("name-long", "a" * 513)):
        _refuse(area, name, "FMT-009", files.pieces({bad: _FLAGS}).pack())
    _bad_headers(area, mask)


def _bad_headers(area: Area, good: Pieces) -> None:
    raw, manifest = good.pack(), files.text(good.manifest)
    n = struct.unpack("<Q", raw[:8])[0]
    for name, clause, bad in (
        ("short", "FMT-020", raw[:7]),
        ("no-bytes", "FMT-020", b""),
        ("header-beyond", "FMT-021", struct.pack("<Q", len(raw)) + raw[8:]),
        ("header-huge", "FMT-021", struct.pack("<Q", 2**63) + raw[8:]),
        ("header-cut", "FMT-021", raw[: 8 + n // 2]),
        ("unaligned", "FMT-022", struct.pack("<Q", n + 8) + raw[8:]),
        ("spaces", "FMT-023", struct.pack("<Q", n + 64) + raw[8 : 8 + n] + b" " * 64 + raw[8 + n :]),
        ("space-first", "FMT-023", raw[:8] + b" " + raw[8 : 7 + n] + raw[8 + n :]),
        ("nul-fill", "FMT-023 FMT-024 FMT-028", raw[: 8 + n].rstrip(b" ").ljust(8 + n, b"\0") + raw[8 + n :]),
        ("data-cut", "FMT-035 FMT-034", raw[:-1]),
        ("data-more", "FMT-035 FMT-032", raw + b"\0"),
    ):
        _refuse(area, name, clause, bad)
    spelled = {
        "twice": ("FMT-025", manifest.replace('"part":0', '"part":0,"part":0')),
        "fraction": ("FMT-026", manifest.replace('"part":0', '"part":0.0')),
        "exponent": ("FMT-026", manifest.replace('"part":0', '"part":0e0')),
        "large-number": ("FMT-026", manifest.replace('"attributes":{}', f'"attributes":{{"a":{2**53}}}')),
        "deep": ("FMT-027", manifest.replace('"attributes":{}', f'"attributes":{{"a":{"[" * 15}{"]" * 15}}}')),
        "space": ("FMT-028", manifest.replace('"part":0', '"part": 0')),
        "minus-zero": ("FMT-028", manifest.replace('"part":0', '"part":-0')),
        "unsorted": ("FMT-028", manifest.replace('"kind":"model","optional":[]', '"optional":[],"kind":"model"')),
        "escape": ("FMT-028", manifest.replace('"kind":"model"', '"kind":"mode\\u006c"')),
    }
    for name, (clause, bad_text) in spelled.items():
        assert bad_text != manifest, name
        _refuse(area, f"json-{name}", clause, files.assemble(bad_text, good.sections))
    changes: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
        "metadata-extra": ("FMT-029", lambda h: h["__metadata__"].update(note="")),
        "format": ("FMT-029", lambda h: h["__metadata__"].update(format="np")),
        "no-metadata": ("FMT-029", lambda h: h.pop("__metadata__")),
        "section-key": ("FMT-030", lambda h: h["w#mask"].update(note="")),
        "section-no-shape": ("FMT-030", lambda h: h["w#mask"].pop("shape")),
        "manifest-digest": ("FMT-093", lambda h: h["__metadata__"].update({"seft.manifest.sha256": "0" * 64})),
        "overlap": ("FMT-034", lambda h: h["w#values"].update(data_offsets=[0, 6])),
        "hole": ("FMT-034 FMT-031", lambda h: h.pop("w#mask#pad")),
    }
    for name, (clause, change) in changes.items():
        _refuse(area, name, clause, files.assemble(manifest, good.sections, change=change))
    latin = raw.replace(b'"kind', b'"\xffind', 1).replace(b'\\"kind', b'\\"\xffind', 1)
    _refuse(area, "not-utf-8", "FMT-024", latin)


def _refuse(area: Area, name: str, clause: str, raw: bytes) -> None:
    text = "a broken file is read, or refused for another reason"
    named = f"{clause.split()[0]} FMT-097"
    area.add(f"refuse-{name}", "file.read", named, text, {"raw": _raw(raw)}, refused=clause)


AREAS = (whole,)
