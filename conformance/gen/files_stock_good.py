"""Files of the pack that keep every rule: twins of the bad files, and files that readers refuse by mistake."""

import struct
from collections.abc import Iterator
from typing import Any

from conformance.gen.files_stock_parts import A_BYTES, B_BYTES, PLAIN, TWO, A, B, File, framed, tensor

NAMES = '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"c":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}'
NAMED = (tensor("a", "F32", [2], A_BYTES), tensor("c", "F32", [1], struct.pack("<f", 0.5)))
META = '{"__metadata__":{"k":"v"},' + f"{A},{B}}}"
TWO_META = '{"__metadata__":{"k":"v","l":"w"},' + f"{A},{B}}}"
U8 = '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}'
ZERO = f'{{{A},{B},"z":{{"dtype":"F32","shape":[0,3],"data_offsets":[12,12]}}}}'
SCALAR = '{"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}'
LARGE_ZERO = '{"z":{"dtype":"F32","shape":[0,1099511627776],"data_offsets":[0,0]}}'
TEN = '{"a":{"dtype":"U8","shape":[10],"data_offsets":[0,10]}}'
FLAGS = '{"a":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]}}'
RANK_8 = '{"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1],"data_offsets":[0,1]}}'
SPECIAL = struct.pack("<4I", 0x7FC00000, 0xFF800000, 0x80000000, 1)


def files() -> Iterator[File]:
    """Yield the files that every reader should read."""
    reordered = f'{{{B},"a":{{"data_offsets":[0,8],"shape":[2],"dtype":"F32"}}}}'
    pretty = "{\n  " + A.replace(",", ",\n    ").replace(":", ": ") + ",\n\t" + B + "\n}"
    first = '{"z":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},' + f"{A},{B}}}"
    middle = f'{{{A},"z":{{"dtype":"F32","shape":[3,0],"data_offsets":[8,8]}},{B}}}'
    unicode = PLAIN.replace('"a"', '"\u0436/\u91cd.\U0001f642"')
    special = '{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
    swapped = f"{{{A.replace('[0,8]', '[4,12]')},{B.replace('[8,12]', '[0,4]')}}}"
    zero = tensor("z", "F32", [0, 3], b"")
    u8 = (tensor("a", "U8", [1], b"\x05"), tensor("b", "F32", [2], A_BYTES))
    rows: list[tuple[str, str, str, bytes, tuple[dict[str, Any], ...]]] = [
        ("plain", "two tensors, F32 [2] and I32 [1]", "dict", framed(PLAIN), TWO),
        ("two-floats", "two tensors of one dtype", "dict", framed(NAMES, A_BYTES + struct.pack("<f", 0.5)), NAMED),
        ("padded", "40 spaces behind the header", "padding", framed(PLAIN + " " * 40, fill=b""), TWO),
        ("length-odd", "a header whose length is no multiple of 8", "length", framed(PLAIN, fill=b""), TWO),
        ("pretty", "line breaks, a tab and spaces between the parts of the header", "json-space", framed(pretty), TWO),
        ("keys-unordered", "keys of the header and of an entry in another order", "json", framed(reordered), TWO),
        ("data-unordered", "data in another order than the names", "json", framed(swapped, B_BYTES + A_BYTES), TWO),
        ("metadata", "a map of strings in `__metadata__`", "metadata", framed(META), TWO),
        ("metadata-two", "two entries in `__metadata__`", "metadata", framed(TWO_META), TWO),
        ("metadata-empty", "no entry in `__metadata__`", "metadata", framed(META.replace('"k":"v"', "")), TWO),
        ("metadata-only", "`__metadata__` and no tensor", "metadata", framed('{"__metadata__":{"k":"v"}}', b""), ()),
        ("no-tensor", "no tensor and no data", "dict", framed("{}", b""), ()),
        (
            "name-unicode",
            "a name of letters beyond ASCII, with a slash and a dot",
            "header",
            framed(unicode),
            (tensor("\u0436/\u91cd.\U0001f642", "F32", [2], A_BYTES), TWO[1]),
        ),
        ("unaligned", "an F32 tensor that begins at an odd byte", "offsets", framed(U8, b"\x05" + A_BYTES), u8),
        ("scalar", "a tensor of shape []", "scalar", framed(SCALAR, A_BYTES[:4]), (_scalar(),)),
        ("zero-size", "a tensor of shape [0,3] behind the others", "empty", framed(ZERO), (*TWO, zero)),
        ("zero-size-first", "a tensor of shape [0] before the others", "empty", framed(first), (*TWO, _empty([0]))),
        ("zero-size-between", "a tensor of shape [3,0] between two others", "empty", framed(middle),
         (*TWO, _empty([3, 0]))),
        ("zero-size-only", "a tensor of shape [0,2^40], and no other", "empty", framed(LARGE_ZERO, b""),
         (_empty([0, 2**40]),)),
        ("special-values", "NaN, infinity, -0 and a subnormal", "values", framed(special, SPECIAL),
         (tensor("a", "F32", [4], SPECIAL),)),
        ("ten-bytes", "a U8 tensor of 10 values", "dict", framed(TEN, bytes(range(10))),
         (tensor("a", "U8", [10], bytes(range(10))),)),
        ("flags", "a BOOL tensor of bytes 0 and 1", "values", framed(FLAGS, b"\1\0\1"),
         (tensor("a", "BOOL", [3], b"\1\0\1"),)),
        ("rank-8", "a tensor of eight dimensions", "dict", framed(RANK_8, b"\7"), (tensor("a", "U8", [1] * 8, b"\7"),)),
    ]  # fmt: skip
    for name, rule, cites, raw, tensors in rows:
        yield File(name, "accept", rule, (cites,), raw, tensors=tensors)


def _scalar() -> dict[str, Any]:
    return tensor("s", "F32", [], A_BYTES[:4])


def _empty(shape: list[int]) -> dict[str, Any]:
    return tensor("z", "F32", shape, b"")
