"""Properties of version folders and Super-Tuning adapters, read as changes of a base (FMT-168, FMT-170)."""

import json
import struct
import zlib
from math import prod

from conformance.answers import answer
from conformance.oracle.files import BITS, Tensor, on
from conformance.oracle.files_codes import integers
from conformance.oracle.files_convert import INDEX, dense, expanded, stock
from conformance.oracle.files_convert_adapters import room
from conformance.oracle.files_versions import MAGIC
from conformance.properties.draws import Draw
from conformance.properties.foreign import ADAPTER, NAME, SUPER, adapter, changing
from conformance.properties.trial import Trial, property_of

_FILE = "model-00000-of-00001.safetensors"
_DTYPES = ("F16", "BF16", "F32", "U8", "F64", "I16")
_SHAPES = ((4,), (2, 3), (1, 1), (3, 5), (2, 2, 3), (17,))
_OF_OFFSETS = ("a number", "the order of offsets", "an offset")
_SPOILT = ("a checksum", "a size", *_OF_OFFSETS)
"""Faults of a folder."""


@property_of(
    "convert.version",
    "FMT-168",
    "convert",
    ADAPTER,
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
    old = expanded(base, None).bits
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
    content = bytes(a ^ b for a, b in zip(old, new, strict=True))
    bits, checksum = bytes(new[at] for at in offsets), zlib.adler32(new)
    if encoding == "overwrite":
        content = _overwrite(offsets, bits)
    if spoil == "a checksum":
        checksum ^= 1 << d.integer(0, 31)
    elif spoil == "a size":
        content += b"\0"
    elif spoil:
        content = {
            "a number": _overwrite(offsets, bits, less=1),
            "the order of offsets": _overwrite(offsets[::-1], bits[::-1]),
            "an offset": _overwrite([*offsets, len(old)], bits + b"\1"),
        }[spoil]
    metadata = {"version": "000007", "base_version": "000006", "delta_encoding": encoding}
    metadata |= {"compression_format": "zstd", "checksum_format": "adler32"}
    # a zstd frame of one uncompressed block that states its size in four bytes (RFC 8878, 3.1.1)
    size_of_block = (1 | len(content) << 3).to_bytes(3, "little")
    frame = MAGIC + b"\xa0" + struct.pack("<I", len(content)) + size_of_block + content
    tree = {_FILE: stock({"w": Tensor("U8", (len(frame),), frame)}, {"w": f"{checksum:08x}"})}
    tree[INDEX] = json.dumps({"metadata": metadata, "weight_map": {"w": _FILE}}).encode()
    inputs = changing("weight-sync", tree, {"w": base})
    t.saw("a folder with a fault", answer(ADAPTER, inputs).refused)
    t.case(ADAPTER, inputs)


def _overwrite(offsets: list[int], new: bytes, less: int = 0) -> bytes:
    """Return the content of an `overwrite` frame, whose number may be less than that of its offsets (FMT-168.4)."""
    return struct.pack(f"<I{len(offsets)}I", len(offsets) - less, *offsets) + new


@property_of("convert.super-tuning", "FMT-170", "convert", ADAPTER, sees=("room", "another number", "no room"), cost=2)
def _super_tuning(d: Draw, t: Trial) -> None:
    """An adapter has as many amounts as its sparsity leaves room for, or is refused."""
    shape = d.integer(1, 5), d.integer(1, 6)
    sparsity = d.choice((0.5, 0.9, 0.8, 0.7, 0.95, 0.0, d.integer(0, 999) / 1000))
    count = room(prod(shape), sparsity)
    t.saw("room", count)
    t.saw("no room", not count)
    more = count < prod(shape) and d.flag()
    places = d.order(prod(shape))[: count + more]
    values = dense("F32", (len(places),), d.integers(len(places), 0, 2**32 - 1))
    own = {"supertuning_indices": integers(places, "I32"), "supertuning_values": values}
    base = on("F32", shape, list(range(prod(shape))))
    inputs = changing("super-tuning", adapter(SUPER | {"sparsity": sparsity}, own), {NAME: base})
    t.saw("another number", answer(ADAPTER, inputs).refused)
    t.case(ADAPTER, inputs)
