"""Files of the pack that the format neither allows nor forbids; most have a note that says why."""

from collections.abc import Iterator
from typing import Any

from conformance.gen.files_stock_good import FLAGS, RANK_8, ZERO
from conformance.gen.files_stock_parts import A_BYTES, PLAIN, TWO, File, framed, tensor

INTEGER = "It is an integer in JSON, spelled oddly; serde_json takes it for a fraction."
ESCAPE = "The format reserves odd escapes for later."
SPACE = "JSON allows it, and the format names the space alone."
NO_LIST = "The format has no list of dtypes; the crate's `Dtype` has this one, and a reader may lack it."
DTYPES = {4: ("F4",), 6: ("F6_E2M3", "F6_E3M2"), 16: ("F16", "BF16", "I16", "U16"), 32: ("U32",)}
DTYPES |= {8: ("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")}
DTYPES |= {64: ("F64", "I64", "U64", "C64")}


def spellings() -> Iterator[File]:
    """Yield files whose headers have spellings that JSON allows, or allows in part."""
    swaps: list[tuple[str, str, str, str, str | None, str, str, tuple[dict[str, Any], ...] | None]] = [
        ("number-fraction", "a size of 1.0", "obscure", INTEGER, "FMT-030", "[1]", "[1.0]", TWO),
        ("number-exponent", "a size of 1e0", "obscure", INTEGER, "FMT-030", "[1]", "[1e0]", TWO),
        ("number-minus-zero", "an offset of -0", "obscure", INTEGER, "FMT-121", "[0,8]", "[-0,8]", TWO),
        ("name-escaped", "a name whose letter is an escape", "obscure", ESCAPE, None, '"a"', '"\\u0061"', TWO),
        ("dtype-escaped", "a dtype with an escape", "obscure", ESCAPE, None, '"F32"', '"\\u004632"', TWO),
        ("name-nul", "a name with an escaped NUL", "obscure", ESCAPE, None, '"a"', '"\\u0000"',
         (tensor("\0", "F32", [2], A_BYTES), TWO[1])),
        ("name-half-pair", "a name that is half of a surrogate pair, escaped", "obscure",
         "JSON has the escape, and no UTF-8 text has the character.", "FMT-121", '"a"', '"\\ud800"', None),
        ("name-empty", "an empty name", "silent", "", None, '"a"', '""', (tensor("", "F32", [2], A_BYTES), TWO[1])),
        ("name-parent", "a name that is a path out of the folder", "silent",
         "A tool that makes files of names must look at it.", None, '"a"', '"../a"',
         (tensor("../a", "F32", [2], A_BYTES), TWO[1])),
        ("key-more", "an entry with one key more", "schema-keys",
         "The schema forbids it, the README does not speak of it, and the crate skips it.", "FMT-030",
         '"dtype":"I32"', '"dtype":"I32","note":1', TWO),
        ("key-deep", "an entry with one key more, whose value is 300 lists deep", "schema-keys",
         "As `key-more`; serde_json has a limit of 128.", "FMT-027", '"dtype":"I32"',
         f'"dtype":"I32","note":{"[" * 300}{"]" * 300}', TWO),
    ]  # fmt: skip
    for name, rule, cites, note, clause, old, new, tensors in swaps:
        raw = framed(PLAIN.replace(old, new, 1))
        yield File(name, "open", rule, (cites,), raw, "plain", clause, tensors, note)
    for name, what, byte in (("line-breaks", "line breaks", "\n"), ("tabs", "tabs", "\t")):
        rule = f"{what} instead of the spaces behind the header"
        raw = framed(PLAIN + byte * 40, fill=b"")
        yield File(f"{name}-behind", "open", rule, ("padding",), raw, "padded", None, TWO, SPACE)


def shapes() -> Iterator[File]:
    """Yield files with shapes and offsets that the format does not mention."""
    zero = tensor("z", "F32", [0, 3], b"")
    inside = ZERO.replace("[12,12]", "[4,4]")
    yield File("zero-size-inside", "open", "an empty tensor placed within the bytes of another", ("empty",),
               framed(inside), "zero-size", "FMT-121.3", (*TWO, zero), "It shares no byte.")  # fmt: skip
    behind = ZERO.replace("[12,12]", "[16,16]")
    yield File("zero-size-behind", "open", "an empty tensor placed behind the end of the file", ("empty",),
               framed(behind), "zero-size", "FMT-121.3", (*TWO, zero), "It reads no byte.")  # fmt: skip
    large = '{"z":{"dtype":"F32","shape":[1099511627776,1099511627776,0],"data_offsets":[0,0]}}'
    yield File("zero-size-overflow", "open", "an empty tensor of shape [2^40,2^40,0]", ("empty",),
               framed(large, b""), "zero-size-only", "FMT-007", (tensor("z", "F32", [2**40, 2**40, 0], b""),),
               "The product is 0; one that is taken from the left overflows on the way.")  # fmt: skip
    late = '{"z":{"dtype":"F32","shape":[0,1099511627776,1099511627776],"data_offsets":[0,0]}}'
    yield File("zero-size-overflow-late", "open", "an empty tensor of shape [0,2^40,2^40]", ("empty",),
               framed(late, b""), "zero-size-only", "FMT-007",
               (tensor("z", "F32", [0, 2**40, 2**40], b""),))  # fmt: skip
    for rank, note in ((9, "Some readers have room for 8."), (65, "NumPy has 64 at most.")):
        ones = RANK_8.replace(",".join("1" * 8), ",".join("1" * rank))
        yield File(f"rank-{rank}", "open", f"a tensor of {rank} dimensions", ("silent",), framed(ones, b"\7"), "rank-8",
                   "FMT-007", (tensor("a", "U8", [1] * rank, b"\7"),), note)  # fmt: skip
    yield File("bool-of-two", "open", "a BOOL tensor with a byte of 2", ("values",), framed(FLAGS, b"\1\2\1"), "flags",
               "FMT-070", (tensor("a", "BOOL", [3], b"\1\2\1"),),
               "Values are not checked, and 2 is no value of BOOL.")  # fmt: skip
    for dtype, size in (("F4", 2), ("F6_E2M3", 3)):
        raw = framed(f'{{"a":{{"dtype":"{dtype}","shape":[3],"data_offsets":[0,{size}]}}}}', A_BYTES[:size])
        yield File(f"odd-{dtype}", "open", f"3 values of {dtype}, which end within a byte", ("small",), raw,
                   f"open/dtype-{dtype}", "FMT-121.4", None,
                   "The format does not say whether a last byte is filled up.")  # fmt: skip


def dtypes() -> Iterator[File]:
    """Yield a file for every dtype of the crate other than F32 and I32."""
    for width, names in sorted(DTYPES.items()):
        for dtype in names:
            size = 4 if width < 32 else 2
            data = b"\1\0\0\1" if dtype == "BOOL" else (A_BYTES + A_BYTES)[: size * width // 8]
            header = f'{{"a":{{"dtype":"{dtype}","shape":[{size}],"data_offsets":[0,{len(data)}]}}}}'
            yield File(f"dtype-{dtype}", "open", f"a tensor of {dtype}", ("small" if width < 8 else "silent",),
                       framed(header, data), None, None, (tensor("a", dtype, [size], data),), NO_LIST)  # fmt: skip


def files() -> Iterator[File]:
    """Yield all files of this module."""
    yield from spellings()
    yield from shapes()
    yield from dtypes()
