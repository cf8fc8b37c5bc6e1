"""Files of the pack that break a rule of an entry, of offsets and sizes, of the data, or of `__metadata__`."""

from collections.abc import Iterator

from conformance.gen.files_stock_good import META, SCALAR, ZERO
from conformance.gen.files_stock_parts import A_BYTES, B_BYTES, DATA, PLAIN, A, B, File, framed

_N = len(framed(PLAIN, b""))
_COVER = "FMT-121.3"


def swapped(
    name: str,
    rule: str,
    cites: str,
    clause: str | None,
    old: str,
    new: str,
    *,
    base: str = PLAIN,
    twin: str = "plain",
    data: bytes = DATA,
) -> File:
    """Return the file of a header in which one text is replaced.

    cites  keys of SOURCES, separated by spaces
    """
    header = base.replace(old, new, 1)
    assert header != base, name
    return File(name, "refuse", rule, tuple(cites.split()), framed(header, data), twin, clause)


def entries() -> Iterator[File]:
    """Yield files with an entry that is malformed."""
    b = B.removeprefix('"b":')
    dtype, shape, offsets = '"dtype":"I32"', '"shape":[1]', '"data_offsets":[8,12]'
    rows: list[tuple[str, str, str, str | None, str, str]] = [
        ("entry-null", "an entry that is null", "dict schema-keys", "FMT-030", b, "null"),
        ("entry-text", "an entry that is a string", "dict schema-keys", "FMT-030", b, '"I32"'),
        ("entry-list", "an entry that is a list of its values", "dict schema-keys", "FMT-030", b, '["I32",[1],[8,12]]'),
        ("entry-empty", "an entry without keys", "dict schema-keys", "FMT-030", b, "{}"),
        ("dtype-missing", "an entry without dtype", "dict schema-keys", "FMT-030", f"{dtype},", ""),
        ("shape-missing", "an entry without shape", "dict schema-keys", "FMT-030", f"{shape},", ""),
        ("offsets-missing", "an entry without data_offsets", "dict schema-keys", "FMT-030", f",{offsets}", ""),
        ("dtype-unknown", "a dtype that nobody knows, of a size that could be guessed", "schema-dtype", "FMT-006",
         '"I32"', '"Q31"'),
        ("dtype-lower-case", "a dtype in lower case", "schema-dtype", "FMT-006", '"I32"', '"i32"'),
        ("dtype-empty", "an empty dtype", "schema-dtype", "FMT-006", '"I32"', '""'),
        ("dtype-number", "a dtype that is a number", "dict schema-dtype", "FMT-006", '"I32"', "32"),
        ("dtype-null", "a dtype that is null", "dict schema-dtype", "FMT-006", '"I32"', "null"),
        ("dtype-object", "a dtype that is an object with the dtype as its key", "dict schema-dtype", "FMT-006",
         '"I32"', '{"I32":null}'),
        ("shape-number", "a shape that is a number", "dict", "FMT-030", shape, '"shape":1'),
        ("shape-null", "a shape that is null", "dict", "FMT-030", shape, '"shape":null'),
        ("shape-text", "a size that is a string", "dict schema-size", "FMT-030", shape, '"shape":["1"]'),
        ("shape-boolean", "a size that is `true`", "dict schema-size", "FMT-030", shape, '"shape":[true]'),
        ("shape-nested", "a size that is a list", "dict schema-size", "FMT-030", shape, '"shape":[[1]]'),
        ("shape-fraction", "a size of 1.5", "schema-size", "FMT-030", shape, '"shape":[1.5]'),
        ("shape-negative", "a size of -1", "schema-size", "FMT-030", shape, '"shape":[-1]'),
        ("shape-two-negatives", "two sizes of -1, whose product is right", "schema-size", "FMT-030", shape,
         '"shape":[-1,-1]'),
        ("shape-2-64", "a size of 2^64 + 1, which is 1 in 64 bits", "schema-size offsets", "FMT-026", shape,
         f'"shape":[{2**64 + 1}]'),
        ("shape-long-number", "a size of 4,000 digits", "schema-size offsets", "FMT-026", shape,
         f'"shape":[{"9" * 4000}]'),
        ("offsets-one", "one offset", "offsets schema-pair", "FMT-030", "[8,12]", "[8]"),
        ("offsets-three", "three offsets", "offsets schema-pair", "FMT-030", "[8,12]", "[8,12,12]"),
        ("offsets-none", "no offset", "offsets schema-pair", "FMT-030", "[8,12]", "[]"),
        ("offsets-text", "an offset that is a string", "offsets schema-size", "FMT-030", "[8,12]", '[8,"12"]'),
        ("offsets-null", "offsets that are null", "offsets schema-pair", "FMT-030", "[8,12]", "null"),
        ("offsets-fraction", "an end of 12.5", "schema-size", "FMT-030", "[8,12]", "[8,12.5]"),
    ]  # fmt: skip
    for row in rows:
        yield swapped(*row)


def sizes() -> Iterator[File]:
    """Yield files with offsets that are wrong, or that contradict dtype and shape."""
    beyond = PLAIN.replace("[8,12]", f"[{8 + _N},{12 + _N}]").replace("[0,8]", f"[{_N},{8 + _N}]")
    yield File("offsets-absolute", "refuse", "offsets that count from the start of the file", ("offsets",),
               framed(beyond), "plain", _COVER)  # fmt: skip
    rows = [
        ("offsets-reversed", "an end before its begin", "offsets", _COVER, "[8,12]", "[12,8]"),
        ("offsets-beyond", "a tensor that goes on behind the file", "offsets", _COVER, "[1],\"data_offsets\":[8,12]",
         '[2],"data_offsets":[8,16]'),
        ("offsets-far", "a tensor that lies 2^40 bytes behind the file", "offsets", _COVER, "[8,12]",
         f"[{2**40},{2**40 + 4}]"),
        ("offsets-2-63", "a tensor at 2^63, negative as a signed number", "offsets schema-size", "FMT-026", "[8,12]",
         f"[{2**63},{2**63 + 4}]"),
        ("offsets-2-64", "an end of 2^64 + 12, which is 12 in 64 bits", "offsets schema-size", "FMT-026", "[8,12]",
         f"[8,{2**64 + 12}]"),
        ("offsets-wrap", "a begin of 2^64 - 4, which is -4 in 64 bits", "offsets schema-size", "FMT-026", "[8,12]",
         f"[{2**64 - 4},12]"),
        ("size-less", "a shape of fewer values than its bytes hold", "offsets", _COVER, "[2]", "[1]"),
        ("size-more", "a shape of more values than its bytes hold", "offsets", _COVER, "[2]", "[3]"),
        ("size-dtype", "a dtype wider than its bytes", "offsets", _COVER, '"F32"', '"I64"'),
        ("size-many", "a shape of 2^40 values in 8 bytes", "offsets", _COVER, "[2]", f"[{2**40}]"),
        ("size-product-wraps", "a shape whose product is 2 in 64 bits, and 2^64 + 2", "offsets", "FMT-026", "[2]",
         f"[3,{(2**64 + 2) // 3}]"),
        ("size-bytes-wrap", "a shape whose bytes are 8 in 64 bits, and 2^64 + 8", "offsets", "FMT-026", "[2]",
         f"[{2**62 + 2}]"),
        ("size-product-32", "a shape whose product is 2 in 32 bits, and 2^32 + 2", "offsets", _COVER, "[2]",
         f"[2,{2**31 + 1}]"),
    ]  # fmt: skip
    for row in rows:
        yield swapped(*row)
    zero = '"z":{"dtype":"F32","shape":[0,3]'
    wraps = '"z":{"dtype":"F32","shape":[4294967296,4294967296]'
    yield swapped("size-wraps-to-zero", "a shape whose product is 0 in 64 bits, and 2^64", "offsets", "FMT-007", zero,
                  wraps, base=ZERO, twin="zero-size")  # fmt: skip
    yield swapped("zero-size-with-bytes", "a shape [0,3] that takes 4 bytes", "offsets empty", _COVER, "[12,12]",
                  "[12,16]", base=ZERO, twin="zero-size", data=DATA + b"\0" * 4)  # fmt: skip
    yield swapped("scalar-without-bytes", "a shape [] that takes no bytes", "offsets scalar", _COVER, "[0,4]", "[0,0]",
                  base=SCALAR, twin="scalar", data=b"")  # fmt: skip
    yield swapped("scalar-of-two", "a shape [] that takes the bytes of two values", "offsets scalar", _COVER, "[0,4]",
                  "[0,8]", base=SCALAR, twin="scalar", data=A_BYTES)  # fmt: skip
    negative = PLAIN.replace("[0,8]", "[-8,0]").replace("[8,12]", "[0,4]")
    yield File("offsets-negative", "refuse", "offsets that are negative and lead into the header",
               ("offsets", "schema-size"), framed(negative, B_BYTES), "plain", "FMT-030")  # fmt: skip


def covers() -> Iterator[File]:
    """Yield files whose tensors do not fill the data, each byte once."""
    same = '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"c":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    part = (
        '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"c":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}'
    )
    inner = f'{{{A},{B},"c":{{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}}}'
    front = PLAIN.replace("[8,12]", "[12,16]").replace("[0,8]", "[4,12]")
    rows: list[tuple[str, str, str, bytes]] = [
        ("data-none", "no data", "offsets", framed(PLAIN, b"")),
        ("data-cut", "data that lacks its last byte", "offsets", framed(PLAIN, DATA[:-1])),
        ("data-byte-more", "a byte behind the last tensor", "holes", framed(PLAIN, DATA + b"\0")),
        ("data-archive", "the end of a zip archive behind the last tensor", "holes",
         framed(PLAIN, DATA + b"PK\5\6" + bytes(18))),
        ("data-unnamed", "data, and no tensor", "holes", framed("{}")),
        ("hole-in-front", "4 bytes before the first tensor", "holes", framed(front, b"\0" * 4 + DATA)),
        ("hole-between", "4 bytes between two tensors", "holes",
         framed(PLAIN.replace("[8,12]", "[12,16]"), DATA[:8] + b"\0" * 4 + DATA[8:])),
        ("overlap-same", "two tensors of the same bytes", "overlap", framed(same, A_BYTES)),
        ("overlap-part", "two tensors that share 4 bytes", "overlap", framed(part)),
        ("overlap-inner", "a tensor within the bytes of another", "overlap", framed(inner)),
    ]  # fmt: skip
    for name, rule, cites, raw in rows:
        twin = "no-tensor" if name == "data-unnamed" else "two-floats" if name == "overlap-same" else "plain"
        yield File(name, "refuse", rule, (cites,), raw, twin, _COVER)


def metadata() -> Iterator[File]:
    """Yield files whose `__metadata__` is no map of strings."""
    rows: list[tuple[str, str, str | None, str, str]] = [
        ("list", "a list", "FMT-030", '{"k":"v"}', '["k","v"]'),
        ("text", "a string", "FMT-030", '{"k":"v"}', '"v"'),
        ("null", "null", None, '{"k":"v"}', "null"),
        ("number-in-it", "a map with a number", "FMT-121", '"v"', "1"),
        ("null-in-it", "a map with null", "FMT-121", '"v"', "null"),
        ("boolean-in-it", "a map with `true`", "FMT-121", '"v"', "true"),
        ("list-in-it", "a map with a list", "FMT-121", '"v"', '["v"]'),
        ("map-in-it", "a map with a map", "FMT-121", '"v"', '{"v":"w"}'),
    ]
    for name, rule, clause, old, new in rows:
        yield swapped(
            f"metadata-{name}",
            f"`__metadata__` is {rule}",
            "metadata",
            clause,
            old,
            new,
            base=META,
            twin="metadata",
        )


def files() -> Iterator[File]:
    """Yield all files of this module."""
    yield from entries()
    yield from sizes()
    yield from covers()
    yield from metadata()
