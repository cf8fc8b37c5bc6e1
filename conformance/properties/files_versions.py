"""Properties of version folders and Super-Tuning adapters, read as changes of a base (FMT-168, FMT-170)."""

from math import prod

from conformance.gen.files import on
from conformance.gen.files_convert_adapters import NAME, answered, asked, folder
from conformance.gen.files_super_tuning import INDICES, SUPER, VALUES
from conformance.gen.files_versions import FILE, KIND, TOLD, version
from conformance.oracle import files_versions as oracle
from conformance.oracle.files import BITS
from conformance.oracle.files_codes import integers
from conformance.oracle.files_convert import dense
from conformance.oracle.files_convert_adapters import changed
from conformance.properties.draws import Draw
from conformance.properties.trial import Trial, property_of

OP = "convert.adapter"
_DTYPES = ("F16", "BF16", "F32", "U8", "F64", "I16")
_SHAPES = ((4,), (2, 3), (1, 1), (3, 5), (2, 2, 3), (17,))
_OF_OFFSETS = ("a number", "the order of offsets", "an offset")
_SPOILT = ("a checksum", "a size", *_OF_OFFSETS)
"""Faults of a folder."""


@property_of(
    "convert.version",
    "FMT-168",
    "convert",
    OP,
    sees=(
        "xor",
        "overwrite",
        "a sparse base",
        "a value with several bytes changed",
        "nothing that changes",
        "a folder with a fault",
    ),
    cost=2,
)
def _version(d: Draw, t: Trial) -> None:
    """A version folder changes exactly the values whose bytes its frames change, or is refused."""
    dtype, shape = d.choice(_DTYPES), d.choice(_SHAPES)
    size = BITS[dtype] // 8
    sparse = len(shape) > 1 and d.flag()
    places = d.subset(prod(shape)) if sparse else list(range(prod(shape)))
    base = on(dtype, shape, places)
    if not sparse:
        base = dense(dtype, shape, [int.from_bytes(base.bits[i * size : (i + 1) * size], "little") for i in places])
    old = oracle.dense_bytes(base)
    offsets = sorted(d.some(range(len(old)), d.integer(0, min(5, len(old)))))
    new = bytearray(old)
    for at in offsets:
        new[at] ^= d.integer(1, 255)
    t.saw("a sparse base", len(places) < prod(shape))
    t.saw("nothing that changes", not offsets)
    t.saw("a value with several bytes changed", len({at // size for at in offsets}) < len(offsets))
    spoil = d.choice(_SPOILT) if d.flag(3) else ""
    if spoil in _OF_OFFSETS and len(offsets) < 2:
        spoil = ""
    encoding = "overwrite" if spoil in _OF_OFFSETS else d.choice(("xor", "overwrite"))
    t.saw(encoding)
    payload = (oracle.xor if encoding == "xor" else oracle.overwriting)(old, bytes(new))
    metadata, frame, total = TOLD | {"delta_encoding": encoding}, oracle.raw_frame(payload), oracle.adler32(bytes(new))
    bits = bytes(new[at] for at in offsets)
    if spoil == "a checksum":
        total = f"{int(total, 16) ^ 1 << d.integer(0, 31):08x}"
    elif spoil == "a size":
        frame = oracle.raw_frame(payload + b"\0")
    elif spoil:
        wrong = {
            "a number": oracle.overwrite(offsets, bits, count=len(offsets) - 1),
            "the order of offsets": oracle.overwrite(offsets[::-1], bits[::-1]),
            "an offset": oracle.overwrite([*offsets, len(old)], bits + b"\1"),
        }
        frame = oracle.raw_frame(wrong[spoil])
    inputs = asked(KIND, version({FILE: {"w": frame}}, {"w": total}, metadata), {"w": base})
    if spoil:
        t.saw("a folder with a fault")
        t.case(OP, inputs, refused=["FMT-168"])
        return
    t.case(OP, inputs, answered("replace", {"w": oracle.replaced(base, bytes(new))}))


@property_of("convert.super-tuning", "FMT-170", "convert", OP, sees=("room", "another number", "no room"), cost=2)
def _super_tuning(d: Draw, t: Trial) -> None:
    """An adapter has as many amounts as its sparsity leaves room for, or is refused."""
    shape = d.integer(1, 5), d.integer(1, 6)
    sparsity = d.choice((0.5, 0.9, 0.8, 0.7, 0.95, 0.0, d.integer(0, 999) / 1000))
    count = oracle.room(prod(shape), sparsity)
    t.saw("room", count)
    t.saw("no room", not count)
    more = count < prod(shape) and d.flag()
    places = d.order(prod(shape))[: count + more]
    values = dense("F32", (len(places),), d.integers(len(places), 0, 2**32 - 1))
    own = {INDICES: integers(places, "I32"), VALUES: values}
    base = on("F32", shape, list(range(prod(shape))))
    inputs = asked("super-tuning", folder(SUPER | {"sparsity": sparsity}, own), {NAME: base})
    if more:
        t.saw("another number")
        t.case(OP, inputs, refused=["FMT-170"])
        return
    t.case(OP, inputs, answered("add", {NAME: changed(shape, places, values)}))
