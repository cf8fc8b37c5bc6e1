"""Cases of invalid files of chapter 12, each of which breaks one condition of a clause, or a limit by one."""

import struct
from collections.abc import Callable
from typing import Any

from conformance.gen.files import F16, FLAGS, on
from conformance.gen.files_refused import Edit, refuse, stored_as, with_data
from conformance.gen.numbers import Area
from conformance.oracle import files
from conformance.oracle.files import Pieces, Tensor

BYTE = Tensor("U8", (1,), b"\7")
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789-" * 2


def faults() -> Area:
    """Return cases of files that are refused, each because of one condition."""
    area = Area("file-fault", "bytes by chapter 12")
    _names(area)
    _texts(area)
    _headers(area)
    _counts(area)
    _bits(area)
    _gaps(area)
    _regular(area)
    _frames(area)
    _changes(area)
    return area


def _top(**change: Any) -> Edit:
    return lambda p: p.manifest.update(change)


def _names(area: Area) -> None:
    """Add files that break each condition of a name (FMT-009, FMT-010, FMT-012, FMT-016, FMT-044)."""
    for name, bad in (
        ("delete", "a\x7f"),
        ("unit", "\x1f"),
        ("hash", "\uff61#"),
        ("long-513", "\u00e9" * 256 + "a"),
        ("long-wide", "\U0001f600" * 128 + "a"),
    ):
        if name != "hash":
            refuse(area, f"name-{name}", "FMT-009", files.pieces({bad: BYTE}))
        if name in ("delete", "hash", "long-513"):
            refuse(area, f"tied-{name}", "FMT-009", files.pieces({"w": BYTE}, tied={bad: "w"}))
    refuse(area, "tied-empty", "FMT-009", files.pieces({"w": BYTE}, tied={"": "w"}))
    refuse(area, "tied-to-tied", "FMT-010", files.pieces({"w": BYTE}, tied={"a": "w", "b": "a"}))
    refuse(area, "tied-stored-too", "FMT-010", files.pieces({"v": BYTE, "w": BYTE}, tied={"v": "w"}))
    for name, kind in (
        ("long", _LETTERS[:65]),
        ("empty", ""),
        ("digit", "0a"),
        ("underscore", "a_b"),
        ("line", "model\n"),
    ):
        refuse(area, f"kind-{name}", "FMT-012", files.pieces({"w": BYTE}, kind=kind))
        refuse(area, f"feature-{name}", "FMT-044", files.pieces({"w": BYTE}), _top(optional=[kind]))
    role = _LETTERS.replace("-", "_")
    for name, bad in (("long", role[:65]), ("digit", "0a"), ("hyphen", "a-b")):
        refuse(area, f"role-{name}", "FMT-016", files.pieces({"v": BYTE, "w": BYTE}, scales={"w": {bad: "v"}}))
    refuse(area, "scale-of-tied", "FMT-016", files.pieces({"w": BYTE}, tied={"a": "w"}, scales={"a": {"scale": "w"}}))
    refuse(area, "scale-to-tied", "FMT-016", files.pieces({"w": BYTE}, tied={"a": "w"}, scales={"w": {"scale": "a"}}))


def _texts(area: Area) -> None:
    """Add spellings of the manifest that a lenient reader accepts (FMT-024 to FMT-028)."""
    keys = {"\U0001f600": 1, "\uff61": 2}
    good = files.pieces({"w": BYTE}, attributes={"a": "\n/\x01\U0001f600\xe9", "n": 10})
    manifest = files.text(good.manifest)
    for name, clause, old, new in (
        ("slash", "FMT-028", "/", "\\/"),
        ("line-feed", "FMT-028", "\\n", "\\u000a"),
        ("capital-hex", "FMT-028", "\\u0001", "\\u0001\\u001F"),
        ("surrogates", "FMT-028", "\U0001f600", "\\ud83d\\ude00"),
        ("leading-zero", "FMT-024", '"n":10', '"n":010'),
        ("nan", "FMT-024 FMT-026", '"n":10', '"n":NaN'),
        ("minus-large", "FMT-026", '"n":10', f'"n":-{2**53}'),
        ("raw-control", "FMT-024", "\\u0001", "\x01"),
        ("line-end", "FMT-028", "END", "\n"),
        ("text-behind", "FMT-024", "END", "{}"),
        ("mark", "FMT-024", "START", "\ufeff"),
        ("twice-inside", "FMT-025", '"n":10', '"n":10,"n":10'),
        ("deep-objects", "FMT-027", '"n":10', '"n":' + '{"a":' * 14 + "{}" + "}" * 14),
        ("list", "FMT-041 FMT-040 FMT-024", "WHOLE", "[]"),
    ):
        respelt = {"START": new + manifest, "END": manifest + new, "WHOLE": new}.get(old, manifest.replace(old, new))
        assert respelt != manifest, name
        refuse(area, f"text-{name}", clause, files.assemble(respelt, good.sections))
    turned = files.text(files.pieces({"w": BYTE}, attributes=keys).manifest)
    pairs = '"\uff61":2', '"\U0001f600":1'
    assert ",".join(pairs) in turned
    turned = turned.replace(",".join(pairs), ",".join(reversed(pairs)))
    refuse(area, "text-utf-16-order", "FMT-028", files.assemble(turned, good.sections))


def _headers(area: Area) -> None:
    """Add faults of the header that no other case has alone (FMT-020 to FMT-034)."""
    good = files.pieces({"v": BYTE, "w": FLAGS})
    manifest = files.text(good.manifest)
    changes: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
        "no-format": ("FMT-029", lambda h: h["__metadata__"].pop("format")),
        "digest-capitals": ("FMT-093 FMT-047", _capital_digest),
        "manifest-number": ("FMT-029", lambda h: h["__metadata__"].update({"seft.manifest": 1})),
        "three-offsets": ("FMT-030 FMT-034", lambda h: h["v#values"].update(data_offsets=[0, 1, 1])),
        "offset-true": ("FMT-030", lambda h: h["v#values"].update(data_offsets=[False, True])),
        "shape-true": ("FMT-030", lambda h: h["v#values"].update(shape=[True])),
        "dtype-name": ("FMT-006 FMT-030", lambda h: h["v#values"].update(dtype="u8")),
        "pad-dtype": ("FMT-034 FMT-033", lambda h: h["v#values#pad"].update(dtype="I8")),
        "pad-shape": ("FMT-034 FMT-033", lambda h: h["v#values#pad"].update(shape=[1, 63])),
        "last-pad-missing": ("FMT-031 FMT-034 FMT-032", lambda h: h.pop("w#values#pad")),
        "values-rank": ("FMT-033", lambda h: h["w#values"].update(shape=[3, 1])),
        "no-tensor": ("FMT-032", lambda h: h.update({"x": {"data_offsets": [0, 0], "dtype": "U8", "shape": [0]}})),
    }
    for name, (clause, change) in changes.items():
        refuse(area, f"header-{name}", clause, files.assemble(manifest, good.sections, change=change))
    raw = good.pack()
    (n,) = struct.unpack("<Q", raw[:8])
    text, data = raw[8 : 8 + n].rstrip(b" "), raw[8 + n :]
    for name, clause, old, new in (
        ("space", "FMT-028", b'"dtype":"U8"', b'"dtype": "U8"'),
        ("twice", "FMT-025", b'"dtype":"U8"', b'"dtype":"U8","dtype":"U8"'),
        ("number", "FMT-026", b"[0,1]", b"[0,1.0]"),
        ("no-json", "FMT-024", b"[0,1]", b"[0,1"),
    ):
        assert old in text
        changed = text.replace(old, new, 1)
        refuse(area, f"header-text-{name}", clause, struct.pack("<Q", n) + changed.ljust(n) + data)
    refuse(area, "header-tab", "FMT-023 FMT-024 FMT-028", struct.pack("<Q", n) + text + b"\t" * (n - len(text)) + data)
    refuse(area, "no-header", "FMT-022 FMT-023", bytes(8))
    # 8 + n is a multiple of 64 but no power of two
    refuse(area, "header-1536", "FMT-022", struct.pack("<Q", 1528) + text.ljust(1528) + data)
    places = {"first": n + 9, "last": n + 71, "second-tensor": n + 75}
    for name, at in places.items():
        assert raw[at] == 0
        refuse(area, f"pad-{name}", "FMT-036", raw[:at] + b"\x80" + raw[at + 1 :])


def _capital_digest(header: dict[str, Any]) -> None:
    own = header["__metadata__"]
    own["seft.manifest.sha256"] = own["seft.manifest.sha256"].upper()


def _counts(area: Area) -> None:
    """Add wrong counts, sizes, digests, versions and features (FMT-007, FMT-040 to FMT-049)."""
    one = files.pieces({"w": BYTE})
    entry = one.manifest["tensors"]["w"]
    later = _top(spec="1.7", requires=["time-travel"], note="", tensors={"w": entry | {"dtype": "F1"}})
    for name, clause, edit in (
        ("version-10000", "FMT-042", _top(spec="1.10000")),
        ("version-01", "FMT-042", _top(spec="1.01")),
        # only FMT-043 is right, because a reader checks `spec` and `requires` before any other key (FMT-042)
        ("later-first", "FMT-043", later),
        ("feature-again", "FMT-044", _top(optional=["a", "a"])),
        ("requires-unsorted", "FMT-044 FMT-043", _top(requires=["zstd", "delta"])),
        ("feature-number", "FMT-044 FMT-041", _top(optional=[1])),
        ("part-2", "FMT-048", _top(part=2)),
        ("tied-list", "FMT-041", _top(tied=[])),
        ("attributes-list", "FMT-041", _top(attributes=[])),
        ("attributes-text", "FMT-041", _top(attributes="")),
        ("digest-g", "FMT-047", lambda p: p.manifest["tensors"]["w"].update(content_sha256="g" * 64)),
        ("section-capitals", "FMT-047", stored_as("values", sha256="A" * 64)),
        ("dtype-none", "FMT-017 FMT-031", lambda p: p.manifest["tensors"]["w"].update(dtype="NONE")),
        ("delta-key", "FMT-040 FMT-130", _top(delta=None)),
    ):
        refuse(area, name, clause, one, edit, shows="FMT-042" if name == "later-first" else "")
    for name, shape in (("2-53", [0, 2, 2**52]), ("wraps", [0, 2**32, 2**32]), ("mixed", [2**27, 0, 2**26])):
        refuse(area, f"shape-{name}", "FMT-007", files.pieces({"w": Tensor("U8", (0,), b"")}), _shaped(shape))
    broad = Tensor("F32", (0, 2**31), b"", ())
    refuse(area, "broad-empty", "FMT-008", files.pieces({"w": broad}, {"w": "csr"}))


def _shaped(shape: list[int]) -> Edit:
    def edit(p: Pieces) -> None:
        p.manifest["tensors"]["w"]["shape"] = p.sections[0].shape = shape

    return edit


def _bits(area: Area) -> None:
    """Add wrong bits in the first row, or in one encoding only (FMT-062, FMT-063, FMT-070, FMT-072)."""
    rows = files.pieces({"w": on("U8", (3, 3), [0, 4, 8])}, {"w": "bitmask"})
    for name, clause, data in (
        # the first two have as many set bits as before, so that they break no other rule
        ("tail-first-row", "FMT-062", b"\x08\x02\x04"),
        ("tail-middle-row", "FMT-062", b"\x01\x80\x04"),
        ("one-more", "FMT-063", b"\x03\x02\x04"),
    ):
        refuse(area, f"mask-{name}", clause, rows, with_data("mask", data))
    flags = on("BOOL", (2, 4), [0, 3, 6], b"\1\0\1")
    for encoding in ("bitmask", "csr", "gap8"):
        good = files.pieces({"w": flags}, {"w": encoding})
        refuse(area, f"bool-{encoding}", "FMT-070", good, with_data("values", b"\1\0\2"))
    for name, data in (("255", b"\1\0\xff"), ("128", b"\x80\0\1")):
        refuse(area, f"bool-{name}", "FMT-070", files.pieces({"w": FLAGS}), with_data("values", data))
    six = files.pieces({"w": on("F6_E2M3", (2, 4), [0, 3, 6], b"\x42\x0a\x01")}, {"w": "csr"})
    refuse(area, "six-spare", "FMT-072", six, with_data("values", b"\x42\x0a\x05"))
    regular = files.pieces({"w": on("U8", (2, 8), [0, 2, 6, 7, 9, 10, 12, 15], pattern=(2, 4, 1))}, {"w": "nm"})
    refuse(area, "ranks-first-row", "FMT-072", regular, with_data("ranks", b"\x69\x1a"))


def _gaps(area: Area) -> None:
    """Add rows, lengths and positions beyond their limits (FMT-056 to FMT-059, FMT-073).

    Files of many rows within the limit are refused under another clause, which shows that FMT-056 let them pass.
    """
    for rows, slots in ((65537, 0), (131073, 1), (2**20, 14), (2**20 + 1, 16)):
        shape = (rows, 0) if not slots else (rows, 1)
        for encoding in ("gap8", "varint") if slots in (0, 16) else ("gap8",):
            few = files.pieces({"w": on("U8", shape, list(range(slots)))}, {"w": encoding})
            refuse(area, f"{encoding}-rows-{rows}-{slots}", "FMT-056", few)
    for rows, slots in ((131072, 1), (2**20, 15)):
        for encoding in ("gap8", "varint") if slots == 1 else ("gap8",):
            most = files.pieces({"w": on("U8", (rows, 1), list(range(slots)))}, {"w": encoding})
            high = most.manifest["tensors"]["w"]["nnz"] + 1
            refuse(area, f"{encoding}-kept-{rows}", "FMT-049 FMT-057 FMT-033", most, _with_nnz(high), shows="FMT-056")
    # 256 gaps of 2^56 - 1 are 256 steps of 2^56, which lead back to the start modulo 2^64
    wraps = files.pieces({"w": on("NONE", (1, 2**11), list(range(257)))}, {"w": "varint"})
    gaps = (b"\xff" * 7 + b"\x7f") * 256 + b"\5"
    refuse(area, "varint-comes-back", "FMT-059", wraps, with_data("gaps", gaps))
    ends = files.pieces({"w": on("U8", (1, 600), [599])}, {"w": "gap8"})
    refuse(area, "gap8-at-end", "FMT-059", ends, with_data("gaps", b"\xff\xff\x5a"))
    two = files.pieces({"w": on("U8", (1, 600), [598])}, {"w": "varint"})
    refuse(area, "varint-at-end", "FMT-059", two, with_data("gaps", b"\xd8\x04"))
    eight = files.pieces({"w": on("U8", (1, 600), [300])}, {"w": "varint"})
    refuse(area, "varint-8-bytes", "FMT-059", eight, with_data("gaps", b"\xff" * 7 + b"\x7f"), shows="FMT-057")
    refuse(area, "varint-9-of-8", "FMT-057", eight, with_data("gaps", b"\xff" * 8 + b"\x7f"))


def _with_nnz(nnz: int) -> Edit:
    return lambda p: p.manifest["tensors"]["w"].update(nnz=nnz)


def _regular(area: Area) -> None:
    """Add patterns that break each condition of FMT-051, with sections that fit them."""
    for name, shape, at, pattern in (
        ("m-65", (1, 65), [64], (1, 65, 1)),
        ("n-m", (1, 4), [0, 1, 2, 3], (4, 4, 1)),
        ("n-0", (1, 4), [], (0, 4, 1)),
        ("no-rows", (0, 4), [], (2, 4, 1)),
        ("no-columns", (4, 0), [], (2, 4, 0)),
    ):
        good = files.pieces({"w": on("U8", shape, at, pattern=pattern)}, {"w": "nm"})
        refuse(area, f"nm-{name}", "FMT-051", good)
    rest = files.pieces({"w": on("U8", (2, 4), [0, 1, 4, 5], pattern=(2, 4, 1))}, {"w": "nm"})

    def longer(p: Pieces) -> None:
        p.manifest["tensors"]["w"] |= {"shape": [2, 6], "nnz": 6}
        with_data("values", bytes(6))(p)

    refuse(area, "nm-rest", "FMT-051", rest, longer)


def _frames(area: Area) -> None:
    """Add frames with one fault each (FMT-141, FMT-142)."""

    def framed(name: str, clause: str, size: int, frame: bytes) -> None:
        ones = Tensor("U8", (size,), b"\1" * size)
        refuse(area, f"zstd-{name}", clause, files.pieces({"w": ones}, frames={"w#values": frame}))

    framed("equal", "FMT-141", 13, files.rle_frame(13, 1))
    framed("longer", "FMT-141", 12, files.rle_frame(12, 1))
    framed("1025-times", "FMT-141", 13 * 1024 + 1, files.rle_frame(13 * 1024 + 1, 1))
    size, good = 240, files.rle_frame(240, 1)
    magic, block = good[:4], good[9:]
    length = struct.pack("<I", size)
    framed("checksum", "FMT-142", size, magic + b"\xa4" + length + block + bytes.fromhex(_CHECKSUM))
    framed("dictionary", "FMT-142", size, magic + b"\xa1\x07" + length + block)
    framed("no-size", "FMT-142", size, magic + b"\x00\x00" + block)
    framed("skippable", "FMT-142", size, struct.pack("<II", 0x184D2A50, 0) + good)
    framed("two", "FMT-142", size, files.rle_frame(120, 1) * 2)
    framed("skippable-behind", "FMT-142", size, good + struct.pack("<II", 0x184D2A50, 0))
    # descriptors of windows: 1 GiB and an eighth, and 1 KiB, which is also the most that a compressed block becomes
    framed("window", "FMT-142", size, magic + b"\x80\xa1" + length + block)
    framed("block-above-window", "FMT-142", 4096, windowed([4096]))


def windowed(sizes: list[int]) -> bytes:
    """Return a zstd frame with a window of 1 KiB, of compressed blocks of equal literals of 1 (RFC 8878, 3.1.1.3.1)."""
    out = struct.pack("<IBBI", 0xFD2FB528, 0x80, 0, sum(sizes))
    for i, n in enumerate(sizes):
        literals = (1 | 3 << 2 | n << 4).to_bytes(3, "little") + b"\1\0"
        out += ((i == len(sizes) - 1) | 2 << 1 | len(literals) << 3).to_bytes(3, "little") + literals
    return out


_CHECKSUM = "b4fba65f"
"""The checksum of 240 bytes of 1 as every zstd library writes it: the low half of XXH64."""


def _changes(area: Area) -> None:
    """Add deltas with operations that exclude each other, or a wrong description of the target (FMT-130 to FMT-132)."""
    one, two = "1" * 64, "2" * 64
    mask = on("NONE", (2, 3), [1])

    def delta(name: str, clause: str, stored: dict[str, Tensor], ends: Any, edit: Edit = lambda _: None) -> None:
        tensors = {n: {"base": base, "target": target} for n, (base, target) in ends.items()}
        described = {"base_sha256": one, "scales": {}, "target_sha256": two, "tensors": tensors, "tied": {}}
        refuse(area, f"delta-{name}", clause, files.pieces(stored, kind="delta", delta=described), edit)

    changes, good = {"w": (one, two)}, {"replace:w": F16}
    delta("add-and-replace", "FMT-132", {"add:w": F16, "replace:w": F16}, changes)
    delta("whole-and-replace", "FMT-132", {"whole:w": F16, "replace:w": F16}, changes)
    delta("new-added", "FMT-132", {"add:w": F16}, {"w": (None, two)})
    delta("gone-removed", "FMT-132", {"remove:w": mask}, {"w": (one, None)})
    delta("none-both", "FMT-131", {}, {"w": (None, None)})
    delta("no-colon", "FMT-132 FMT-009", {"replace": F16}, {"": (one, two)})
    delta("long-name", "FMT-009", {"replace:" + "a" * 505: F16}, {"a" * 505: (one, two)})
    own = _top(scales={"replace:w": {"scale": "replace:v"}})
    delta("own-scales", "FMT-130", {**good, "replace:v": F16}, {**changes, "v": (one, two)}, own)
    for name, clause, change in (
        ("scale-empty", "FMT-016 FMT-131", {"scales": {"w": {}}}),
        ("scale-itself", "FMT-016 FMT-131", {"scales": {"w": {"scale": "w"}}}),
        ("scale-name", "FMT-009 FMT-131", {"scales": {"w": {"scale": "a\n"}}}),
        ("tied-name", "FMT-009 FMT-131", {"tied": {"a": "b\x7f"}}),
        ("target-digest", "FMT-047", {"target_sha256": "A" * 64}),
    ):
        delta(name, clause, good, changes, lambda p, c=change: p.manifest["delta"].update(c))  # type: ignore[misc]


AREAS = (faults,)
