"""Files of the pack that break a rule of the length, of the text of the header, or of its keys."""

import struct
from collections.abc import Iterator

from conformance.gen.files_stock_good import META, NAMES, TWO_META
from conformance.gen.files_stock_parts import A_BYTES, DATA, PLAIN, A, B, File, framed

DEPTH = 5000
_GOOD = framed(PLAIN)
_N = len(_GOOD) - 8 - len(DATA)


def lengths() -> Iterator[File]:
    """Yield files whose length field or size is wrong."""
    rows: list[tuple[str, str, str, str, bytes]] = [
        ("empty-file", "a file of no bytes", "length", "FMT-020", b""),
        ("seven-bytes", "a file that ends within the length", "length", "FMT-020", _GOOD[:7]),
        ("length-only", "a length, and nothing behind it", "length", "FMT-021", _GOOD[:8]),
        ("length-zero", "a header of no bytes", "brace", "FMT-024", framed(b"", DATA)),
        ("length-beyond", "a header one byte longer than the file", "length", "FMT-021",
         framed(PLAIN, length=_N + len(DATA) + 1)),
        ("length-big-endian", "a length in big-endian order", "length", "FMT-021",
         struct.pack(">Q", _N) + _GOOD[8:]),
        ("length-2-40", "a length of 2^40", "length", "FMT-021", framed(PLAIN, length=2**40)),
        ("length-2-63", "a length of 2^63, negative as a signed number", "length", "FMT-021",
         framed(PLAIN, length=2**63)),
        ("length-2-64", "a length of 2^64 - 1, which wraps when 8 is added", "length", "FMT-021",
         framed(PLAIN, length=2**64 - 1)),
        ("length-32-bits", "a length that is right in its lower 32 bits only", "length", "FMT-021",
         framed(PLAIN, length=2**32 + _N)),
        ("cut-in-header", "a file that ends within the header", "length", "FMT-021", _GOOD[:60]),
    ]  # fmt: skip
    for name, rule, cites, clause, raw in rows:
        yield File(name, "refuse", rule, (cites,), raw, "plain", clause)
    # a slice of bytes may end beyond the file without an error, so that a reader may find the whole header here
    bare = framed("{}", b"", length=9)
    yield File("length-beyond-no-data", "refuse", "a length of 9 before a header of 8 bytes, and no data", ("length",),
               bare, "no-tensor", "FMT-021")  # fmt: skip
    short = framed(PLAIN, length=len(PLAIN) - 1, fill=b"")
    yield File("length-short", "refuse", "a length that ends before the last brace", ("header",), short,
               "length-odd", "FMT-024")  # fmt: skip


def texts() -> Iterator[File]:
    """Yield files whose header is no JSON text in UTF-8 that begins with a brace."""
    raw = PLAIN.encode()
    rows: list[tuple[str, str, tuple[str, ...], str | None, bytes]] = [
        ("not-utf-8", "a byte 0xFF in a name", ("header",), "FMT-024", raw.replace(b'"a"', b'"\xff"')),
        ("utf-8-overlong", "an overlong sequence in a name", ("header",), "FMT-024",
         raw.replace(b'"a"', b'"\xc1\xa1"')),
        ("utf-8-surrogate", "an encoded surrogate in a name", ("header",), "FMT-024",
         raw.replace(b'"a"', b'"\xed\xa0\x80"')),
        ("utf-8-cut", "a name that ends within a character", ("header",), "FMT-024",
         raw.replace(b'"a"', b'"\xd0"')),
        ("utf-16", "a header in UTF-16", ("header",), "FMT-024", PLAIN.encode("utf-16-le")),
        ("byte-order-mark", "a byte order mark in front", ("brace", "json-mark"), "FMT-024", b"\xef\xbb\xbf" + raw),
        ("space-in-front", "a space in front", ("brace",), None, b" " + raw),
        ("line-in-front", "a line break in front", ("brace",), None, b"\n" + raw),
        ("nul-in-front", "a NUL in front", ("brace",), "FMT-024", b"\0" + raw),
        ("not-json", "the last brace is missing", ("header",), "FMT-024", raw[:-1]),
        ("trailing-comma", "a comma behind the last entry", ("header",), "FMT-024", raw[:-1] + b",}"),
        ("comment", "a comment", ("header",), "FMT-024", raw[:-1] + b"/**/}"),
        ("single-quotes", "single quotes", ("header",), "FMT-024", raw.replace(b'"', b"'")),
        ("second-object", "a second object behind the first", ("header",), "FMT-024", raw + b"{}"),
        ("text-behind", "a letter behind the object", ("header",), "FMT-024", raw + b"x"),
        ("line-in-name", "a bare line break within a name", ("header",), "FMT-024", raw.replace(b'"a"', b'"a\n"')),
        ("bad-escape", "an escape that JSON does not have", ("header",), "FMT-024",
         raw.replace(b'"a"', b'"\\x61"')),
        ("not-a-number", "NaN as a size", ("header",), "FMT-026", raw.replace(b"[1]", b"[NaN]")),
        ("leading-zero", "a size with a leading zero", ("header",), "FMT-024", raw.replace(b"[1]", b"[01]")),
        ("plus-sign", "a size with a plus sign", ("header",), "FMT-024", raw.replace(b"[1]", b"[+1]")),
        ("hexadecimal", "a size in hexadecimal", ("header",), "FMT-024", raw.replace(b"[1]", b"[0x1]")),
    ]  # fmt: skip
    for name, rule, cites, clause, header in rows:
        yield File(f"header-{name}", "refuse", rule, cites, framed(header), "plain", clause)
    for name, rule, text in (
        ("list", "a header that is a list", "[]"),
        ("text", "a header that is a string", '"{}"'),
        ("null", "a header that is null", "null"),
    ):
        yield File(f"header-{name}", "refuse", rule, ("brace",), framed(text, b""), "no-tensor", "FMT-030")
    nul = framed(PLAIN.encode() + b"\0" * 40, fill=b"\0")
    yield File("header-nul-behind", "refuse", "NULs instead of the spaces behind the header", ("padding", "header"),
               nul, "padded", "FMT-024")  # fmt: skip
    deep = raw.replace(b"[1]", b"[" * DEPTH + b"1" + b"]" * DEPTH)
    yield File("header-deep-shape", "refuse", f"a shape of lists {DEPTH} deep", ("dict",), framed(deep), "plain",
               "FMT-027 FMT-030")  # fmt: skip
    objects = b'{"a":' * DEPTH + b"1" + b"}" * DEPTH
    yield File("header-deep-entry", "refuse", f"an entry of objects {DEPTH} deep", ("dict",),
               framed(raw[:-1] + b',"c":' + objects + b"}"), "plain", "FMT-027 FMT-030")  # fmt: skip
    yield File("header-deep-open", "refuse", f"{2 * DEPTH} brackets that are never closed", ("header",),
               framed(b'{"a":' + b"[" * (2 * DEPTH)), "plain", "FMT-024 FMT-027")  # fmt: skip


def keys() -> Iterator[File]:
    """Yield files in which an object has a key twice."""
    named, data = NAMES.encode(), A_BYTES + struct.pack("<f", 0.5)
    rows: list[tuple[str, str, bytes, str]] = [
        ("name-same", "an entry stands twice, letter by letter", framed(f"{{{A},{A},{B}}}"), "plain"),
        ("name-other", "one name for two tensors, which fill the data", framed(named.replace(b'"c"', b'"a"'), data),
         "two-floats"),
        ("name-escaped", "one name for two tensors, the second escaped",
         framed(named.replace(b'"c"', b'"\\u0061"'), data), "two-floats"),
        ("name-hidden", "one name for two tensors of the same bytes, of other dtypes",
         framed(f'{{{A},{B},"b":{{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}}}'), "plain"),
        ("dtype", "an entry with two dtypes", framed(PLAIN.replace('"dtype":"I32"', '"dtype":"F32","dtype":"I32"')),
         "plain"),
        ("shape", "an entry with two shapes", framed(PLAIN.replace('"shape":[1]', '"shape":[1,1],"shape":[1]')),
         "plain"),
        ("offsets", "an entry with two pairs of offsets",
         framed(PLAIN.replace('"data_offsets":[8,12]', '"data_offsets":[0,4],"data_offsets":[8,12]')), "plain"),
        ("metadata", "`__metadata__` twice", framed('{"__metadata__":{"k":"v"},' + META[1:]), "metadata"),
        ("metadata-key", "a key of `__metadata__` twice", framed(TWO_META.replace('"l"', '"k"')),
         "metadata-two"),
    ]  # fmt: skip
    for name, rule, raw, twin in rows:
        yield File(f"twice-{name}", "refuse", rule, ("duplicates",), raw, twin, "FMT-025")


def files() -> Iterator[File]:
    """Yield all files of this module."""
    yield from lengths()
    yield from texts()
    yield from keys()
