"""Properties of files whose tensors are beyond every boundary of an index type (chapter 12)."""

import struct
from typing import Any

from conformance.gen.files import content, raw_array, state
from conformance.oracle import files, files_deltas
from conformance.oracle.files import Tensor
from conformance.properties.draws import Draw, Many, Shape
from conformance.properties.large import BEYOND, FAR, shapes
from conformance.properties.trial import Trial, property_of

_SEES = (BEYOND, FAR, "more than 65,536 rows", "the last column of 16 bits", "the first column of 32 bits")


def _tensor(many: Many, shape: Shape, at: list[int], dtype: str = "F32") -> Tensor:
    """Return a tensor with random integers at flat positions."""
    numbers = many.integers(len(at), -99, 99).tolist()
    bits = b"" if dtype == "NONE" else struct.pack(f"<{len(at)}{'f' if dtype == 'F32' else 'b'}", *numbers)
    return Tensor(dtype, shape, bits, tuple(divmod(p, shape[1]) for p in at))


def _tensors(d: Draw, t: Trial) -> dict[str, Tensor]:
    """Return tensors of many entries, rows and columns, and one with few entries far apart."""
    many, tensors = Many(d), {}
    for number, shape in enumerate(shapes(d)):
        size = shape[0] * shape[1]
        tensors[f"most.{number}"] = _tensor(many, shape, many.subset(size, size - size // 200).tolist())
        tensors[f"few.{number}"] = _tensor(many, shape, many.subset(size, size // 70).tolist(), "I8")
        t.saw("more than 65,536 rows", shape[0] > 65_536)
    t.saw(BEYOND, any(x.nnz > 65_536 for x in tensors.values()))
    for width in (256, 257, 65_536, 65_537):
        # each row has one entry in the last column, because its index is the largest of this width
        tensors[f"edge.{width}"] = _tensor(many, (3, width), [width - 1, 2 * width - 1, 3 * width - 1])
        t.saw("the last column of 16 bits", width == 65_536)
        t.saw("the first column of 32 bits", width == 65_537)
    wide = 1_100_000_000 + d.integer(0, 10**6)
    at = [*many.subset(2 * wide - 1, 7).tolist(), 2 * wide - 1]
    t.saw(FAR, at[-1] >= 2**31)
    return tensors | {"far": _tensor(many, (2, wide), at, "I8"), "far.mask": _tensor(many, (2, wide), at, "NONE")}


@property_of(
    "file.read-large", "FMT-001 FMT-051 FMT-053 FMT-054 FMT-055 FMT-091", "ckpt-read", "file.read", sees=_SEES, seeded=1
)
def _read(d: Draw, t: Trial) -> None:
    """A reader returns large tensors, wide tensors and tensors of far positions from a file in every encoding."""
    tensors = _tensors(d, t)
    encodings = {name: ("csr", "bitmask", "gap8", "varint")[i % 4] for i, name in enumerate(sorted(tensors))}
    encodings |= {"far": "csr", "far.mask": "varint"}
    for chosen in ({}, encodings):
        raw = files.pieces(tensors, chosen).pack()
        t.case("file.read", {"raw": raw_array(raw)}, content(tensors) | {"state": state(tensors)})


@property_of("file.write-large", "FMT-080 FMT-081 FMT-092", "ckpt-write", "file.write", sees=_SEES, seeded=1)
def _write(d: Draw, t: Trial) -> None:
    """A checkpoint of large tensors and far positions is written as the only bytes that chapter 12 allows."""
    tensors = _tensors(d, t)
    raw = files.pieces(tensors).pack()
    t.case("file.write", content(tensors) | {"encoding": "auto"}, {"raw": raw_array(raw)})


@property_of(
    "delta.apply-large",
    "FMT-132 FMT-134 FMT-135 FMT-136 FMT-138",
    "ckpt-read",
    "delta.apply",
    sees=(BEYOND, FAR),
    seeded=1,
)
def _apply(d: Draw, t: Trial) -> None:
    """A delta of many changes, and of changes far apart, gives the model that it names."""
    many, shape, wide = Many(d), shapes(d)[3], 1_100_000_000 + d.integer(0, 10**6)
    size, far = shape[0] * shape[1], (2, wide)
    base = {
        "w": _tensor(many, shape, many.subset(size, size - size // 200).tolist()),
        "far": _tensor(many, far, [*many.subset(2 * wide - 1, 7).tolist(), 2 * wide - 1]),
    }
    stored: dict[str, Any] = {
        "add:w": _tensor(many, shape, many.subset(size, size - size // 300).tolist()),
        "replace:far": _tensor(many, far, [*many.subset(2 * wide - 2, 7).tolist(), 2 * wide - 2]),
    }
    t.saw(BEYOND, stored["add:w"].nnz > 65_536)
    t.saw(FAR, 2 * wide > 2**31)
    target, described = files_deltas.step(base, stored)
    target_content = content(target)
    answer = {key: target_content[key] for key in ("tensors", "tied", "scales")} | {
        "state": files_deltas.model(target)[1]
    }
    packed = files.pieces(stored, kind="delta", delta=described).pack()
    inputs = {"base": raw_array(files.pieces(base).pack()), "deltas": {"1": raw_array(packed)}}
    t.case("delta.apply", inputs, answer)


_LIMIT, _OVER = "a header as large as a header may be", "a header twice as large"


@property_of("file.header-large", "FMT-021 FMT-022", "ckpt-read", "file.read", sees=(_LIMIT, _OVER), seeded=1)
def _headers(d: Draw, t: Trial) -> None:
    """A header that takes 2²⁴ bytes is read, and one that takes 2²⁵ is refused."""
    many, tensors = Many(d), {}
    tensors["w"] = _tensor(many, (3, 5), many.subset(15, 6).tolist())
    for n, saw in ((d.integer(2**23, 2**24 - 2**12), _LIMIT), (d.integer(2**24, 2**24 + 2**20), _OVER)):
        attributes = {"note": str(d.integer(10**8, 10**9 - 1)) * (n // 9)}
        raw = files.pieces(tensors, attributes=attributes).pack()
        t.saw(saw, 8 + int.from_bytes(raw[:8], "little") == (2**24 if saw == _LIMIT else 2**25))
        if saw == _LIMIT:
            answer = content(tensors, attributes=attributes) | {"state": state(tensors)}
            t.case("file.read", {"raw": raw_array(raw)}, answer)
        else:
            t.case("file.read", {"raw": raw_array(raw)}, refused=("FMT-021",))
