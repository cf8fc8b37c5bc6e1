"""Properties of files whose tensors are beyond every boundary of an index type (chapter 12)."""

import struct
from typing import Any

from conformance.answers import answer
from conformance.answers.files_content import raw_array
from conformance.oracle import files, files_deltas
from conformance.oracle.files import Tensor, on
from conformance.properties.draws import Draw, Many, Shape
from conformance.properties.files import checkpoint, linked
from conformance.properties.large import BEYOND, FAR, beyond, shapes
from conformance.properties.trial import Trial, property_of

_SEES = (
    BEYOND,
    FAR,
    "more than 65,536 rows",
    "the last column of 16 bits",
    "the first column of 32 bits",
)


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


def _farther(d: Draw, t: Trial) -> Tensor:
    """Return a tensor with two gaps of which a varint takes six bytes each."""
    at = [d.integer(0, 99), 2**35 + d.integer(100, 2**30), 2**36 + 2**31 + d.integer(0, 2**30)]
    t.saw("a gap above 2³⁵", at[1] - at[0] > 2**35)
    return _tensor(Many(d), (40, 2**31 - 1), at, "I8")


@property_of(
    "file.read-large",
    "FMT-001 FMT-051 FMT-053 FMT-054 FMT-055 FMT-073 FMT-091",
    "ckpt-read",
    "file.read",
    sees=(*_SEES, "a gap above 2³⁵"),
    seeded=1,
)
def _read(d: Draw, t: Trial) -> None:
    """A reader returns large tensors, wide tensors and tensors of far positions from a file in every encoding."""
    tensors = _tensors(d, t)
    encodings = {name: ("csr", "bitmask", "gap8", "varint")[i % 4] for i, name in enumerate(sorted(tensors))}
    encodings |= {"far": "csr", "far.mask": "varint"}
    for chosen in ({}, encodings):
        raw = files.pieces(tensors, chosen).pack()
        t.case("file.read", {"raw": raw_array(raw)})
    # alone, because `auto` would try gap8, which takes a byte for 255 absent positions
    farther = {"w": _farther(d, t)}
    raw = files.pieces(farther, {"w": "varint"}).pack()
    t.case("file.read", {"raw": raw_array(raw)})


@property_of("file.write-large", "FMT-080 FMT-081 FMT-092", "ckpt-write", "file.write", sees=_SEES, seeded=1)
def _write(d: Draw, t: Trial) -> None:
    """A checkpoint of large tensors and far positions is written as the only bytes that chapter 12 allows."""
    t.case("file.write", checkpoint(_tensors(d, t)))


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
    t.case("delta.apply", linked(base, [(stored, files_deltas.step(base, stored)[1])]))


_TWICE = "a tensor that is made, removed and made again"


@property_of(
    "delta.chains", "FMT-134 FMT-138 FMT-139", "ckpt-read", "delta.apply", sees=(_TWICE, "zeros with a sign"), seeded=1
)
def _chains(d: Draw, t: Trial) -> None:
    """A chain that removes tensors and makes them again, and writes zeros of both signs, ends where it says."""
    many, shape = Many(d), (d.integer(3, 9), d.integer(20, 40))
    size = shape[0] * shape[1]
    base = {"w": _tensor(many, shape, many.subset(size, size // 3).tolist())}
    zeros = many.subset(size, size // 2).tolist()
    signs = struct.pack(f"<{len(zeros)}I", *(x << 31 for x in many.integers(len(zeros), 0, 1).tolist()))
    t.saw("zeros with a sign", b"\x80" in signs)
    t.saw(_TWICE)
    first, second = (_tensor(many, shape, many.subset(size, n).tolist()) for n in (size // 4, size // 5))
    replaced = {"replace:w": Tensor("F32", shape, signs, tuple(divmod(p, shape[1]) for p in zeros))}
    now, chain = base, list[tuple[dict[str, Tensor], dict[str, Any]]]()
    steps: list[tuple[dict[str, Tensor], tuple[str, ...]]] = [
        (replaced, ()), ({"whole:new": first}, ()), ({}, ("new",)), ({"whole:new": second}, ()), ({}, ("w",)),
        ({"whole:w": first}, ()),
    ]  # fmt: skip
    for stored, gone in steps:
        now, described = files_deltas.step(now, stored, gone)
        chain.append((stored, described))
        t.case("delta.apply", linked(base, chain))


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
        t.case("file.read", {"raw": raw_array(raw)})


@property_of("folder.large", "FMT-085 FMT-100", "folders", "folder.read folder.write", sees=(BEYOND,), seeded=1)
def _folders(d: Draw, t: Trial) -> None:
    """A checkpoint of large tensors is written in parts, and read from them."""
    tensors: dict[str, Tensor] = {}
    for name in ("a", "model.layers.10.q.weight", "model.layers.9.q.weight"):
        shape, many = (beyond(d, 256), beyond(d, 256)), Many(d)
        size = shape[0] * shape[1]
        tensors[name] = on(
            "U8", shape, many.subset(size, size // 3).tolist(), bytes(many.integers(size // 3, 0, 255).tolist())
        )
        t.saw(BEYOND, size > 65_536)
    inputs = checkpoint(tensors) | {"part_bytes": 50_000, "files": {"config.json": raw_array(b"{}")}}
    t.case("folder.write", inputs)
    t.case("folder.read", {"files": answer("folder.write", inputs).outputs["files"]})


@property_of("file.expand-large", "FMT-098 FMT-002", "checkpoints", "file.expand", sees=(BEYOND,), seeded=1)
def _expand(d: Draw, t: Trial) -> None:
    """A large tensor becomes an array with zeros at absent positions."""
    shape, many = (beyond(d, 256), beyond(d, 256)), Many(d)
    size = shape[0] * shape[1]
    t.saw(BEYOND, size > 65_536)
    tensor = on(
        "F16", shape, many.subset(size, size // 3).tolist(), bytes(many.integers(2 * (size // 3), 0, 255).tolist())
    )
    raw = files.pieces({"w": tensor}).pack()
    t.case("file.expand", {"raw": raw_array(raw), "name": "w"})
