"""Invalid files of chapter 12: for each rule a file that differs from a valid one, its twin, by one edit."""

import copy
import struct
from collections.abc import Callable
from typing import Any

from conformance.gen.files import F16, FLAGS, WIDE, on, raw_array
from conformance.gen.numbers import Area
from conformance.oracle import files
from conformance.oracle.files import Pieces, Section, Tensor

Edit = Callable[[Pieces], Any]


def _tensor(**change: Any) -> Edit:
    return lambda p: p.manifest["tensors"]["w"].update(change)


def _top(**change: Any) -> Edit:
    return lambda p: p.manifest.update(change)


def stored_as(role: str, **change: Any) -> Edit:
    """Return an edit that changes the entry of a section of `w` in the manifest."""
    return lambda p: p.manifest["tensors"]["w"]["sections"][role].update(change)


def with_data(role: str, data: bytes) -> Edit:
    """Return an edit that gives a section of `w` other bytes, with their size and digest."""

    def edit(p: Pieces) -> None:
        section = next(s for s in p.sections if s.name == f"w#{role}")
        if len(data) != len(section.data):
            section.shape = [len(data)]
        section.data = data
        p.manifest["tensors"]["w"]["sections"][role] = files.stored(section)

    return edit


def _section(index: int, **change: Any) -> Edit:
    def edit(p: Pieces) -> None:
        for name, value in change.items():
            setattr(p.sections[index], name, value)

    return edit


def broken() -> Area:
    """Return cases of files that are refused, each because of one edit."""
    area = Area("file-refused", "bytes by chapter 12")
    _manifests_and_data(area)
    _encodings(area)
    _frames(area)
    _deltas(area)
    return area


def _manifests_and_data(area: Area) -> None:
    mask, csr = files.pieces({"w": F16}, {"w": "bitmask"}), files.pieces({"w": WIDE}, {"w": "csr"})
    flags = files.pieces({"w": FLAGS})
    u16, u32 = "<2H", "<4I"
    edits: list[tuple[str, str, Pieces, Edit]] = [
        ("key-missing", "FMT-040", mask, lambda p: p.manifest.pop("tied")),
        ("key-extra", "FMT-040", mask, _top(note="")),
        ("tensor-key-extra", "FMT-040", mask, _tensor(note="")),
        ("nnz-true", "FMT-041", mask, _tensor(nnz=True)),
        ("nnz-negative", "FMT-041 FMT-046", mask, _tensor(nnz=-1)),
        ("part-text", "FMT-041", mask, _top(part="0")),
        ("spec-major", "FMT-042", mask, _top(spec="2.0")),
        ("spec-zeros", "FMT-042", mask, _top(spec="1.00")),
        ("requires", "FMT-043", mask, _top(requires=["time-travel"])),
        ("requires-unused", "FMT-050", mask, _top(requires=["zstd"])),
        ("requires-delta", "FMT-050", mask, _top(requires=["delta"])),
        ("stored-key", "FMT-040 FMT-049", mask, stored_as("mask", note="")),
        ("features-unsorted", "FMT-044", mask, _top(optional=["b", "a"])),
        ("feature-name", "FMT-044", mask, _top(optional=["Zstd"])),
        ("encoding", "FMT-045", mask, _tensor(encoding="coo")),
        ("nnz-above-size", "FMT-046 FMT-049 FMT-033", mask, _tensor(nnz=7)),
        ("dense-nnz", "FMT-046", flags, _tensor(nnz=2)),
        ("digest-upper-case", "FMT-047", mask, _tensor(content_sha256="A" * 64)),
        ("digest-short", "FMT-047", mask, _tensor(content_sha256="a" * 63)),
        ("part-1", "FMT-048", mask, _top(part=1)),
        ("dtype", "FMT-006", mask, _tensor(dtype="F15")),
        ("nine-dimensions", "FMT-007", flags, _tensor(shape=[3, *[1] * 8])),
        ("shape-product", "FMT-007", flags, _tensor(shape=[0, 2**27, 2**27])),
        ("section-bytes", "FMT-049", mask, stored_as("mask", bytes=3)),
        ("section-bytes-text", "FMT-041", mask, stored_as("mask", bytes="2")),
        ("nnz-below", "FMT-049 FMT-033 FMT-063", mask, _tensor(nnz=2)),
        ("feature-twice", "FMT-044", mask, _top(requires=["zstd"], optional=["zstd"])),
        ("scale-of-nothing", "FMT-016", mask, _top(scales={"b": {"scale": "w"}})),
        ("scale-not-stored", "FMT-016", mask, _top(scales={"w": {"scale": "b"}})),
        ("scale-itself", "FMT-016", mask, _top(scales={"w": {"scale": "w"}})),
        ("scale-empty", "FMT-016", mask, _top(scales={"w": {}})),
        ("scale-text", "FMT-041", mask, _top(scales={"w": "b"})),
        ("dense-mask", "FMT-017", files.pieces({"w": Tensor("NONE", (4,), b"")}, {"w": "dense"}), lambda _: None),
        ("tied-to-nothing", "FMT-010", mask, _top(tied={"a": "b"})),
        ("tied-and-stored", "FMT-010", mask, _top(tied={"w": "w"})),
        ("kind", "FMT-012", mask, _top(kind="Model")),
        ("companions", "FMT-013 FMT-102", mask, _top(files={"config.json": {"bytes": 1, "sha256": "a" * 64}})),
        ("section-missing", "FMT-031", mask, lambda p: p.sections.pop()),
        ("section-extra", "FMT-032", mask, lambda p: p.sections.append(Section("x#values", "U8", [64], bytes(64)))),
        ("section-dtype", "FMT-033", mask, _section(1, dtype="BF16")),
        ("section-shape", "FMT-033", mask, _section(1, shape=[1, 3])),
        ("section-order", "FMT-034", mask, lambda p: p.sections.reverse()),
        ("pad", "FMT-036", mask, lambda p: setattr(p, "pad", b"\1")),
        ("mask-tail", "FMT-062 FMT-063", mask, with_data("mask", b"\x05\x0a")),
        ("mask-tail-only", "FMT-062", mask, with_data("mask", b"\x05\x08")),
        ("mask-count", "FMT-063", mask, with_data("mask", b"\x05\x00")),
        ("first-pointer", "FMT-066", csr, with_data("row_ptr", struct.pack(u32, 1, 1, 1, 2))),
        ("last-pointer", "FMT-066", csr, with_data("row_ptr", struct.pack(u32, 0, 1, 1, 1))),
        ("pointers-fall", "FMT-067 FMT-069", csr, with_data("row_ptr", struct.pack(u32, 0, 2, 1, 2))),
        ("pointers-wrap", "FMT-067", csr, with_data("row_ptr", struct.pack(u32, 0, 2**32 - 1, 1, 2))),
        ("column-high", "FMT-068", csr, with_data("col_idx", struct.pack(u16, 40, 1))),
        ("columns-unsorted", "FMT-069", csr, with_data("row_ptr", struct.pack(u32, 0, 2, 2, 2))),
        ("bool", "FMT-070", flags, with_data("values", b"\1\2\1")),
        (
            "section-digest",
            "FMT-090",
            mask,
            lambda p: p.manifest["tensors"]["w"]["sections"]["mask"].update(sha256="0" * 64),
        ),
        ("content-digest", "FMT-091", mask, _tensor(content_sha256="0" * 64)),
    ]
    for name, clause, good, edit in edits:
        refuse(area, name, clause, good, edit)
    same = copy.deepcopy(csr)
    with_data("col_idx", struct.pack(u16, 9, 9))(same)
    with_data("row_ptr", struct.pack(u32, 0, 2, 2, 2))(same)
    refuse(area, "columns-repeated", "FMT-069", same.pack())
    no_columns = Tensor("F32", (3, 0), b"", ())
    refuse(area, "mask-no-columns", "FMT-064", files.pieces({"w": no_columns}, {"w": "bitmask"}).pack())
    broad = Tensor("F32", (3, 2**31), b"", ())
    refuse(area, "broad", "FMT-008", files.pieces({"w": broad}, {"w": "csr"}).pack())
    point = files.pieces({"w": Tensor("F32", (1,), b"", ())}, {"w": "bitmask"})
    refuse(area, "no-axis", "FMT-008", point, _tensor(shape=[]))
    for name, bad in (("name-empty", ""), ("name-control", "a\n"), ("name-long", "a" * 513)):
        refuse(area, name, "FMT-009", files.pieces({bad: FLAGS}).pack())
    _bad_headers(area, mask)


def _encodings(area: Area) -> None:
    """Add faults of patterns, gaps and packed values; twins are read-nm-2-4-axis-1, read-gap8-cube and so on."""
    regular = on("U8", (2, 8), [0, 2, 6, 7, 9, 10, 12, 15], pattern=(2, 4, 1))
    nm = files.pieces({"w": regular}, {"w": "nm"})
    support = [1, 602, 603]  # the gaps are 1, 600 and 0
    gap8, varint = (files.pieces({"w": on("U8", (3, 400), support)}, {"w": e}) for e in ("gap8", "varint"))
    small = files.pieces({"w": Tensor("F4", (3,), b"\x42\x0a")})
    far = bytes([255] * 7 + [127])

    def pattern(**change: Any) -> Edit:
        return lambda p: p.manifest["tensors"]["w"]["pattern"].update(change)

    for name, clause, good, edit in (
        ("nm-axis", "FMT-051", nm, pattern(axis=2)),
        ("nm-m-65", "FMT-051", nm, pattern(m=65)),
        ("nm-m-1", "FMT-051", nm, pattern(m=1, n=1)),
        ("nm-n-0", "FMT-051", nm, pattern(n=0)),
        ("nm-n-m", "FMT-051", nm, pattern(n=4)),
        ("nm-m-divides", "FMT-051", nm, pattern(m=3)),
        ("nm-count", "FMT-051", nm, pattern(n=1)),
        ("nm-no-pattern", "FMT-040", nm, lambda p: p.manifest["tensors"]["w"].pop("pattern")),
        ("nm-pattern-key", "FMT-040 FMT-051", nm, pattern(k=1)),
        ("nm-pattern-text", "FMT-041 FMT-051", nm, pattern(n="2")),
        ("pattern-elsewhere", "FMT-040", gap8, _tensor(pattern={"axis": 1, "m": 4, "n": 2})),
        ("nm-rank", "FMT-053", nm, with_data("ranks", b"\x29\x32")),
        ("nm-spare", "FMT-072", nm, with_data("ranks", b"\x29\x5a")),
        ("small-spare", "FMT-072", small, with_data("values", b"\x42\x1a")),
        ("gap8-rows", "FMT-056", files.pieces({"w": on("U8", (2**20 + 1, 1), [0])}, {"w": "gap8"}), lambda _: None),
        ("varint-rows", "FMT-056", files.pieces({"w": on("U8", (2**20 + 1, 1), [0])}, {"w": "varint"}), lambda _: None),
        ("gap8-short", "FMT-057", gap8, with_data("gaps", b"\1\2")),
        ("gap8-long", "FMT-057", gap8, with_data("gaps", b"\1" + b"\xff" * 5 + b"\0\0")),
        ("varint-short", "FMT-057", varint, with_data("gaps", b"\1\2")),
        ("varint-long", "FMT-057", varint, with_data("gaps", b"\x80" * 24 + b"\1")),
        ("gap8-many", "FMT-058", gap8, with_data("gaps", b"\1\xff\2\0\0")),
        ("gap8-few", "FMT-058", gap8, with_data("gaps", b"\1\xff\xff\xff\0")),
        ("gap8-end", "FMT-058", gap8, with_data("gaps", b"\1\xff\x5a\0\xff")),
        ("varint-many", "FMT-058", varint, with_data("gaps", b"\1\2\4\0")),
        ("varint-few", "FMT-058", varint, with_data("gaps", b"\1\xd8\x84\1")),
        ("varint-end", "FMT-058", varint, with_data("gaps", b"\1\2\4\x80")),
        ("gap8-outside", "FMT-059", gap8, with_data("gaps", b"\1\xff\xff\xff\xff\xb1\0")),
        ("varint-outside", "FMT-059", varint, with_data("gaps", b"\1\xad\x09\0")),
        ("varint-far", "FMT-059", varint, with_data("gaps", far * 3)),
        ("varint-minimal", "FMT-073", varint, with_data("gaps", b"\1\xd8\x84\0\0")),
        ("varint-9-bytes", "FMT-073", varint, with_data("gaps", b"\1" + b"\x80" * 8 + b"\1\0")),
    ):
        refuse(area, name, clause, good, edit)
    wraps = on("NONE", (1, 2**11), list(range(300)))
    many = files.pieces({"w": wraps}, {"w": "varint"})
    refuse(area, "varint-wraps", "FMT-059", many, with_data("gaps", far * 300))


def _frames(area: Area) -> None:
    """Add faults of compressed sections; the twin is read-zstd-bitmask."""
    ones = on("F32", (4, 300), [7 * i for i in range(60)], b"\1" * 240)

    def framed(name: str, clause: str, frame: bytes, edit: Edit = lambda _: None) -> None:
        refuse(area, name, clause, files.pieces({"w": ones}, {"w": "bitmask"}, frames={"w#values": frame}), edit)

    good = files.rle_frame(240, 1)
    framed("zstd-no-frame", "FMT-142", b"no frame")
    framed("zstd-size", "FMT-142", files.rle_frame(241, 1))
    framed("zstd-follows", "FMT-142", good + b"\0")
    framed("zstd-cut", "FMT-142", good[:-1])
    framed("zstd-word", "FMT-142", good[:9] + (1 | 1 << 1 | 239 << 3).to_bytes(3, "little") + b"\1")
    framed("zstd-not-smaller", "FMT-141", good.ljust(240, b"\0"))
    framed("zstd-too-small", "FMT-141 FMT-049", good, stored_as("values", raw_bytes=2**20))
    framed("zstd-silent", "FMT-050", good, _top(requires=[]))
    framed("zstd-codec", "FMT-043 FMT-140", good, stored_as("values", codec="lz4"))
    framed("zstd-no-codec", "FMT-040", good, lambda p: p.manifest["tensors"]["w"]["sections"]["values"].pop("codec"))
    framed("zstd-raw-bytes", "FMT-049", good, stored_as("values", raw_bytes=239))


def _deltas(area: Area) -> None:
    """Add deltas whose description does not fit what they store; the twin is read-delta."""
    one, two = "1" * 64, "2" * 64
    mask = on("NONE", (2, 3), [1])

    def delta(
        name: str, clause: str, stored: dict[str, Tensor], listed: dict[str, Any], edit: Edit = lambda _: None
    ) -> None:
        ends = {n: {"base": base, "target": target} for n, (base, target) in listed.items()}
        described = {"base_sha256": one, "scales": {}, "target_sha256": two, "tensors": ends, "tied": {}}
        refuse(area, f"delta-{name}", clause, files.pieces(stored, kind="delta", delta=described), edit)

    changes = {"w": (one, two)}
    good = {"replace:w": F16}
    delta("no-operation", "FMT-132", {"w": F16}, changes)
    delta("unknown-operation", "FMT-132", {"xor:w": F16}, changes)
    delta("unlisted", "FMT-132", {**good, "replace:v": F16}, changes)
    delta("not-stored", "FMT-132", {}, changes)
    delta("equal", "FMT-131", good, {"w": (one, one)})
    delta("new-not-whole", "FMT-132", good, {"w": (None, two)})
    delta("gone-and-stored", "FMT-132", {"whole:w": F16}, {"w": (one, None)})
    delta("whole-and-more", "FMT-132", {"whole:w": F16, "remove:w": mask}, changes)
    delta("add-and-more", "FMT-132", {"add:w": F16, "remove:w": mask}, changes)
    delta("own-ties", "FMT-130", good, changes, _top(tied={"a": "replace:w"}))
    delta(
        "target-tied-to-itself", "FMT-010 FMT-131", good, changes, lambda p: p.manifest["delta"].update(tied={"a": "a"})
    )
    delta("target-name", "FMT-009 FMT-131", good, changes, lambda p: p.manifest["delta"].update(tied={"a#": "b"}))
    delta(
        "target-role", "FMT-016 FMT-131", good, changes, lambda p: p.manifest["delta"].update(scales={"w": {"": "b"}})
    )
    delta("no-description", "FMT-040 FMT-130", good, changes, lambda p: p.manifest.pop("delta"))
    delta("another-kind", "FMT-040 FMT-130", good, changes, _top(kind="model", requires=[]))
    delta("silent", "FMT-050", good, changes, _top(requires=[]))
    delta("key", "FMT-040 FMT-131", good, changes, lambda p: p.manifest["delta"].update(note=""))
    delta("digest", "FMT-047", good, changes, lambda p: p.manifest["delta"].update(base_sha256="0"))
    delta("name", "FMT-009", {"whole:a\n": F16}, {"a\n": (None, two)})


def _bad_headers(area: Area, good: Pieces) -> None:
    raw, manifest = good.pack(), files.text(good.manifest)
    n = struct.unpack("<Q", raw[:8])[0]
    for name, clause, bad in (
        ("short", "FMT-020", raw[:7]),
        ("no-bytes", "FMT-020", b""),
        ("header-beyond", "FMT-021", struct.pack("<Q", len(raw)) + raw[8:]),
        ("header-huge", "FMT-021", struct.pack("<Q", 2**63) + raw[8:]),
        ("header-cut", "FMT-021", raw[: 8 + n // 2]),
        ("unaligned", "FMT-022", struct.pack("<Q", n + 8) + raw[8:]),
        ("small-header", "FMT-022", struct.pack("<Q", 504) + raw[8:]),
        ("spaces", "FMT-023", struct.pack("<Q", 2 * n + 8) + raw[8 : 8 + n].ljust(2 * n + 8) + raw[8 + n :]),
        ("space-first", "FMT-023", raw[:8] + b" " + raw[8 : 7 + n] + raw[8 + n :]),
        ("nul-fill", "FMT-023 FMT-024 FMT-028", raw[: 8 + n].rstrip(b" ").ljust(8 + n, b"\0") + raw[8 + n :]),
        ("data-cut", "FMT-035 FMT-034", raw[:-1]),
        ("data-more", "FMT-035 FMT-032", raw + b"\0"),
    ):
        refuse(area, name, clause, bad)
    spelled = {
        "twice": ("FMT-025", manifest.replace('"part":0', '"part":0,"part":0')),
        "fraction": ("FMT-026", manifest.replace('"part":0', '"part":0.0')),
        "exponent": ("FMT-026", manifest.replace('"part":0', '"part":0e0')),
        "large-number": ("FMT-026", manifest.replace('"attributes":{}', f'"attributes":{{"a":{2**53}}}')),
        "deep": ("FMT-027", manifest.replace('"attributes":{}', f'"attributes":{{"a":{"[" * 15}{"]" * 15}}}')),
        "space": ("FMT-028", manifest.replace('"part":0', '"part": 0')),
        "minus-zero": ("FMT-028", manifest.replace('"part":0', '"part":-0')),
        "unsorted": ("FMT-028", manifest.replace('"kind":"model","optional":[]', '"optional":[],"kind":"model"')),
        "escape": ("FMT-028", manifest.replace('"kind":"model"', '"kind":"mode\\u006c"')),
    }
    for name, (clause, bad_text) in spelled.items():
        assert bad_text != manifest, name
        refuse(area, f"json-{name}", clause, files.assemble(bad_text, good.sections))
    changes: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
        "metadata-extra": ("FMT-029", lambda h: h["__metadata__"].update(note="")),
        "format": ("FMT-029", lambda h: h["__metadata__"].update(format="np")),
        "no-metadata": ("FMT-029", lambda h: h.pop("__metadata__")),
        "section-key": ("FMT-030", lambda h: h["w#mask"].update(note="")),
        "section-no-shape": ("FMT-030", lambda h: h["w#mask"].pop("shape")),
        "manifest-digest": ("FMT-093", lambda h: h["__metadata__"].update({"seft.manifest.sha256": "0" * 64})),
        "overlap": ("FMT-034", lambda h: h["w#values"].update(data_offsets=[0, 6])),
        "hole": ("FMT-034 FMT-031", lambda h: h.pop("w#mask#pad")),
    }
    for name, (clause, change) in changes.items():
        refuse(area, name, clause, files.assemble(manifest, good.sections, change=change))
    latin = raw.replace(b'"kind', b'"\xffind', 1).replace(b'\\"kind', b'\\"\xffind', 1)
    refuse(area, "not-utf-8", "FMT-024", latin)


def refuse(
    area: Area, name: str, clause: str, good: bytes | Pieces, edit: Edit = lambda _: None, *, shows: str = ""
) -> None:
    """Add a file that breaks the first of the clauses; a reader may name any of them.

    shows  further clauses that the case tests, such as a limit that the file keeps
    """
    if isinstance(good, Pieces):
        spoiled = copy.deepcopy(good)
        edit(spoiled)
        good = spoiled.pack()
    text = f"{name.replace('-', ' ')}: a broken file is read, or refused for another reason"
    named = f"{clause.split()[0]} FMT-097 {shows}"
    area.add(name, "file.read", named, text, {"raw": raw_array(good)}, refused=clause)


AREAS = (broken,)
