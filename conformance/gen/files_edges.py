"""Cases of valid files of chapter 12 at its limits: sizes, orders of names, bit patterns of every dtype."""

import struct
from dataclasses import replace
from typing import Any

from conformance.gen.files import F16, FLAGS, Files, content, on, raw_array, regular, state
from conformance.gen.numbers import Area
from conformance.oracle import files
from conformance.oracle.files import BITS, Tensor

BYTE = Tensor("U8", (1,), b"\7")


# a conversion may change these bit patterns: -0, signalling and quiet NaN with payloads, infinities, the smallest
# subnormal and the largest number. Their most significant byte comes first.
_PATTERNS = {
    "F16": "8000 7d01 7e55 fc00 0001 fbff ffff",
    "BF16": "8000 7f81 7fd5 ff80 0001 ff7f ffff",
    "F32": "80000000 7f800001 7fd55555 ff800000 00000001 ff7fffff",
    "F64": "8000000000000000 7ff0000000000001 7ff8555555555555 fff0000000000000 0000000000000001",
    "C64": "8000000080000000 7f8000017fd55555 00000001ff800000",
    "F8_E5M2": "80 7d 7e ff fc 01 fb",
    "F8_E4M3": "80 7f ff 01 fe",
    "F8_E8M0": "00 ff 80 7f",
    "F8_E4M3FNUZ": "80 ff 01 7f",
    "F8_E5M2FNUZ": "80 ff 01 7f",
}


def edges() -> Area:
    """Return cases of valid files at the limits of the format, read and written."""
    cases = Files("file-edge")
    _names(cases)
    _patterns(cases)
    _zeros(cases)
    _limits(cases)
    _winners(cases)
    _headers(cases)
    _frames(cases)
    _read_only(cases)
    return cases.area


def _names(cases: Files) -> None:
    """Add names whose order differs by bytes of UTF-8, units of UTF-16, code points or lower case."""
    high = {name: replace(BYTE, bits=bytes([i])) for i, name in enumerate(("\U0001f600", "\uff61", "\ue000", "\ufffd"))}
    text = "names sorted by units of UTF-16"
    cases.add("names-high", "FMT-009 FMT-034 FMT-028", text, high)
    low = {name: replace(BYTE, bits=bytes([i])) for i, name in enumerate(("a", "B", "a!", "a.b", "_", "Z", "aa", "é"))}
    cases.add("names-low", "FMT-009 FMT-034 FMT-028", "names sorted without case, or with their sections", low)
    ties: dict[str, Any] = {"tied": {"\U0001f601": "\uff61", "\ufb01": "\U0001f600"}}
    scales = {"\uff61": {"scale": "\U0001f600", "a_z": "\ue000"}, "\U0001f600": {"b0": "\uff61"}}
    text = "keys sorted by units of UTF-16 in tied names or scales"
    cases.add("names-tied", "FMT-010 FMT-016 FMT-028 FMT-099", text, high, scales=scales, **ties)
    odd = [" ", "\x80\x9f", "\u2028", '"\\/', "e\u0301", "\u00e9", "..", "\ufeff"]
    text = "names refused that are legal, cut, or made one by normalisation"
    cases.add("names-odd", "FMT-009 FMT-028", text, dict.fromkeys(odd, BYTE), ways="read")
    longest = {"\uff61" * 170 + "ab": BYTE}
    text = "a name of 512 bytes refused, or counted in characters"
    cases.add("names-long", "FMT-009", text, longest, ways="read")
    alias: dict[str, Any] = {"tied": {"t" * 512: "w"}}
    cases.add("tied-long", "FMT-010 FMT-009", "a tied name of 512 bytes refused", {"w": BYTE}, ways="read", **alias)
    keys = ["\U0001f600", "\uff61", "\ue000", "z", "Z", "a", "", "a!", "\x7f", "é", "10", "9", "_"]
    attributes: dict[str, Any] = {key: i for i, key in enumerate(keys)}
    text = "keys sorted by units of UTF-16, as numbers, or without case"
    cases.add("keys", "FMT-028 FMT-011", text, {"w": BYTE}, attributes=attributes)
    controls = "".join(map(chr, range(32)))
    attributes = {"a": controls + '\x7f"\\/\u2028\u2029\u0080', "b": "\U0001f600\uff61", controls: {controls: []}}
    text = "an escape in another spelling: \\u00 in capitals, \\u000a, an escaped slash, pairs of surrogates"
    cases.add("escapes", "FMT-028 FMT-011", text, {"w": BYTE}, attributes=attributes)
    numbers = {
        "a": [2**53 - 1, -(2**53 - 1), 0, -1, 10, 2**31, 2**32, -(2**31) - 1, 2**24 + 1],
        "b": [True, False, None],
    }
    cases.add("integers", "FMT-011 FMT-026", "integers by way of binary32 or 32 bits", {"w": BYTE}, attributes=numbers)
    deepest: Any = {}
    for _ in range(14):
        deepest = {"a": deepest}
    text = "sixteen levels of objects refused"
    cases.add("deep-objects", "FMT-027 FMT-011", text, {}, attributes=deepest)


def _patterns(cases: Files) -> None:
    """Add bits that change if a reader converts values to numbers, in every float dtype (FMT-002)."""
    clauses, text = "FMT-002 FMT-006 FMT-071", "bits changed on the way: NaN payloads, −0, subnormals"
    dense, sparse = {}, {}
    for dtype, hexadecimal in _PATTERNS.items():
        values = [bytes.fromhex(x)[::-1] for x in hexadecimal.split()]
        if dtype == "C64":  # C64 is two floats, the real part first
            values = [x[4:] + x[:4] for x in values]
        bits = b"".join(values)
        dense[dtype] = Tensor(dtype, (len(values),), bits)
        sparse[dtype] = on(dtype, (2, 9), [2 * i for i in range(len(values))], bits)
    for dtype in ("F6_E2M3", "F6_E3M2"):
        number = sum(x << 6 * i for i, x in enumerate((32, 63, 1, 31, 33, 0, 48)))
        bits = number.to_bytes(6, "little")
        dense[dtype] = Tensor(dtype, (7,), bits)
        sparse[dtype] = on(dtype, (2, 9), list(range(0, 14, 2)), bits)
    dense["F4"] = Tensor("F4", (16,), bytes(i | (i + 1) << 4 for i in range(0, 16, 2)))
    small = {name: t for name, t in dense.items() if BITS[name] <= 8}
    cases.add("bits-dense-small", clauses, text, small, ways="read")
    cases.add("bits-dense", clauses, text, {name: t for name, t in dense.items() if name not in small}, ways="read")
    for encoding, names in (("csr", "F16 F64 C64 F6_E3M2"), ("gap8", "BF16 F8_E4M3"), ("varint", "F32 F8_E8M0")):
        cases.add(
            f"bits-{encoding}", f"{clauses} FMT-003", text, {n: sparse[n] for n in names.split()}, encoding, "write"
        )


def _zeros(cases: Files) -> None:
    """Add stored zeros of both signs, first, last and alone, in every encoding (FMT-003)."""
    at, text = [0, 3, 4, 7, 8, 15], "a support made anew from values that are not zero"
    tensors = {}
    for dtype in ("F16", "F32"):
        size = BITS[dtype] // 8
        minus, one = bytes(size - 1) + b"\x80", b"\1" * size
        bits = b"".join((bytes(size), one, bytes(size), minus, one, bytes(size)))
        tensors[dtype] = on(dtype, (2, 8), at, bits)
    clauses = "FMT-003 FMT-002 TOP-004"
    bare = on("F32", (3, 4), [1, 6], bytes(8))
    cases.add("zeros-csr", f"{clauses} FMT-065", text, tensors | {"all": bare}, "csr", "write")
    for encoding, number in (("gap8", "FMT-054"), ("varint", "FMT-055"), ("bitmask", "FMT-061")):
        both = {"all": bare, "w": tensors["F16"]}
        cases.add(f"zeros-{encoding}", f"{clauses} {number}", text, both, encoding, "write")
    nm = replace(regular((2, 8), 2, 4, 1, 51), dtype="F16", bits=bytes(16))
    cases.add("zeros-nm", "FMT-003 FMT-052", text, {"w": nm}, "nm:2:4")
    packed = on("F4", (2, 4), [1, 2, 5], b"\x80\x00")
    cases.add("zeros-F4", "FMT-003 FMT-071", text, {"w": packed}, "csr")


def _limits(cases: Files) -> None:
    """Add files with numbers at a limit of chapter 12; `files_faults` goes beyond the limits."""
    cases.add("shape-limit", "FMT-007", "2^53 − 1 positions refused", {"w": Tensor("U8", (0, 2**53 - 1), b"")})
    empty = Tensor("U8", (65536, 0), b"", ())
    for encoding in ("gap8", "varint"):
        text = "65,536 rows refused where no byte tells of them"
        cases.add(f"{encoding}-rows", "FMT-056", text, {"w": empty}, encoding)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789-" * 2
    for name, kind in (("one", "m"), ("long", letters[:64]), ("ends", "a0-")):
        cases.add(f"kind-{name}", "FMT-012", "a kind refused that is legal", {"w": BYTE}, kind=kind)
    roles = {"w": {"s": "v", letters.replace("-", "_")[:64]: "v", "a_": "v", "a0": "v"}}
    cases.add("roles", "FMT-016", "a role refused that is legal", {"w": BYTE, "v": BYTE}, scales=roles)
    mutual = {"v": {"scale": "w"}, "w": {"scale": "v"}}
    cases.add("scales-both", "FMT-016", "scales of each other refused", {"w": BYTE, "v": BYTE}, scales=mutual)
    alike: dict[str, Any] = {"tied": {"a": "w", "b": "w"}}
    cases.add("tied-twice", "FMT-010", "two names tied to one", {"w": BYTE}, **alike)
    # the mask takes 12 bytes, and so do row pointers and columns; the content digest then uses the bitmask
    level = on("U8", (1, 96), [5, 90])
    for encoding in ("csr", "bitmask", "gap8"):
        text = "a content digest by csr where bitmask takes as many bytes"
        cases.add(f"digest-equal-{encoding}", "FMT-091 FMT-099", text, {"w": level}, encoding, "read")
    more, less = on("U8", (1, 104), [5, 90]), on("U8", (1, 88), [5, 80])
    for name, tensor in (("more", more), ("less", less)):
        cases.add(
            f"digest-{name}", "FMT-091 FMT-099", "a content digest by the larger code", {"w": tensor}, "gap8", "read"
        )
    pattern = (1, 64, 1)
    single = replace(on("U8", (1, 64), [63]), pattern=pattern)
    cases.add("nm-last", "FMT-051 FMT-052 FMT-053", "the largest rank refused", {"w": single}, "nm:1:64")
    chapter = replace(on("F16", (2, 4), [0, 2, 5, 7]), pattern=(2, 4, 1))
    across = replace(on("F16", (4, 4), [0, 6, 9, 15, 5, 12, 3, 10]), pattern=(2, 4, 0))
    across = replace(across, support=tuple(sorted(across.support or ())))
    text = "the examples of 12.13 by other ranks"
    cases.add("nm-example", "FMT-052", text, {"w": chapter}, "nm:2:4:1")
    cases.add("nm-example-across", "FMT-052", text, {"w": across}, "nm:2:4:0")
    for encoding in ("gap8", "varint", "csr"):
        text = "the examples of 12.13 in another code"
        both = {"v": on("U8", (1, 700), [600]), "w": F16}
        cases.add(f"example-{encoding}", "FMT-054 FMT-055 FMT-057 FMT-065", text, both, encoding)


def _winners(cases: Files) -> None:
    """Add supports for which a wrong rule of `auto` chooses another encoding (FMT-081)."""
    for name, purpose, shape, at in (
        ("m-32", "m up to 16: nm of 3 in 32 takes 4 bytes, gap8 6", (1, 64), [1, 2, 9, 33, 40, 63]),
        ("m-64", "m of 64: it would take 2 bytes, gap8 3", (1, 64), [3, 7, 20]),
        ("m-3", "m of 3: it would take 1 byte, bitmask 2", (1, 9), [1, 3, 8]),
        ("m-6", "m of 6: it would take 1 byte", (1, 12), [0, 7]),
        ("m-least", "of equal bytes the largest m: 1:8, 2:16 and 4:32 take 2 bytes", (1, 32), [2, 8, 20, 28]),
        ("bitmask-nm", "nm before bitmask where both take a byte", (1, 8), [2, 3, 4, 7]),
        ("nm-gaps", "gap8 before nm where both take a byte", (1, 32), [0]),
        ("gap8-varint", "varint before gap8 where both take a byte", (3, 5), [7]),
        ("rows-of-bytes", "a mask of whole rows by bits: it takes 8 bytes, gap8 2", (8, 1), [0, 4]),
        (
            "rows-of-ranks",
            "ranks by bits and not by rows of bytes: nm takes 4 bytes, bitmask 4",
            (4, 8),
            [0, 9, 18, 27],
        ),
        ("other-axis", "a pattern along another axis than the last", (4, 5), [0, 6, 2, 8, 4, 15, 16, 17, 18, 19]),
        ("values", "the bytes of values counted", (1, 24), [1, 2, 4, 8, 16, 17, 20]),
    ):
        tensor = on("F64" if name == "rows-of-bytes" else "NONE" if name == "m-64" else "U8", shape, sorted(at))
        cases.add(f"auto-{name}", "FMT-081 FMT-084", purpose, {"w": tensor}, ways="write")


def _headers(cases: Files) -> None:
    """Add headers that fill a power of two exactly, and headers of one byte more (FMT-022, FMT-023)."""
    base = len(_header(files.pieces({"w": BYTE}, attributes={"a": ""})))
    for name, size in (("full", 1016), ("one-more", 1017)):
        filled = {"a": "x" * (size - base)}
        pieces = files.pieces({"w": BYTE}, attributes=filled)
        assert len(_header(pieces)) == size
        text = "a header without a space refused, or a space too many"
        cases.add(f"header-{name}", "FMT-022 FMT-023", text, {"w": BYTE}, attributes=filled)
    wide = Tensor("U8", (64,), bytes(range(64)))
    text = "a pad where a section ends at a multiple of 64"
    cases.add("no-pad", "FMT-034", text, {"a": wide, "b": replace(BYTE), "c": wide})
    cases.add("no-section-bytes", "FMT-034", text, {"a": Tensor("F32", (0,), b""), "b": wide, "c": FLAGS})


def _header(made: files.Pieces) -> bytes:
    """Return the text of the header of a file without its padding."""
    raw = made.pack()
    (n,) = struct.unpack("<Q", raw[:8])
    return raw[8 : 8 + n].rstrip(b" ")


def _frames(cases: Files) -> None:
    """Add compressed sections at the bounds of FMT-141, and planes of every width (FMT-140)."""
    text = "a section refused that is 1,024 times its frame"
    most = Tensor("U8", (13 * 1024,), b"\1" * (13 * 1024))
    frame = {"w#values": files.rle_frame(13 * 1024, 1)}
    cases.add("zstd-most", "FMT-141 FMT-140", text, {"w": most}, frames=frame)
    least = Tensor("U8", (14,), b"\1" * 14)
    text = "a section refused whose frame is a byte shorter"
    cases.add("zstd-least", "FMT-141 FMT-140", text, {"w": least}, frames={"w#values": files.rle_frame(14, 1)})
    for dtype in ("BF16", "F64", "C64", "F8_E5M2"):
        size = BITS[dtype] // 8
        value = bytes(range(1, size + 1))
        planes = files.runs_frame([(byte, 80) for byte in value])
        tensor = Tensor(dtype, (80,), value * 80)
        text = "planes left apart, or of another width"
        cases.add(f"zstd-planes-{dtype}", "FMT-140", text, {"w": tensor}, frames={"w#values": planes})
    packed = Tensor("F4", (160,), b"\x21" * 80)
    text = "packed values in planes"
    cases.add("zstd-packed", "FMT-140 FMT-071", text, {"w": packed}, frames={"w#values": files.rle_frame(80, 0x21)})
    at = [300 * row + 258 for row in range(80)]
    rows = on("U8", (80, 300), at, b"\5" * 80)
    pointers = [(i, 1) for i in range(81)] + [(0, 3 * 81)]
    frames = {"w#col_idx": files.runs_frame([(2, 80), (1, 80)]), "w#row_ptr": files.runs_frame(pointers)}
    text = "row pointers and columns without planes"
    cases.add("zstd-csr", "FMT-140 FMT-065", text, {"w": rows}, "csr", frames={"w#col_idx": frames["w#col_idx"]})
    many = on("U8", (80, 300), [258], b"\5")
    pointers = [(0, 1), (1, 80), (0, 3 * 81)]
    frames = {"w#row_ptr": files.runs_frame(pointers)}
    cases.add("zstd-pointers", "FMT-140 FMT-065", text, {"w": many}, "csr", frames=frames)


def _read_only(cases: Files) -> None:
    """Add versions and features that a reader accepts and this writer does not write."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789-" * 2
    for name, change, clause in (
        ("minor-9999", {"spec": "1.9999"}, "FMT-042 FMT-160"),
        ("minor-10", {"spec": "1.10"}, "FMT-042 FMT-160"),
        ("features", {"optional": ["a", "a-", "a0", letters[:64], "b"]}, "FMT-044"),
    ):
        pieces = files.pieces({"w": F16})
        pieces.manifest |= change
        text = "a file refused for what a reader may ignore"
        answer = content({"w": F16}) | {"state": state({"w": F16})}
        cases.area.add(f"read-{name}", "file.read", clause, text, {"raw": raw_array(pieces.pack())}, answer)


AREAS = (edges,)
