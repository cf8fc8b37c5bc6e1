"""Cases of valid files of chapter 12: a port reads each file, and writes it again byte for byte."""

import struct
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from conformance.gen.numbers import Area, Numbers, ids
from conformance.oracle import files
from conformance.oracle.files import BITS, Tensor

F16 = Tensor("F16", (2, 3), struct.pack("<3e", 1.5, 0.0, -2.0), ((0, 0), (0, 2), (1, 1)))
WIDE = Tensor("F32", (3, 40), struct.pack("<2f", -0.0, 7.5), ((0, 39), (2, 1)))
FLAGS = Tensor("BOOL", (3,), b"\1\0\1")
_EXAMPLE_ROOT = "23203c36f4238cbd26e6cc67fd069249b2dd7f719304cd926b341bcb754ae1db"
_READ = "FMT-001 FMT-002 FMT-003 FMT-004 FMT-006 FMT-020 FMT-091 FMT-099"
_WRITE = "FMT-080 FMT-090 FMT-092 FMT-111 FMT-023"


def raw_array(raw: bytes) -> Any:
    """Return bytes as a uint8 array, the form in which cases store them."""
    return np.frombuffer(raw, dtype=np.uint8).copy()


def content(tensors: dict[str, Tensor], **more: Any) -> dict[str, Any]:
    """Return a checkpoint in the form of inputs and outputs of operations."""
    out: dict[str, Any] = {}
    for name, t in tensors.items():
        full = t.nnz == prod(t.shape)
        out[name] = {
            "dtype": t.dtype,
            "shape": ids(t.shape),
            "row_pointers": None if full else ids(files.pointers(t)),
            "columns": None if full or t.support is None else ids(c for _, c in t.support),
            "bits": raw_array(t.bits),
        }
    return {
        "kind": more.get("kind", "model"),
        "tensors": out,
        "attributes": files.text(more.get("attributes", {})),
        "tied": more.get("tied", {}),
        "scales": files.text(more.get("scales", {})),
        "delta": files.text(more.get("delta")),
    }


def state(tensors: dict[str, Tensor], **more: Any) -> str:
    """Return the state digest of a checkpoint."""
    contents = {name: files.content_digest(t) for name, t in tensors.items()}
    return files.state_digest(contents, more.get("tied", {}), more.get("scales", {}))


def on(dtype: str, shape: tuple[int, ...], flat: list[int], bits: bytes | None = None, **more: Any) -> Tensor:
    """Return a tensor with a support of flat positions; without `bits` its bytes count up from 1."""
    size = (len(flat) * BITS[dtype] + 7) // 8
    filled = bytes(range(1, size + 1)) if bits is None else bits
    return Tensor(dtype, shape, filled, tuple(divmod(at, max(shape[-1], 1)) for at in flat), **more)


class Files:
    """Collects files as cases."""

    def __init__(self, name: str = "file") -> None:
        self.area = Area(name, "bytes by chapter 12")

    def add(
        self,
        name: str,
        clauses: str,
        purpose: str,
        tensors: dict[str, Tensor],
        encoding: str = "auto",
        ways: str = "read write",
        **more: Any,
    ) -> None:
        """Add a file as a case of reading, and of writing with one option unless it is compressed.

        ways  which of the two cases to add: `read`, `write` or both
        """
        chosen = {} if encoding == "auto" else dict.fromkeys(tensors, encoding.split(":")[0])
        chosen |= {n: "dense" for n, t in tensors.items() if t.support is None}
        pieces = files.pieces(tensors, chosen if encoding != "auto" else None, **more)
        raw = pieces.pack()
        if name == "example":
            assert files.digest(files.text(pieces.manifest).encode()) == _EXAMPLE_ROOT, "not the example of the chapter"
        checkpoint = content(tensors, **more)
        read_answer = checkpoint | {"state": state(tensors, **more)}
        if "read" in ways:
            self.area.add(
                f"read-{name}", "file.read", f"{clauses} {_READ}", purpose, {"raw": raw_array(raw)}, read_answer
            )
        if "frames" not in more and "write" in ways:
            inputs = checkpoint | {"encoding": encoding}
            self.area.add(
                f"write-{name}", "file.write", f"{clauses} {_WRITE}", purpose, inputs, {"raw": raw_array(raw)}
            )


def whole() -> Area:
    """Return cases of files that are read and written."""
    cases = Files()
    _plain(cases)
    _dtypes(cases)
    _encodings(cases)
    _patterns(cases)
    _described(cases)
    _tolerated(cases)
    _refused_options(cases)
    return cases.area


def _plain(cases: Files) -> None:
    empty = Tensor("F32", (0, 4), b"", ())
    bare = Tensor("F64", (3, 2), b"", ())
    nan = Tensor("F32", (2, 2), b"\x01\x00\xc0\x7f\x00\x00\x00\x80\x00\x00\x80\xff", ((0, 0), (0, 1), (1, 1)))
    every = Tensor("I16", (1, 2), struct.pack("<2h", 5, -5), ((0, 0), (0, 1)))
    scalar = Tensor("I64", (), struct.pack("<q", -3))
    deep = Tensor("U8", (1, 2, 1, 1, 2, 1, 1, 3), bytes(range(12)))
    longest = {"a" * 512: FLAGS, "é" * 256: FLAGS, "\U0001f600" * 128: FLAGS}
    for name, clauses, purpose, tensors, more in (
        ("example", "FMT-061", "the example of 12.13", {"w": F16}, {"attributes": {"step": 7}}),
        ("dense", "FMT-060", "scalars, bools", {"b": FLAGS, "s": scalar}, {}),
        ("nothing", "FMT-012", "a checkpoint without tensors", {}, {"kind": "training-state"}),
        ("empty", "FMT-007", "no rows, no stored position", {"a": empty, "b": bare}, {}),
        ("payload", "FMT-002", "NaN payloads, −0 and infinity changed on the way", {"w": nan}, {}),
        ("full", "FMT-005 FMT-083", "a full support kept as sparse", {"w": every}, {}),
        ("eight-axes", "FMT-007", "a rank that is cut", {"w": deep}, {}),
        ("names", "FMT-009", "long names, counted in characters", longest, {}),
        (
            "tied",
            "FMT-010 FMT-034",
            "names not sorted by bytes",
            {"b": F16, "a": WIDE, "é": FLAGS, "B": FLAGS},
            {"tied": {"c": "a"}},
        ),
        (
            "attributes",
            "FMT-011 FMT-028",
            "text spelled with other escapes",
            {"w": F16},
            {"attributes": {'é\n\u0001"\\': [None, True, -(2**53 - 1), {"a": []}], "": "\U0001f600/\x7f"}},
        ),
        ("deep-attributes", "FMT-027", "a level too few", {}, {"attributes": {"a": _nested(14)}}),
    ):
        cases.add(name, clauses, purpose, tensors, **more)


def _nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def _dtypes(cases: Files) -> None:
    """Add every dtype, dense and sparse; counts are odd, so that the last byte of a packed dtype is partly filled."""
    numbers = Numbers(41)
    for dtype, width in BITS.items():
        support = [0, 3, 4, 9, 14]
        size = (5 * width + 7) // 8
        limit = 1 if dtype == "BOOL" else 255
        bits = bytearray(numbers.integers(size, 0, limit).tolist())
        if width % 8 and 5 * width % 8:
            bits[-1] &= (1 << 5 * width % 8) - 1
        sparse = on(dtype, (3, 5), support, bytes(bits))
        purpose = f"bits of {dtype} changed on the way"
        cases.add(f"sparse-{dtype}", "FMT-006 FMT-071", purpose, {"w": sparse}, "bitmask")
        if width:
            cases.add(f"dense-{dtype}", "FMT-006 FMT-071", purpose, {"w": Tensor(dtype, (5,), bytes(bits))})


def _encodings(cases: Files) -> None:
    clause = {"bitmask": "FMT-061", "csr": "FMT-065", "gap8": "FMT-054", "varint": "FMT-055"}
    shapes: dict[str, tuple[tuple[int, ...], list[int]]] = {
        "vector": ((11,), [0, 10]),
        "cube": ((2, 3, 5), [0, 4, 5, 14, 15, 29]),
        "last-only": ((3, 7), [20]),
        "bare": ((3, 9), []),
        "no-rows": ((0, 9), []),
        "full": ((2, 9), list(range(18))),
        "byte-edges": ((2, 17), [0, 7, 8, 15, 16, 17, 24, 25, 33]),
    }
    for encoding, number in clause.items():
        for name, (shape, at) in shapes.items():
            text = "one content read differently from another encoding"
            tensors = {"b": FLAGS, "w": on("F16", shape, at)}
            cases.add(f"{encoding}-{name}", f"FMT-005 {number}", text, tensors, encoding)
        mask = on("NONE", (3, 50), [0, 49, 50, 149])
        cases.add(
            f"{encoding}-mask", f"FMT-017 {number}", "a mask with values, or without its support", {"w": mask}, encoding
        )
    for encoding in ("csr", "gap8", "varint"):
        number = clause[encoding]
        cases.add(f"{encoding}-no-columns", number, "rows of no columns", {"w": on("F32", (3, 0), [])}, encoding)
    for columns in (65536, 65537):
        last = on("U8", (1, columns), [columns - 1])
        cases.add(f"csr-{columns}", "FMT-065", "columns in another width", {"w": last}, "csr")
    gaps = [0, 1, 126, 127, 128, 254, 255, 256, 509, 510, 16383, 16384]
    at = [sum(gaps[: i + 1]) + i for i in range(len(gaps))]
    for encoding in ("gap8", "varint"):
        cases.add(
            f"{encoding}-edges",
            clause[encoding],
            "gaps at the edges of a byte",
            {"w": on("U8", (2, 30000), at)},
            encoding,
        )
    far = on("U8", (16, 2**31 - 1), [2**31 - 2, 2**31 - 1, 2**34, 16 * (2**31 - 1) - 1])
    cases.add("varint-far", "FMT-055 FMT-056", "positions beyond 32 bits", {"w": far}, "varint")
    _winners(cases)


def _winners(cases: Files) -> None:
    """Add a support for each encoding that `auto` can choose."""
    spread = [65535 - 300 * i for i in range(50)][::-1]
    for name, purpose, shape, at in (
        ("bitmask", "of equals not the first: bitmask, gap8 and varint 1", (1, 5), [1]),
        ("gap8", "gap8 3, bitmask 38, csr 10", (1, 300), [3, 90, 200]),
        ("varint", "varint 2, gap8 12", (1, 4000), [3000]),
        ("csr", "csr 108 against gap8 and varint", (1, 65536), spread),
        ("nm", "a pattern not seen", (2, 8), [0, 2, 6, 7, 9, 10, 12, 15]),
        ("one-of-two", "not the smallest m", (4, 16), [2 * i + i % 2 for i in range(32)]),
    ):
        cases.add(f"auto-{name}", "FMT-081 FMT-052", purpose, {"w": on("U8", shape, at)})
    full = on("NONE", (2, 3), list(range(6)))
    cases.add("auto-mask", "FMT-081 FMT-017", "a full mask as dense", {"w": full})


def regular(shape: tuple[int, ...], n: int, m: int, axis: int, seed: int) -> Tensor:
    """Return a mask that keeps n of every m along an axis."""
    numbers = Numbers(42, seed)
    bare = Tensor("NONE", shape, b"", (), (n, m, axis))
    step = prod(shape[axis + 1 :])
    at = sorted(first + p * step for line in files.groups_of(bare) for first, _ in line for p in numbers.subset(m, n))
    return replace(on("NONE", shape, at), pattern=(n, m, axis))


def _patterns(cases: Files) -> None:
    for i, (n, m, axis, shape) in enumerate(
        (
            (1, 2, 1, (3, 10)),
            (2, 4, 1, (3, 12)),
            (2, 4, 0, (8, 5)),
            (3, 4, 0, (8,)),
            (4, 8, 1, (2, 24)),
            (8, 16, 1, (2, 32)),
            (2, 16, 2, (2, 2, 32)),
            (3, 7, 1, (2, 14, 3)),
            (5, 7, 0, (7, 2, 3)),
            (16, 32, 1, (1, 64)),
            (1, 64, 1, (2, 64)),
            (32, 64, 0, (64, 3)),
            (63, 64, 1, (1, 128)),
        )
    ):
        mask = regular(shape, n, m, axis, i)
        size = len(mask.support or ())
        tensors = {"w": replace(mask, dtype="U8", bits=bytes(x % 251 for x in range(size)))}
        clauses, purpose = "FMT-051 FMT-052", "ranks counted or packed in another order"
        cases.add(f"nm-{n}-{m}-axis-{axis}", clauses, purpose, tensors, f"nm:{n}:{m}:{axis}")
    cases.add("nm-mask", "FMT-017 FMT-052", "values of a mask", {"w": regular((2, 8), 2, 4, 1, 50)}, "nm:2:4")


def _described(cases: Files) -> None:
    codes = Tensor("I8", (2, 4), b"\x01\xff", ((0, 1), (1, 3)))
    scale = Tensor("F32", (2, 1), struct.pack("<2f", 0.5, 0.25))
    scales = {"w": {"scale": "w_scale", "zero_point": "z"}}
    tensors = {"w": codes, "w_scale": scale, "z": Tensor("I8", (), b"\3")}
    cases.add("scales", "FMT-016", "scales lost", tensors, scales=scales)
    d1, d2, d3 = ("1" * 64, "2" * 64, "3" * 64)
    delta = {
        "base_sha256": d1,
        "scales": {},
        "target_sha256": d2,
        "tensors": {
            "changed": {"base": d1, "target": d2},
            "cut": {"base": d1, "target": d3},
            "gone": {"base": d1, "target": None},
            "moved": {"base": d3, "target": d2},
            "new": {"base": None, "target": d1},
        },
        "tied": {"a": "new"},
    }
    stored = {
        "add:moved": WIDE,
        "remove:changed": on("NONE", (2, 3), [1]),
        "remove:cut": on("NONE", (9,), [1]),
        "replace:changed": F16,
        "whole:new": FLAGS,
    }
    clauses = "FMT-130 FMT-131 FMT-132"
    cases.add("delta", clauses, "what a delta is for lost", stored, kind="delta", delta=delta)
    none = delta | {"tensors": {"gone": {"base": d1, "target": None}}, "tied": {}}
    cases.add("delta-of-nothing", clauses, "a delta that stores nothing", {}, kind="delta", delta=none)
    ones = on("F32", (4, 300), [7 * i for i in range(60)], b"\1" * 240)
    for encoding in ("bitmask", "gap8"):
        frames = {"w#values": files.rle_frame(240, 1)}
        text = "planes in another order, or a frame that is not expanded"
        cases.add(f"zstd-{encoding}", "FMT-140 FMT-141 FMT-142", text, {"w": ones}, encoding, frames=frames)
    full = {"w#mask": files.rle_frame(240, 255), "w#values": files.rle_frame(3840, 1)}
    everything = on("F16", (8, 240), list(range(1920)), b"\1" * 3840)
    cases.add(
        "zstd-both", "FMT-140 FMT-049", "sections of one byte in planes", {"w": everything}, "bitmask", frames=full
    )
    # the bytes differ, because a section of one repeated byte is the same with and without planes
    low, high = bytes([1, 3, 5, 7]), bytes([2, 4, 6, 8])
    halves = on("F32", (4, 300), [7 * i for i in range(60)], low * 30 + high * 30)
    planes = {"w#values": files.runs_frame([(byte, 30) for byte in range(1, 9)])}
    cases.add("zstd-planes", "FMT-140", "planes left apart", {"w": halves}, "bitmask", frames=planes)


def _tolerated(cases: Files) -> None:
    for name, change, clause in (
        ("later-minor", {"spec": "1.7"}, "FMT-042 FMT-160"),
        ("optional-feature", {"optional": ["a-thing", "b-thing"]}, "FMT-044"),
    ):
        pieces = files.pieces({"w": F16})
        pieces.manifest |= change
        text = "a file refused for what a reader may ignore"
        answer = content({"w": F16}) | {"state": state({"w": F16})}
        cases.area.add(f"read-{name}", "file.read", clause, text, {"raw": raw_array(pieces.pack())}, answer)


def _refused_options(cases: Files) -> None:
    checkpoint = content({"w": F16})
    described = files.text(
        {"base_sha256": "1" * 64, "scales": {}, "target_sha256": "2" * 64, "tensors": {}, "tied": {}}
    )
    for name, change, clause in (
        ("dense", {"encoding": "dense"}, "FMT-082"),
        ("option", {"encoding": "zip"}, "FMT-084"),
        ("pattern", {"encoding": "nm:1:3"}, "FMT-051"),
        ("no-pattern", {"encoding": "nm"}, "FMT-051"),
        ("kind", {"kind": "Model"}, "FMT-012"),
        ("tied", {"tied": {"a": "b"}}, "FMT-010"),
        ("scales", {"scales": '{"w":{"scale":"b"}}'}, "FMT-016"),
        ("delta", {"delta": described}, "FMT-130"),
        ("fraction", {"attributes": '{"a":0.5}'}, "FMT-011 FMT-026"),
        ("deep-attributes", {"attributes": files.text({"a": _nested(15)})}, "FMT-027 FMT-011"),
        ("name", {"tensors": content({"a#b": F16})["tensors"]}, "FMT-009"),
    ):
        inputs = checkpoint | {"encoding": "auto"} | change
        purpose = "it is written all the same"
        cases.area.add(f"write-refuse-{name}", "file.write", clause.split()[0], purpose, inputs, refused=clause)


AREAS = (whole,)
